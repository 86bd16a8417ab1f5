"""Stage 1: supervised fine-tuning of a new adapter on completions (TRL's SFTTrainer, PEFT)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from datasets import Dataset
from transformers import PreTrainedTokenizerBase, PrinterCallback, TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer

from gazal.errors import GazalError
from gazal.items import Item
from gazal.models import base_path, load_model, load_tokenizer, lora_config
from gazal.prompts import build_messages, completion_text
from gazal.recipe import Recipe
from gazal.training.arguments import training_arguments
from gazal.training.checkpoints import WholeCheckpoints
from gazal.training.log import MetricsLog
from gazal.training.stage import PARITY_PROMPTS, train_stage


def sft_dataset(items: list[Item], system: str) -> Dataset:
    """Columns ``prompt`` (chat messages) and ``completion`` (one assistant message): loss on the latter only."""
    rows = []
    for row, item in enumerate(items, 1):
        if not item.reasoning:
            raise GazalError(f"sft.parquet: row {row}: reasoning: missing, SFT needs a trace")
        rows.append({"prompt": build_messages(item, system), "completion": [{"role": "assistant", "content": completion_text(item, item.reasoning)}]})
    return Dataset.from_list(rows)


def train_sft(recipe: Recipe, items: list[Item], folder: Path, callbacks: list[TrainerCallback] | None = None, say: Callable[[str], None] = print) -> dict[str, float]:
    """Train ``folder/adapter`` from the base, merge it into ``folder/merged``, log to ``folder/metrics.jsonl``.

    Returns the last logged values. Raises GazalError when every example is longer than ``sft.max_length``
    or when training left the adapter as it was.
    """
    section = recipe.sft
    set_seed(recipe.seed)
    base = base_path(recipe.model)
    tokenizer = load_tokenizer(base, recipe.model.revision)
    dataset = _whole_examples(sft_dataset(items, recipe.model.system), tokenizer, section.max_length, say)
    log = MetricsLog(folder / "metrics.jsonl", ("loss", "mean_token_accuracy"), say)
    trainer = _Trainer(
        model=load_model(base, recipe.model.dtype, recipe.model.revision).train(),
        args=SFTConfig(
            num_train_epochs=section.epochs, gradient_accumulation_steps=section.gradient_accumulation, max_length=section.max_length,
            completion_only_loss=True, eos_token=tokenizer.eos_token, pad_token=tokenizer.pad_token,
            **training_arguments(section, recipe.seed, folder),
        ),
        train_dataset=dataset, processing_class=tokenizer, peft_config=lora_config(section.adapter), callbacks=[log, *(callbacks or [])],
    )
    trainer.remove_callback(PrinterCallback)
    base_name = Path(recipe.model.base).name if Path(base).exists() else base
    prompts = [build_messages(item, recipe.model.system) for item in items[:PARITY_PROMPTS]]
    return train_stage("sft", trainer, recipe, base, base_name, tokenizer, folder, prompts, say)


class _Trainer(WholeCheckpoints, SFTTrainer):
    """TRL's trainer with whole checkpoints, its count of tokens among them."""

    @property
    def extra(self):
        return {"tokens": (lambda: self._total_train_tokens, lambda value: setattr(self, "_total_train_tokens", value))}


def _whole_examples(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, limit: int, say: Callable[[str], None]) -> Dataset:
    """The examples of at most ``limit`` tokens: a truncated one would lose its EOS, so longer ones are set aside, aloud."""
    texts = tokenizer.apply_chat_template([e["prompt"] + e["completion"] for e in dataset], tokenize=True, return_dict=True)["input_ids"]
    kept = [row for row, ids in enumerate(texts) if len(ids) <= limit]
    if not kept:
        raise GazalError(f"sft.max_length: all {len(texts)} examples are longer than {limit} tokens")
    if len(kept) < len(texts):
        say(f"{len(texts) - len(kept)} of {len(texts)} examples are longer than sft.max_length {limit} tokens and set aside")
    return dataset.select(kept)
