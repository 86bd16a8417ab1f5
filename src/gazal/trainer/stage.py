"""What both stages do with a trainer: train, check that only the adapter changed, save, merge, check the merge."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xxhash
from transformers import PreTrainedTokenizerBase

from gazal.common.errors import GazalError
from gazal.items.prompts import build_messages
from gazal.items.schema import Item
from gazal.models.loading import save_adapter
from gazal.recipe.recipe import Recipe
from gazal.trainer.processes import on_main, trainable_state
from gazal.trainer.proof import merge, parity, split_hashes

PARITY_PROMPTS = 64


def train_stage(
    stage: str,
    trainer: Any,
    recipe: Recipe,
    base: str | Path,
    base_name: str,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    items: list[Item],
    say: Callable[[str], None] = print,
) -> dict[str, float]:
    """Train on ``items`` to the end, from the newest whole checkpoint; return the last logged values.

    Then writes ``folder/adapter``, ``folder/merged`` and ``folder/parity.json``. The checkpoints stay: the caller
    removes them when all is written. Raises GazalError if training changed the frozen base or left the adapter as it
    was. The same if the merged model's logits on the first items' prompts are not those of base + adapter.
    """
    policy = trainer.accelerator.unwrap_model(trainer.model)
    frozen, adapter = split_hashes(policy)
    trainer.made_from = _made_from(recipe, stage, items, frozen)
    trainer.train_from_newest(say)
    frozen_after, adapter_after = split_hashes(policy)
    if frozen_after != frozen:
        raise GazalError(f"{stage}: training changed the frozen base")
    if adapter_after == adapter:
        raise GazalError(f"{stage}: training left the adapter as it was")
    state = trainable_state(policy)

    def write() -> dict[str, float]:
        save_adapter(policy, tokenizer, base_name, folder / "adapter", state)
        revision = recipe.model.revision if stage == "sft" else None
        prompts = [build_messages(item, recipe.model.system) for item in items[:PARITY_PROMPTS]]
        before, after = merge(base, folder / "adapter", folder / "merged", prompts, recipe.model.dtype, revision)
        parity(before, after, folder / "merged", prompts, folder / "parity.json", recipe.model.dtype, say)
        return json.loads((folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])

    return on_main(write)


def _made_from(recipe: Recipe, stage: str, items: list[Item], frozen: str) -> str:
    """Return XXH3 of seed, settings, the frozen weights' hash and the training items.

    Training can continue from a checkpoint with the same value.
    """
    settings = [section.model_dump(mode="json") for section in (recipe.model, getattr(recipe, stage))]
    digest = xxhash.xxh3_128(json.dumps([recipe.seed, *settings, frozen]).encode())
    for item in items:
        digest.update(item.model_dump_json().encode())
    return digest.hexdigest()
