"""Preflight's checks that run the model; each loads its own model and frees it.

They train one step on the longest batch with the stage's own trainer, and read the labels that it collates. They also
compute the rewards of a few sampled completions.
"""

from __future__ import annotations

import gc
import json
import math
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from gazal.answers.extract import extract
from gazal.common.peak import peak_bytes
from gazal.common.streams import Stream, generator
from gazal.items.prompts import build_messages
from gazal.items.schema import Item
from gazal.models.generation import generate, stop_ids
from gazal.models.loading import load_model
from gazal.recipe.recipe import Recipe
from gazal.rewards.trl import trl_reward_functions
from gazal.training.checks import ANSWERS, LABELS, LONGEST, REWARDS, Check
from gazal.training.grpo import grpo_trainer
from gazal.training.rollouts import encode_prompts
from gazal.training.sft import sft_dataset, sft_trainer

ONE_STEP: dict[str, Any] = {"max_steps": 1, "save_strategy": "no", "logging_strategy": "no"}


@contextmanager
def untouched() -> Iterator[None]:
    """Restore the random number generators (Python, NumPy, torch on every device) after the block, and free memory."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _skip(names: tuple[str, ...], why: str) -> list[Check]:
    return [Check(name, "skipped", why) for name in names]


def _why_not(recipe: Recipe, items: list[Any], run: bool) -> str | None:
    if not items:
        return "no data yet"
    if not run:
        return "no model is run here, or a check above failed"
    if recipe.launch.processes > 1:
        return f"launch.processes is {recipe.launch.processes}: one process does not hold what each of them will"
    return None


def probe_sft(
    recipe: Recipe, longest: list[tuple[int, Item]], tokenizer: PreTrainedTokenizerBase, run: bool = True
) -> list[Check]:
    """Check the labels of the longest batch, and train one step on it.

    ``longest`` holds the longest items that fit, each with its number of tokens.
    """
    if why := _why_not(recipe, longest, run):
        return _skip((LABELS, LONGEST), why)
    section, length = recipe.sft, longest[0][0]
    count = section.batch_size * (section.max_length // length if section.packing else 1)  # packed: full rows
    with untouched(), tempfile.TemporaryDirectory() as folder:
        dataset = sft_dataset([longest[i % len(longest)][1] for i in range(count)], recipe.model.system)
        trainer = sft_trainer(recipe, dataset, tokenizer, Path(folder), [], gradient_accumulation_steps=1, **ONE_STEP)
        rows = range(min(section.batch_size, len(trainer.train_dataset)))
        batch = trainer.data_collator([trainer.train_dataset[i] for i in rows])
        labels = _check_labels(batch, stop_ids(trainer.accelerator.unwrap_model(trainer.model), tokenizer), tokenizer)
        shape = " × ".join(map(str, batch["input_ids"].shape))  # packed: one row that holds all
        return [labels, _one_step(trainer, f"{shape} tokens", "sft.batch_size")]


def _check_labels(batch: dict[str, torch.Tensor], stops: list[int], tokenizer: PreTrainedTokenizerBase) -> Check:
    """Check that each sequence of a collated batch has its EOS among the labels, and that generation stops on it.

    A label of −100 is not trained.
    """
    labels, eos = batch["labels"], tokenizer.eos_token_id
    sequences = int((batch["position_ids"] == 0).sum()) if "position_ids" in batch else len(labels)
    trained, label = int((labels == eos).sum()), f"{tokenizer.eos_token} is a label in"
    if trained < sequences or eos not in stops:
        why = f"{label} {trained} of {sequences} sequences: the model would not learn to stop"
        return Check(LABELS, "fail", why)
    share = (labels != -100).float().mean().item()
    why = f"{label} each of {sequences} sequences; {share:.0%} of the batch's tokens are trained"
    return Check(LABELS, "pass", why)


def probe_grpo(
    recipe: Recipe,
    items: list[Item],
    longest: tuple[int, Item] | None,
    sft: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    run: bool = True,
) -> list[Check]:
    """Check the rewards of ``grpo.probe_prompts`` groups sampled from the SFT model, then train the longest batch.

    ``longest`` is the item of the longest prompt, with its tokens and ``max_completion_length`` added up.
    """
    if longest is None or (why := _why_not(recipe, items, run)):
        return _skip((REWARDS, ANSWERS, LONGEST), "no data yet" if longest is None else why)
    checks = _skip((REWARDS, ANSWERS), "grpo.probe_prompts is 0")
    if recipe.grpo.probe_prompts:
        with untouched():
            checks = _probe_rewards(recipe, items, sft, tokenizer)
    with untouched(), tempfile.TemporaryDirectory() as folder:
        return [*checks, _longest_grpo(recipe, *longest, Path(sft), tokenizer, Path(folder))]


def _probe_rewards(
    recipe: Recipe, items: list[Item], sft: str | Path, tokenizer: PreTrainedTokenizerBase
) -> list[Check]:
    section, group = recipe.grpo, recipe.grpo.num_generations
    count = min(section.probe_prompts, len(items))
    picked = generator(recipe.seed, Stream.PREFLIGHT).choice(len(items), count, replace=False)
    chosen = [items[i] for i in picked for _ in range(group)]
    ids = encode_prompts(tokenizer, [build_messages(item, recipe.model.system) for item in chosen])
    made = sorted(
        generate(
            load_model(sft, recipe.model.dtype),
            tokenizer,
            ids,
            max_new_tokens=section.max_completion_length,
            temperature=section.temperature,
            seed=recipe.seed,
        )
    )
    texts = tokenizer.batch_decode([done.ids for done in made], skip_special_tokens=True)  # as TRL does for rewards
    functions = trl_reward_functions(section.rewards, tokenizer.eos_token_id, recipe.model.prompt_opens_think)
    columns = {
        "completions": [[{"role": "assistant", "content": text}] for text in texts],
        "completion_ids": [done.ids for done in made],
        "options": [json.dumps(item.options) for item in chosen],
        "answer_idx": [item.answer_idx for item in chosen],
    }
    values = np.array([function(**columns) for function in functions])
    found = sum(
        extract(text, item.options, think_open=recipe.model.prompt_opens_think).letter is not None
        for text, item in zip(texts, chosen, strict=True)
    )
    rewards = np.tensordot(section.rewards.weights(), values, 1).reshape(-1, group)
    return judge_rewards(rewards, float(values[0].mean()), found)


def judge_rewards(rewards: np.ndarray, accuracy: float, found: int) -> list[Check]:
    """Check that rewards differ and that completions hold answers.

    ``rewards`` are weighted sums (groups × completions), ``accuracy`` is the share of right completions, and ``found``
    the number of completions with an answer. Equal rewards everywhere fail, and so do completions without any answer:
    GRPO would train nothing, or anything but accuracy. Rewards that differ only between groups are a warning, since
    the prompts are few.
    """
    spread, lowest = np.ptp(rewards, axis=1) > 1e-6, round(float(rewards.min()), 2) + 0.0
    earned = f"earn {lowest:.2f} to {rewards.max():.2f}, {accuracy:.0%} right"
    what, look = f"{rewards.size} completions of {len(rewards)} prompts {earned}", "or look at what the model writes"
    if np.ptp(rewards) <= 1e-6:
        why = f"all {rewards.size} rewards are {rewards.flat[0]:.2f}: no gradient; train SFT longer, {look}"
        differ = Check(REWARDS, "fail", why)
    elif not spread.any():
        advice = "no gradient from these; raise grpo.temperature or choose items by pass rate"
        differ = Check(REWARDS, "warn", f"{what}, equal within each group: {advice}")
    else:
        differ = Check(REWARDS, "pass", f"{what}; {spread.sum()} groups have advantages of both signs")
    if found:
        return [differ, Check(ANSWERS, "pass", f"an answer in {found} of {rewards.size} completions")]
    advice = f"accuracy gives no signal; train SFT longer, raise grpo.max_completion_length, {look}"
    return [differ, Check(ANSWERS, "fail", f"no answer in {rewards.size} completions: {advice}")]


def _longest_grpo(
    recipe: Recipe, length: int, longest: Item, sft: Path, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> Check:
    """Train one step on ``batch_size`` sequences of the longest prompt and ``max_completion_length`` made-up tokens."""
    section = recipe.grpo
    passes = section.num_generations // math.gcd(section.batch_size, section.num_generations)  # whole groups
    word = tokenizer("a", add_special_tokens=False)["input_ids"][0]

    def full_length(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        return {
            "prompt_ids": encode_prompts(tokenizer, prompts),
            "completion_ids": [[word] * section.max_completion_length for _ in prompts],
            "logprobs": None,
        }

    trainer = grpo_trainer(
        recipe,
        [longest] * (section.batch_size * passes // section.num_generations),
        sft,
        tokenizer,
        trl_reward_functions(section.rewards, tokenizer.eos_token_id),
        folder,
        [],
        full_length,
        gradient_accumulation_steps=passes,
        **ONE_STEP,
    )
    return _one_step(trainer, f"{section.batch_size} × {length} tokens", "grpo.batch_size")


def _one_step(trainer: Any, shape: str, key: str) -> Check:
    """Train one step and return its seconds and peak memory: the device's, or the process's since it began."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    try:
        trainer.train()
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and "allocate memory" not in str(error):
            raise
        why = f"{shape} do not fit in memory: lower {key}, or set gradient_checkpointing"
        return Check(LONGEST, "fail", why)
    peak = torch.cuda.max_memory_allocated() if cuda else peak_bytes()
    memory = f"the {'device' if cuda else 'process'}'s peak is {peak / 2**30:.2f} GiB"
    return Check(LONGEST, "pass", f"{shape} took {time.perf_counter() - began:.1f} s forward and back; {memory}")
