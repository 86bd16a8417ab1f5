"""Rollouts from merged weights, and the pass rates that choose which items GRPO sees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gazal.answers import extract
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


def pass_rates(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, items: list[Item], system: str, section: GRPOSection,
    seed: int, think_open: bool = False, batch_tokens: int = 65_536, say: Callable[[str], None] = print,
) -> dict[str, float]:
    """Share of ``pass_rate_samples`` sampled completions per item whose extracted letter is the key."""
    samples = section.pass_rate_samples
    ids = encode_prompts(tokenizer, [build_messages(item, system) for item in items])
    repeated = [prompt for prompt in ids for _ in range(samples)]
    right = [0] * len(items)
    with torch.no_grad():
        for done, (index, tokens, _) in enumerate(
            generate(model, tokenizer, repeated, max_new_tokens=section.max_completion_length, temperature=section.temperature,
                     top_p=1.0, top_k=0, seed=seed, batch_tokens=batch_tokens), 1
        ):
            item = items[index // samples]
            text = tokenizer.decode(tokens, skip_special_tokens=True)
            right[index // samples] += extract(text, item.options, think_open=think_open).letter == item.answer_idx
            if done % 2000 == 0:
                say(f"pass rates: {done}/{len(repeated)} completions")
    return {item.id: count / samples for item, count in zip(items, right, strict=True)}
