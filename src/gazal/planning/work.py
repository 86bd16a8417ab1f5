"""Tokens, FLOPs and hours of each stage.

Training: the FLOPs that a pass really executes (traced: recomputation and DoRA's norms included) over peak FLOP/s ×
utilisation. Generation, a step of one token for each row: the longer of ``bytes / bandwidth`` (all weights, and the
cache as it is half-way) and ``FLOPs / (peak × utilisation)``. Prompts cost FLOPs alone. Through an unmerged DoRA
adapter every step reads and writes each adapted weight ``DORA_PASSES`` times and pays the FLOPs of its norm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from transformers import PreTrainedConfig

from gazal.common.devices import Devices
from gazal.planning.memory import WIDTH, Tokens, training_pass
from gazal.planning.model_shapes import Sizes, config_text, sizes
from gazal.planning.trace import trace
from gazal.recipe.recipe import Recipe
from gazal.recipe.training import AdapterSection

# read for the product; BA written and read; W read, W + sBA written and read for its norm (peft.tuners.lora.dora)
DORA_PASSES = 6
# test items; source: the benchmarks themselves
BENCHMARK_ITEMS = {"medqa": 1273, "medmcqa": 4183, "pubmedqa": 500, "mmlu_pro_medical": 1535}


@dataclass(frozen=True)
class Work:
    """Tokens and hours of a stage.

    ``tokens``: processed in training, or prompts and completions. ``hours``: 0 if the devices' speed is not known.
    ``model_share``: share of the executed FLOPs that are the model's own (no recomputation, no norms). ``note``: what
    the work consists of.
    """

    tokens: float
    hours: float
    model_share: float
    note: str

    @property
    def rate(self) -> float:
        """Return the tokens per second over all devices."""
        return self.tokens / (3600 * self.hours) if self.hours else 0.0


def _model_share(size: Sizes, flops: float) -> float:
    """Return the share of a token's ``flops`` that training needs at least.

    These are 4 a frozen weight (forward, and the gradient of the input) and 6 a trained one.
    """
    return (4 * (size.base - size.embeddings) + 6 * size.trainable) / flops


def generation_seconds(
    recipe: Recipe,
    config: PreTrainedConfig,
    rows: int,
    prompt: int,
    new: int,
    devices: Devices,
    mfu: float,
    unmerged: AdapterSection | None = None,
) -> float:
    """Return the seconds for ``rows`` completions of ``new`` tokens on one device, by the formula above."""
    if not devices.flops or not rows:
        return 0.0
    text, layers, dtype = config_text(config), config.num_hidden_layers, recipe.model.dtype
    size = sizes(config, dtype, unmerged or recipe.sft.adapter)
    speed = devices.flops * mfu
    prefill = trace(text, layers, dtype, unmerged, rows, prompt, "generate")
    step = trace(text, layers, dtype, unmerged, rows, 1, "generate")
    cache = prefill.kept / prompt * (prompt + new / 2)
    moved = size.base_bytes + cache
    if unmerged and unmerged.dora:
        moved += (DORA_PASSES - 1) * size.adapted * WIDTH[dtype]
    return prefill.flops / speed + new * max(moved / devices.bandwidth, step.flops / speed)


def answering_seconds(
    recipe: Recipe, config: PreTrainedConfig, count: int, prompt: int, new: int, room: int, devices: Devices, mfu: float
) -> float:
    """Return the seconds for ``count`` completions on one device, in batches of at most ``room`` tokens."""
    rows = max(1, room // (prompt + new))
    return count / rows * generation_seconds(recipe, config, rows, prompt, new, devices, mfu)


def sft_work(recipe: Recipe, config: PreTrainedConfig, tokens: Tokens, devices: Devices, mfu: float) -> Work:
    """Plan SFT: all examples, each epoch, at their mean length."""
    section, size = recipe.sft, sizes(config, recipe.model.dtype, recipe.sft.adapter)
    total = recipe.data.sft * section.epochs * tokens.mean_row
    one, count = training_pass(recipe, config, "sft", tokens)
    used = min(recipe.launch.processes, devices.total)
    hours = total * one.flops / count / (devices.flops * mfu * used) / 3600 if devices.flops else 0.0
    steps = math.ceil(recipe.data.sft / section.sequences * section.epochs)
    note = f"{steps:,} steps of {section.sequences} rows"
    return Work(total, hours, _model_share(size, one.flops / count), note)


def grpo_work(recipe: Recipe, config: PreTrainedConfig, tokens: Tokens, devices: Devices, mfu: float) -> Work:
    """Plan GRPO: rollouts, one pass over them a step, and the pass rates before; every completion at its limit."""
    section, size = recipe.grpo, sizes(config, recipe.model.dtype, recipe.grpo.adapter)
    rows, passes = section.per_process(recipe.launch.processes)
    prompt, new = tokens.prompt, section.max_completion_length
    one, at_once = training_pass(recipe, config, "grpo", tokens)
    train = section.steps * passes * one.flops / (devices.flops * mfu) if devices.flops else 0.0
    unmerged = section.adapter if section.rollouts == "trainer" else None
    roll = section.steps * generation_seconds(recipe, config, rows * passes, prompt, new, devices, mfu, unmerged)
    count = recipe.data.grpo * section.pass_rate_samples
    room = 65_536  # grpo.difficulty's batch_tokens
    rates = answering_seconds(recipe, config, count, prompt, new, room, devices, mfu) if count else 0.0
    note = f"{section.steps:,} steps of {section.sequences} completions; rollouts {roll / 3600:.2g} h, "
    note += f"training {train / 3600:.2g} h"
    note += f", pass rates {rates / 3600:.2g} h" if count else ""
    total = (section.steps * section.sequences + count) * (prompt + new)
    return Work(total, (train + roll + rates) / 3600, _model_share(size, one.flops / at_once), note)


def evaluation_work(recipe: Recipe, config: PreTrainedConfig, tokens: Tokens, devices: Devices, mfu: float) -> Work:
    """Plan the evaluation of each stage's model on one device; every completion at its limit."""
    section, new = recipe.evaluation, recipe.evaluation.max_new_tokens
    known = (BENCHMARK_ITEMS.get(name, 0) for name in section.benchmarks)
    items = recipe.data.test + sum(min(section.benchmark_limit or size, size) for size in known)
    count = items * section.samples * len(section.stages)
    seconds = answering_seconds(recipe, config, count, tokens.prompt, new, section.batch_tokens, devices, mfu)
    note = f"{items:,} items × {section.samples} × {len(section.stages)} models, one device"
    return Work(count * (tokens.prompt + new), seconds / 3600, 1.0, note)


def stage_work(
    recipe: Recipe, config: PreTrainedConfig, stage: str, tokens: Tokens, devices: Devices, mfu: float
) -> Work:
    """Plan the work of ``sft``, ``grpo`` or ``evaluation``."""
    work = {"sft": sft_work, "grpo": grpo_work, "evaluation": evaluation_work}[stage]
    return work(recipe, config, tokens, devices, mfu)
