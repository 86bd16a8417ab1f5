"""Checks around training: which weights changed, and whether merged weights give the logits of base + adapter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gazal.common.errors import GazalError
from gazal.common.files import atomic_folder, write_json
from gazal.items.prompts import encode_chats
from gazal.models.loading import load_model, load_tokenizer, to_roomy_device
from gazal.models.tensors import tensor_hash

PARITY = 1e-5  # largest fp32 difference of logits, relative to the largest logit
POSITIONS = 16  # the last positions of each prompt: their context holds all earlier ones
Chats, Logits = list[list[dict[str, str]]], list[torch.Tensor]


def split_hashes(model: torch.nn.Module) -> tuple[str, str]:
    """Return the hashes of the frozen and of the trainable parameters."""
    named = list(model.named_parameters())
    return tensor_hash((n, p) for n, p in named if not p.requires_grad), tensor_hash(
        (n, p) for n, p in named if p.requires_grad
    )


def last_logits(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Chats) -> Logits:
    """Return the logits of each chat prompt's last positions: up to 16 × vocabulary, fp32, on the CPU.

    The model runs on one prompt at a time, without padding.
    """
    with torch.no_grad():
        return [
            model(input_ids=torch.tensor([ids], device=model.device)).logits[0, -POSITIONS:].float().cpu()
            for ids in encode_chats(tokenizer, prompts, opening=True)
        ]


def largest_error(expected: Logits, found: Logits) -> float:
    """Return the largest absolute difference divided by the largest absolute expected logit, over all prompts."""
    difference = max((a - b).abs().max().item() for a, b in zip(expected, found, strict=True))
    return difference / max(a.abs().max().item() for a in expected)


def merge(
    base: str | Path, adapter: Path, out: Path, prompts: Chats, dtype: str = "float32", revision: str | None = None
) -> tuple[Logits, Logits]:
    """Merge ``adapter`` into the pristine ``base``, once, in fp32, and write it to ``out`` whole or not at all.

    The written weights are cast to ``dtype``; the adapter's tokenizer is written with them. Returns the logits of
    ``prompts`` before the merge (base + adapter) and after it, both in fp32.
    """
    tokenizer = load_tokenizer(adapter)
    pristine = to_roomy_device(load_model(base, "float32", revision, "cpu"))
    policy = PeftModel.from_pretrained(pristine, str(adapter)).eval()
    before = last_logits(policy, tokenizer, prompts)
    model = policy.merge_and_unload(safe_merge=True)
    after = last_logits(model, tokenizer, prompts)
    with atomic_folder(out) as temporary:
        model.to(getattr(torch, dtype)).save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
    return before, after


def parity(
    before: Logits,
    after: Logits,
    merged: Path,
    prompts: Chats,
    out: Path,
    dtype: str = "float32",
    say: Callable[[str], None] = print,
) -> None:
    """Compare the logits that :func:`merge` returned with those of the model that it wrote to ``merged``.

    Writes the largest errors, in fp32 and in bf16, to ``out``. Raises GazalError if a logit in fp32 differs by more
    than 1e-5, relative to the largest.
    """
    tokenizer = load_tokenizer(merged)
    loaded = to_roomy_device(load_model(merged, dtype, device="cpu"))
    errors = {"float32": largest_error(before, after)}
    if dtype == "float32":
        errors["float32"] = max(errors["float32"], largest_error(before, last_logits(loaded, tokenizer, prompts)))
    errors["bfloat16"] = largest_error(before, last_logits(loaded.to(torch.bfloat16), tokenizer, prompts))
    write_json(out, {"prompts": len(prompts), "positions": POSITIONS, "largest_relative_error": errors})
    shown = ", ".join(f"{name} {value:.1e}" for name, value in errors.items())
    say(f"merge parity on {len(prompts)} prompts: {shown}")
    if errors["float32"] > PARITY:
        raise GazalError(
            f"{merged}: its logits differ from base + adapter by {errors['float32']:.1e}, more than {PARITY:.0e}"
        )
