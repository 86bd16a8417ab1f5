"""Tokens, FLOPs and hours of each stage.

Training: the FLOPs that a pass really executes (traced: recomputation and DoRA's norms included) over peak FLOP/s × utilisation.
Generation, a step of one token for each row: the longer of ``bytes / bandwidth`` (all weights, and the cache as it is half-way) and
``FLOPs / (peak × utilisation)``; prompts cost FLOPs alone. Through an unmerged DoRA adapter every step reads and writes each adapted
weight ``DORA_PASSES`` times and pays the FLOPs of its norm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from transformers import PreTrainedConfig

from gazal.common.devices import Devices
from gazal.planning.memory import WIDTH, Tokens
from gazal.planning.model_shapes import config_text, sizes
from gazal.planning.trace import trace
from gazal.recipe.recipe import Recipe

DORA_PASSES = 6  # read for the product; BA written and read; W read, W + sBA written and read for its norm (peft.tuners.lora.dora)
BENCHMARK_ITEMS = {
    "medqa": 1273,
    "medmcqa": 4183,
    "pubmedqa": 500,
    "mmlu_pro_medical": 1535,
}  # test items; source: the benchmarks themselves


@dataclass(frozen=True)
class Work:
    """``tokens``: processed in training, or prompts and completions; ``hours``: 0 where the devices' speed is not known; ``model_share``:
    share of the executed FLOPs that are the model's own (no recomputation, no norms); ``note``: what it is made of."""

    tokens: float
    hours: float
    model_share: float
    note: str

    @property
    def rate(self) -> float:
        """Tokens a second over all devices."""
        return self.tokens / (3600 * self.hours) if self.hours else 0.0


def _model_flops(size_base: int, embeddings: int, trainable: int, tokens: float) -> float:
    """FLOPs that training needs at least: 4 a frozen weight and token (forward, gradient of the input), 6 a trained one."""
    return tokens * (4 * (size_base - embeddings) + 6 * trainable)


def _pass_flops(recipe: Recipe, config: PreTrainedConfig, stage: str, rows: int, length: int, keep: int) -> float:
    section = getattr(recipe, stage)
    return trace(
        config_text(config),
        config.num_hidden_layers,
        recipe.model.dtype,
        section.adapter,
        rows,
        length,
        stage,
        keep=keep,
        checkpointing=section.gradient_checkpointing,
        bf16=section.bf16,
        chunked=section.logits != "full",
    ).flops


def generation_seconds(
    recipe: Recipe,
    config: PreTrainedConfig,
    rows: int,
    prompt: int,
    new: int,
    devices: Devices,
    mfu: float,
    unmerged: object | None = None,
) -> float:
    """Seconds for ``rows`` completions of ``new`` tokens on one device, by the formula above."""
    if not devices.flops or not rows:
        return 0.0
    text, layers, dtype = config_text(config), config.num_hidden_layers, recipe.model.dtype
    size = sizes(config, dtype, recipe.sft.adapter if unmerged is None else unmerged.adapter)
    adapter = unmerged.adapter if unmerged is not None else None
    speed = devices.flops * mfu
    prefill = trace(text, layers, dtype, adapter, rows, prompt, "generate")
    step = trace(text, layers, dtype, adapter, rows, 1, "generate")
    cache = prefill.kept / prompt * (prompt + new / 2)
    moved = size.base_bytes + cache
    if unmerged is not None and unmerged.adapter.dora:
        moved += (DORA_PASSES - 1) * size.adapted * WIDTH[dtype]
    return prefill.flops / speed + new * max(moved / devices.bandwidth, step.flops / speed)


def sft_work(recipe: Recipe, config: PreTrainedConfig, tokens: Tokens, devices: Devices, mfu: float) -> Work:
    """SFT: all examples, each epoch, at their mean length."""
    section, size = recipe.sft, sizes(config, recipe.model.dtype, recipe.sft.adapter)
    rows, _ = section.per_process(recipe.launch.processes)
    total = recipe.data.sft * section.epochs * tokens.mean_row
    a_token = _pass_flops(recipe, config, "sft", rows, tokens.row, 0) / (rows * tokens.row)
    used = min(recipe.launch.processes, devices.total)
    hours = total * a_token / (devices.flops * mfu * used) / 3600 if devices.flops else 0.0
    steps = math.ceil(recipe.data.sft / section.sequences * section.epochs)
    share = _model_flops(size.base, size.embeddings, size.trainable, 1) / a_token
    return Work(total, hours, share, f"{steps:,} steps of {section.sequences} rows")


def grpo_work(recipe: Recipe, config: PreTrainedConfig, tokens: Tokens, devices: Devices, mfu: float) -> Work:
    """GRPO: rollouts, one pass over them a step, and the pass rates before; every completion at its cap (an upper bound)."""
    section, size, launch = recipe.grpo, sizes(config, recipe.model.dtype, recipe.grpo.adapter), recipe.launch
    rows, passes = section.per_process(launch.processes)
    new, length = section.max_completion_length, tokens.prompt + section.max_completion_length
    flops = _pass_flops(recipe, config, "grpo", rows, length, new)
    train = section.steps * passes * flops / (devices.flops * mfu) if devices.flops else 0.0
    unmerged = section if section.rollouts == "trainer" else None
    roll = section.steps * generation_seconds(recipe, config, rows * passes, tokens.prompt, new, devices, mfu, unmerged)
    count = recipe.data.grpo * section.pass_rate_samples
    batch = max(1, 65_536 // length)  # grpo.difficulty's batch_tokens
    rates = (
        count / batch * generation_seconds(recipe, config, batch, tokens.prompt, new, devices, mfu) if count else 0.0
    )
    total = section.steps * section.sequences * length + count * length
    note = f"{section.steps:,} steps of {section.sequences} completions; rollouts {roll / 3600:.2g} h, training {train / 3600:.2g} h"
    share = _model_flops(size.base, size.embeddings, size.trainable, rows * length) / flops
    return Work(
        total, (train + roll + rates) / 3600, share, note + (f", pass rates {rates / 3600:.2g} h" if count else "")
    )


def evaluation_work(recipe: Recipe, config: PreTrainedConfig, tokens: Tokens, devices: Devices, mfu: float) -> Work:
    """Evaluation of each stage's model on one device; every completion at its cap (an upper bound)."""
    section = recipe.evaluation
    items = recipe.data.test + sum(
        min(section.benchmark_limit or size, size)
        for size in (BENCHMARK_ITEMS.get(name, 0) for name in section.benchmarks)
    )
    count = items * section.samples * len(section.stages)
    length = tokens.prompt + section.max_new_tokens
    batch = max(1, section.batch_tokens // length)
    seconds = (
        count / batch * generation_seconds(recipe, config, batch, tokens.prompt, section.max_new_tokens, devices, mfu)
    )
    return Work(
        count * length,
        seconds / 3600,
        1.0,
        f"{items:,} items × {section.samples} × {len(section.stages)} models, one device",
    )


def stage_work(
    recipe: Recipe, config: PreTrainedConfig, stage: str, tokens: Tokens, devices: Devices, mfu: float
) -> Work:
    """Work of ``sft``, ``grpo`` or ``evaluation``."""
    return {"sft": sft_work, "grpo": grpo_work, "evaluation": evaluation_work}[stage](
        recipe, config, tokens, devices, mfu
    )
