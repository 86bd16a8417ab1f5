"""What both stages do with a trainer: train, prove that the adapter and nothing else was trained, save, merge, prove the merge."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from gazal.errors import GazalError
from gazal.models import save_adapter, save_merged
from gazal.recipe import Recipe
from gazal.training.exact import parity, split_hashes

PARITY_PROMPTS = 64


def train_stage(
    stage: str, trainer: Any, recipe: Recipe, base: str | Path, base_name: str, tokenizer: PreTrainedTokenizerBase,
    folder: Path, prompts: list[list[dict[str, str]]], say: Callable[[str], None] = print,
) -> dict[str, float]:
    """Train to the end (from the newest whole checkpoint), then write ``folder/adapter``, ``folder/merged`` and ``folder/parity.json``.

    Raises GazalError when training changed the frozen base, when it left the adapter as it was, or when
    the merged model's logits on ``prompts`` are not those of base + adapter.
    """
    policy = trainer.accelerator.unwrap_model(trainer.model)
    frozen, adapter = split_hashes(policy)
    trainer.train_from_newest(say)
    frozen_after, adapter_after = split_hashes(policy)
    if frozen_after != frozen:
        raise GazalError(f"{stage}: training changed the frozen base")
    if adapter_after == adapter:
        raise GazalError(f"{stage}: training left the adapter as it was")
    save_adapter(policy, tokenizer, base_name, folder / "adapter")
    revision = recipe.model.revision if stage == "sft" else None
    save_merged(base, folder / "adapter", folder / "merged", recipe.model.dtype, revision)
    parity(base, folder / "adapter", folder / "merged", prompts, folder / "parity.json", recipe.model.dtype, revision)
    shutil.rmtree(trainer.args.output_dir, ignore_errors=True)
    return json.loads((folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
