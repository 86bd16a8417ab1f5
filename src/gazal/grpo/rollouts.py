"""Rollouts from merged weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gazal.generation import generate
from gazal.items import Item
from gazal.models import load_model, load_tokenizer, merged_copy
from gazal.prompts import build_messages
from gazal.recipe import Recipe
from gazal.recipe_train import GRPOSection


def encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: list[list[dict[str, str]]]) -> list[list[int]]:
    """Token ids of chat prompts, up to and with the assistant's opening."""
    return tokenizer.apply_chat_template(prompts, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"]


def sample_texts(model: str | Path, items: list[Item], recipe: Recipe) -> list[str]:
    """Greedy completions of a few items by a saved model, as text, for reading."""
    tokenizer = load_tokenizer(model)
    ids = encode_prompts(tokenizer, [build_messages(item, recipe.model.system) for item in items])
    made = generate(load_model(model, recipe.model.dtype), tokenizer, ids, max_new_tokens=recipe.evaluation.max_new_tokens)
    return [tokenizer.decode(done.ids, skip_special_tokens=True) for done in sorted(made)]


class MergedRollouts:
    """TRL ``rollout_func``: generates from a fresh merged copy of base + adapter instead of through the
    adapter (2.6 times faster with DoRA). The copy is made anew from the pristine base each call."""

    def __init__(self, section: GRPOSection, seed: int) -> None:
        self.section, self.seed = section, seed

    def __call__(self, prompts: list[Any], trainer: Any) -> dict[str, Any]:
        model = merged_copy(trainer.accelerator.unwrap_model(trainer.model))
        ids = encode_prompts(trainer.processing_class, prompts)
        completions: list[list[int]] = [[] for _ in ids]
        for index, tokens, _ in generate(
            model, trainer.processing_class, ids, max_new_tokens=self.section.max_completion_length,
            temperature=self.section.temperature, top_p=1.0, top_k=0, seed=self.seed * 100_003 + trainer.state.global_step + 1,
            batch_tokens=len(ids) * 4096,
        ):
            completions[index] = tokens
        return {"prompt_ids": ids, "completion_ids": completions, "logprobs": None}
