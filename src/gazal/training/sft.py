"""Stage 1: supervised fine-tuning of a new adapter on completions (TRL's SFTTrainer, PEFT)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase, PrinterCallback, TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer

from gazal.common.errors import GazalError
from gazal.items.prompts import build_messages, completion_text, encode_chats
from gazal.items.schema import Item
from gazal.models.loading import base_path, load_tokenizer
from gazal.recipe.recipe import Recipe
from gazal.trainer.arguments import choose_optimizer, training_arguments
from gazal.trainer.backend import load_trainable, require_options
from gazal.trainer.checkpoints import WholeCheckpoints
from gazal.trainer.health import Health
from gazal.trainer.metrics import MetricsLog
from gazal.trainer.processes import ManyProcesses
from gazal.trainer.stage import train_stage
from gazal.trainer.throughput import Throughput

SAMPLING = {"random": "random", "grouped": "group_by_length"}  # transformers' names


def sft_dataset(items: list[Item], system: str) -> Dataset:
    """Return columns ``prompt`` (chat messages) and ``completion`` (one assistant message): the loss is on the latter.

    Raises GazalError for an item without reasoning.
    """
    rows = []
    for row, item in enumerate(items, 1):
        if not item.reasoning:
            raise GazalError(f"sft.parquet: row {row}: reasoning: missing, SFT needs a trace")
        rows.append(
            {
                "prompt": build_messages(item, system),
                "completion": [{"role": "assistant", "content": completion_text(item, item.reasoning)}],
            }
        )
    return Dataset.from_list(rows)


def train_sft(
    recipe: Recipe,
    items: list[Item],
    folder: Path,
    callbacks: list[TrainerCallback] | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, float]:
    """Train ``folder/adapter`` from the base, merge it into ``folder/merged``, log to ``folder/metrics.jsonl``.

    Returns the last logged values. Raises GazalError if every example is longer than ``sft.max_length``, and as
    :func:`gazal.trainer.stage.train_stage` does.
    """
    section = recipe.sft
    require_options(recipe, "sft")
    set_seed(recipe.seed)
    base = base_path(recipe.model)
    tokenizer = load_tokenizer(base, recipe.model.revision, to_train=True)
    dataset = _whole_examples(sft_dataset(items, recipe.model.system), tokenizer, section.max_length, say)
    log = MetricsLog(folder / "metrics.jsonl", ("loss", "mean_token_accuracy"), say)
    trainer = sft_trainer(recipe, dataset, tokenizer, folder, [log, Health(section.health, "sft"), *(callbacks or [])])
    base_name = Path(recipe.model.base).name if Path(base).exists() else base
    return train_stage("sft", trainer, recipe, base, base_name, tokenizer, folder, items, say)


def sft_trainer(
    recipe: Recipe,
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    callbacks: list[TrainerCallback],
    **changes: Any,
) -> SFTTrainer:
    """Return the recipe's trainer of a new adapter on the base; ``changes`` replace arguments (for preflight)."""
    section = recipe.sft
    model, adapter = load_trainable(recipe, "sft", base_path(recipe.model), recipe.model.revision, section.max_length)
    trainer = _Trainer(
        model=model,
        args=SFTConfig(
            **{
                "num_train_epochs": section.epochs,
                "max_length": section.max_length,
                "packing": section.packing,
                "train_sampling_strategy": SAMPLING[section.sampling],
                "loss_type": "chunked_nll" if section.logits == "chunked" else "nll",
                "use_liger_kernel": section.logits == "liger",
                "completion_only_loss": True,
                "eos_token": tokenizer.eos_token,
                "pad_token": tokenizer.pad_token,
                **training_arguments(section, recipe.seed, folder),
                **changes,
            }
        ),
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=adapter,
        callbacks=callbacks,
    )
    choose_optimizer(trainer, section)
    trainer.remove_callback(PrinterCallback)
    return trainer


class _Trainer(WholeCheckpoints, ManyProcesses, Throughput, SFTTrainer):
    """TRL's trainer with whole checkpoints, its count of tokens among them."""

    @property
    def extra(self):
        return {"tokens": (lambda: self._total_train_tokens, lambda value: setattr(self, "_total_train_tokens", value))}


def _whole_examples(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, limit: int, say: Callable[[str], None]
) -> Dataset:
    """Return the examples of at most ``limit`` tokens, and say how many are longer.

    Longer ones are left out, since a truncated example would lose its EOS.
    """
    texts = encode_chats(tokenizer, [e["prompt"] + e["completion"] for e in dataset])
    kept = [row for row, ids in enumerate(texts) if len(ids) <= limit]
    if not kept:
        raise GazalError(f"sft.max_length: all {len(texts)} examples are longer than {limit} tokens")
    if len(kept) < len(texts):
        longer = f"{len(texts) - len(kept)} of {len(texts)} examples"
        say(f"{longer} are longer than sft.max_length {limit} tokens and set aside")
    return dataset.select(kept)
