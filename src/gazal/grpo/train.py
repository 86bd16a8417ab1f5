"""Stage 2: GRPO of a new adapter on the merged SFT model with four rewards (TRL's GRPOTrainer)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback, set_seed
from trl import GRPOConfig, GRPOTrainer

from gazal.errors import GazalError
from gazal.files import atomic_write, write_json
from gazal.grpo.rollouts import MergedRollouts, pass_rates
from gazal.items import Item
from gazal.models import load_model, load_tokenizer, lora_config
from gazal.prompts import build_messages
from gazal.recipe import Recipe
from gazal.rewards import COMPONENTS, trl_reward_functions
from gazal.training.arguments import training_arguments
from gazal.training.checkpoints import WholeCheckpoints
from gazal.training.log import MetricsLog
from gazal.training.stage import PARITY_PROMPTS, train_stage

SHOWN = ("reward", *(f"rewards/{name}/mean" for name in COMPONENTS[:2]), "completions/mean_length", "frac_reward_zero_std", "entropy")


def grpo_dataset(items: list[Item], system: str) -> Dataset:
    """Columns ``prompt`` (chat messages), ``options`` (JSON object), ``answer_idx``, ``item_id``."""
    return Dataset.from_list([
        {"prompt": build_messages(item, system), "options": json.dumps(item.options), "answer_idx": item.answer_idx, "item_id": item.id}
        for item in items
    ])


class CompletionLog:
    """Wraps the reward functions and keeps the first ``keep`` completions of each step with their rewards."""

    def __init__(self, functions: list[Callable[..., list[float]]], keep: int, group: int) -> None:
        self.keep, self.group, self.rows = keep, group, []
        self.functions = [self._wrap(function, name, i) for i, (function, name) in enumerate(zip(functions, COMPONENTS, strict=True))]

    def _wrap(self, function: Callable[..., list[float]], name: str, position: int) -> Callable[..., list[float]]:
        def reward(completions: list[Any], item_id: list[str], trainer_state: Any, **columns: Any) -> list[float]:
            values = function(completions=completions, item_id=item_id, trainer_state=trainer_state, **columns)
            chosen = range(0, len(values), self.group)[: self.keep]  # one of each group, not eight of one
            if position == 0:
                self.rows += [{"step": trainer_state.global_step + 1, "item_id": item_id[i], "completion": completions[i][0]["content"]} for i in chosen]
            for row, i in zip(self.rows[len(self.rows) - len(chosen):], chosen, strict=True):
                row[name] = float(values[i])
            return values

        reward.__name__ = name
        return reward

    def save(self, path: Path) -> None:
        """Write the kept completions as Parquet: step, item_id, completion and one column a component."""
        with atomic_write(path, "wb") as handle:
            pq.write_table(pa.Table.from_pylist(self.rows), handle)


def choose_items(recipe: Recipe, items: list[Item], sft: Path, folder: Path, say: Callable[[str], None] = print) -> list[Item]:
    """Items whose pass rate under the SFT model lies inside the recipe's bounds, in seeded order.

    Writes ``folder/pass_rates.json``. Raises GazalError when too few are left for one step.
    """
    section = recipe.grpo
    if section.pass_rate_samples:
        rates = pass_rates(load_model(sft, recipe.model.dtype), load_tokenizer(sft), items, recipe.model.system, section, recipe.seed, recipe.model.prompt_opens_think, say=say)
        write_json(folder / "pass_rates.json", rates)
        kept = [item for item in items if section.pass_rate_low <= rates[item.id] <= section.pass_rate_high]
        say(f"pass rates: mean {np.mean(list(rates.values())):.3f}; {len(kept)} of {len(items)} items between {section.pass_rate_low} and {section.pass_rate_high}")
    else:
        kept = list(items)
    if len(kept) < section.prompts_per_step:
        raise GazalError(f"grpo: {len(kept)} items left by the pass-rate filter, fewer than grpo.prompts_per_step {section.prompts_per_step}")
    return [kept[i] for i in np.random.default_rng([recipe.seed, 4]).permutation(len(kept))]


def train_grpo(recipe: Recipe, items: list[Item], sft: Path, folder: Path, callbacks: list[TrainerCallback] | None = None, say: Callable[[str], None] = print) -> dict[str, float]:
    """Train ``folder/adapter`` from the merged SFT model ``sft``; write ``merged``, ``metrics.jsonl`` and
    ``completions.parquet``. Returns the last logged values."""
    section = recipe.grpo
    chosen = choose_items(recipe, items, sft, folder, say)
    set_seed(recipe.seed)
    tokenizer = load_tokenizer(sft)
    functions = trl_reward_functions(section.rewards, eos_token_id=tokenizer.eos_token_id, think_open=recipe.model.prompt_opens_think)
    completions = CompletionLog(functions, section.log_completions, section.num_generations)
    log = MetricsLog(folder / "metrics.jsonl", SHOWN, say)
    per_step = section.prompts_per_step * section.num_generations
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # rollout_func is experimental: its contract is tested here
    trainer = _Trainer(
        model=load_model(sft, recipe.model.dtype).train(),
        args=GRPOConfig(
            max_steps=section.steps, gradient_accumulation_steps=per_step // section.batch_size,
            num_generations=section.num_generations, max_completion_length=section.max_completion_length, temperature=section.temperature,
            loss_type=section.loss_type, beta=section.beta, epsilon=section.epsilon, epsilon_high=section.epsilon_high,
            scale_rewards=section.scale_rewards, reward_weights=list(section.rewards.weights()), shuffle_dataset=False,
            **training_arguments(section, recipe.seed, folder),
        ),
        train_dataset=grpo_dataset(chosen, recipe.model.system), processing_class=tokenizer, reward_funcs=completions.functions,
        peft_config=lora_config(section.adapter), callbacks=[log, *(callbacks or [])],
        rollout_func=MergedRollouts(section, recipe.seed) if section.rollouts == "merged" else None,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.extra = {"completions": (lambda: completions.rows, completions.rows.extend)}
    prompts = [build_messages(item, recipe.model.system) for item in items[:PARITY_PROMPTS]]
    last = train_stage("grpo", trainer, recipe, sft, "sft/merged", tokenizer, folder, prompts, say)
    completions.save(folder / "completions.parquet")
    return last


class _Trainer(WholeCheckpoints, GRPOTrainer):
    """TRL's trainer with whole checkpoints."""
