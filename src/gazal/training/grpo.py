"""Stage 2: GRPO of a new adapter on the merged SFT model with four rewards (TRL's GRPOTrainer)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, PrinterCallback, TrainerCallback, set_seed
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.grpo_trainer import RolloutFunc

from gazal.common.files import atomic_write
from gazal.items.prompts import build_messages
from gazal.items.schema import Item
from gazal.models.loading import load_tokenizer
from gazal.recipe.recipe import Recipe
from gazal.recipe.rewards import COMPONENTS
from gazal.rewards.trl import trl_reward_functions
from gazal.trainer.arguments import choose_optimizer, training_arguments
from gazal.trainer.backend import load_trainable, require_options
from gazal.trainer.checkpoints import WholeCheckpoints
from gazal.trainer.health import Health
from gazal.trainer.metrics import MetricsLog
from gazal.trainer.processes import ManyProcesses, on_main
from gazal.trainer.stage import train_stage
from gazal.trainer.throughput import Throughput
from gazal.training.difficulty import choose_items
from gazal.training.rollouts import MergedRollouts

SHOWN = (
    "reward",
    *(f"rewards/{name}/mean" for name in COMPONENTS[:2]),
    "completions/mean_length",
    "frac_reward_zero_std",
    "entropy",
)
AGGREGATION = {"sum": "sum_then_normalize", "gdpo": "normalize_then_sum"}  # TRL's names


def grpo_dataset(items: list[Item], system: str) -> Dataset:
    """Return columns ``prompt`` (chat messages), ``options`` (JSON object), ``answer_idx`` and ``item_id``."""
    return Dataset.from_list(
        [
            {
                "prompt": build_messages(item, system),
                "options": json.dumps(item.options),
                "answer_idx": item.answer_idx,
                "item_id": item.id,
            }
            for item in items
        ]
    )


class CompletionLog:
    """A wrapper of the reward functions that keeps up to ``keep`` completions of each step with their rewards.

    It also logs the share of groups to which accuracy alone gives no signal.
    """

    def __init__(self, functions: list[Callable[..., list[float]]], keep: int, group: int) -> None:
        self.keep, self.group, self.rows = keep, group, []
        self.functions = [
            self._wrap(function, name, i) for i, (function, name) in enumerate(zip(functions, COMPONENTS, strict=True))
        ]

    def _wrap(self, function: Callable[..., list[float]], name: str, position: int) -> Callable[..., list[float]]:
        def reward(
            completions: list[Any],
            item_id: list[str],
            trainer_state: Any,
            log_metric: Callable[[str, float], None],
            **columns: Any,
        ) -> list[float]:
            values = function(completions=completions, item_id=item_id, trainer_state=trainer_state, **columns)
            starts = range(0, len(values), self.group)
            chosen = starts[: self.keep]  # one of each group, not eight of one
            if name == "accuracy":
                silent = sum(len(set(values[i : i + self.group])) == 1 for i in starts)
                log_metric("zero_signal/accuracy", silent / len(starts))
            if position == 0:
                step = trainer_state.global_step + 1
                self.rows += [
                    {"step": step, "item_id": item_id[i], "completion": completions[i][0]["content"]} for i in chosen
                ]
            for row, i in zip(self.rows[len(self.rows) - len(chosen) :], chosen, strict=True):
                row[name] = float(values[i])
            return values

        reward.__name__ = name
        return reward

    def save(self, path: Path) -> None:
        """Write the kept completions as Parquet: step, item_id, completion and one column a component."""
        with atomic_write(path, "wb") as handle:
            pq.write_table(pa.Table.from_pylist(self.rows), handle)


def train_grpo(
    recipe: Recipe,
    items: list[Item],
    sft: Path,
    folder: Path,
    callbacks: list[TrainerCallback] | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, float]:
    """Train ``folder/adapter`` from the merged SFT model ``sft``; return the last logged values.

    Also writes ``merged``, ``metrics.jsonl`` and ``completions.parquet`` into ``folder``.
    """
    section = recipe.grpo
    require_options(recipe, "grpo")
    chosen = on_main(lambda: choose_items(recipe, items, sft, folder, say))
    set_seed(recipe.seed)
    tokenizer = load_tokenizer(sft, to_train=True)
    functions = trl_reward_functions(
        section.rewards, eos_token_id=tokenizer.eos_token_id, think_open=recipe.model.prompt_opens_think
    )
    completions = CompletionLog(functions, section.log_completions, section.num_generations)
    log = MetricsLog(folder / "metrics.jsonl", SHOWN, say)
    callbacks = [log, Health(section.health, "grpo"), *(callbacks or [])]
    trainer = grpo_trainer(recipe, chosen, sft, tokenizer, completions.functions, folder, callbacks)
    trainer.extra = {"completions": (lambda: completions.rows, completions.rows.extend)}
    last = train_stage("grpo", trainer, recipe, sft, "sft/merged", tokenizer, folder, chosen, say)
    on_main(lambda: completions.save(folder / "completions.parquet"))
    return last


def grpo_trainer(
    recipe: Recipe,
    items: list[Item],
    sft: Path,
    tokenizer: PreTrainedTokenizerBase,
    functions: list[Callable[..., list[float]]],
    folder: Path,
    callbacks: list[TrainerCallback],
    rollout: RolloutFunc | None = None,
    **changes: Any,
) -> GRPOTrainer:
    """Return the recipe's trainer of a new adapter on the merged SFT model.

    ``rollout`` replaces how it samples, and ``changes`` replace its arguments (for preflight's one step).
    """
    section = recipe.grpo
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # rollout_func is experimental: its contract is tested here
    model, adapter = load_trainable(recipe, "grpo", sft, None, recipe.model_limit)
    trainer = _Trainer(
        model=model,
        args=GRPOConfig(
            **{
                "max_steps": section.steps,
                "num_generations": section.num_generations,
                "max_completion_length": section.max_completion_length,
                "temperature": section.temperature,
                "loss_type": section.loss_type,
                "beta": section.beta,
                "epsilon": section.epsilon,
                "epsilon_high": section.epsilon_high,
                "scale_rewards": section.scale_rewards,
                "multi_objective_aggregation": AGGREGATION[section.aggregation],
                "reward_weights": list(section.rewards.weights()),
                "use_liger_kernel": section.logits == "liger",
                "shuffle_dataset": False,
                **training_arguments(section, recipe.seed, folder),
                **changes,
            }
        ),
        train_dataset=grpo_dataset(items, recipe.model.system),
        processing_class=tokenizer,
        reward_funcs=functions,
        peft_config=adapter,
        callbacks=callbacks,
        rollout_func=rollout or (MergedRollouts(section, recipe.seed) if section.rollouts == "merged" else None),
    )
    choose_optimizer(trainer, section)
    trainer.remove_callback(PrinterCallback)
    return trainer


class _Trainer(WholeCheckpoints, ManyProcesses, Throughput, GRPOTrainer):
    """TRL's trainer with whole checkpoints."""
