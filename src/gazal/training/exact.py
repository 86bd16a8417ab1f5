"""Proofs around training: which weights moved, and that merged weights answer as base + adapter do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import xxhash
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gazal.errors import GazalError
from gazal.files import write_json
from gazal.models import load_model, load_tokenizer

PARITY = 1e-5  # largest fp32 difference of logits, relative to the largest logit


def tensor_hash(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """XXH3 of names, dtypes, shapes and bytes, in the order of names."""
    digest = xxhash.xxh3_128()
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        local = tensor.to_local() if hasattr(tensor, "to_local") else tensor  # a shard, where FSDP holds one
        digest.update(f"{name} {local.dtype} {tuple(local.shape)}".encode())
        digest.update(local.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def split_hashes(model: torch.nn.Module) -> tuple[str, str]:
    """Hashes of the frozen and of the trainable parameters."""
    named = list(model.named_parameters())
    return tensor_hash((n, p) for n, p in named if not p.requires_grad), tensor_hash((n, p) for n, p in named if p.requires_grad)


def last_logits(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[dict[str, str]]]) -> list[torch.Tensor]:
    """Logits (tokens × vocabulary, fp32) of each chat prompt, one at a time and without padding."""
    texts = tokenizer.apply_chat_template(prompts, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"]
    with torch.no_grad():
        return [model(input_ids=torch.tensor([ids], device=model.device)).logits[0].float().cpu() for ids in texts]


def largest_error(expected: list[torch.Tensor], found: list[torch.Tensor]) -> float:
    """Largest absolute difference over the largest absolute logit, over all prompts."""
    return max((a - b).abs().max().item() for a, b in zip(expected, found, strict=True)) / max(a.abs().max().item() for a in expected)


def parity(
    base: str | Path, adapter: Path, merged: Path, prompts: list[list[dict[str, str]]], out: Path, dtype: str = "float32",
    revision: str | None = None, say: Callable[[str], None] = print,
) -> None:
    """Compare logits of base + adapter with those of ``merged`` from disk, fp32 and bf16, and write ``out``.

    Raises GazalError when merged weights kept in fp32 differ by more than 1e-5 (relative to the largest logit).
    """
    tokenizer = load_tokenizer(adapter)
    policy = PeftModel.from_pretrained(load_model(base, "float32", revision), str(adapter)).eval()
    expected = last_logits(policy, tokenizer, prompts)
    del policy
    loaded = load_model(merged, dtype)
    errors = {dtype: largest_error(expected, last_logits(loaded, tokenizer, prompts))}
    if dtype == "float32":
        errors["bfloat16"] = largest_error(expected, last_logits(loaded.to(torch.bfloat16), tokenizer, prompts))
    write_json(out, {"prompts": len(prompts), "largest_relative_error": errors})
    say(f"merge parity on {len(prompts)} prompts: " + ", ".join(f"{name} {value:.1e}" for name, value in errors.items()))
    if errors.get("float32", 0.0) > PARITY:
        raise GazalError(f"{merged}: its logits differ from base + adapter by {errors['float32']:.1e}, more than {PARITY:.0e}")
