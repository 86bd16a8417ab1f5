"""``gazal plan``: memory, tokens, hours and cost of a recipe on given devices, before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from transformers import PreTrainedConfig

from gazal.common.devices import Devices, measured, read_devices
from gazal.common.errors import GazalError
from gazal.items.prompts import build_messages, completion_text, encode_chats
from gazal.items.reading import read_items
from gazal.items.schema import Item
from gazal.models.loading import base_path, load_tokenizer
from gazal.planning.answering import plan_answers
from gazal.planning.memory import PARTS, StageMemory, Tokens, assumed_tokens, shards, stage_memory
from gazal.planning.model_shapes import base_config, sizes
from gazal.planning.search import STAGES, apply, cheapest, fitted_launch, words
from gazal.planning.work import Work, stage_work
from gazal.recipe.recipe import Recipe
from gazal.runs import run_path
from gazal.training.preflight import preflight_sft, report

NAMES = {"sft": "SFT", "grpo": "GRPO", "evaluation": "evaluation"}
PROMPT = 512  # tokens of a prompt where no data is at hand; chosen, because exam vignettes with their options rarely take more


def run_items(folder: Path, split: str) -> list[Item]:
    """A split of the run in ``folder``, empty where it is not there yet."""
    path = folder / "data" / f"{split}.parquet"
    return read_items(path) if path.is_file() else []


def data_tokens(recipe: Recipe, folder: Path, prompt: int) -> Tokens:
    """Lengths in a run's own splits where ``folder/data`` and the tokenizer are there, else the assumed ones."""
    sft, grpo = (run_items(folder, name) for name in ("sft", "grpo"))
    if not sft or not grpo or not Path(base_path(recipe.model)).is_dir():
        return assumed_tokens(recipe, prompt)
    tokenizer = load_tokenizer(base_path(recipe.model))

    def count(messages: list[list[dict[str, str]]], opening: bool) -> list[int]:
        return [len(ids) for ids in encode_chats(tokenizer, messages, opening)]

    asked = count([build_messages(item, recipe.model.system) for item in grpo], True)
    rows = count(
        [
            [
                *build_messages(i, recipe.model.system),
                {"role": "assistant", "content": completion_text(i, i.reasoning or "")},
            ]
            for i in sft
        ],
        False,
    )
    rows = [length for length in rows if length <= recipe.sft.max_length] or [recipe.sft.max_length]
    return Tokens(max(rows), sum(rows) / len(rows), max(asked), known=True)


def _gb(size: float) -> str:
    return f"{size / 1e9:,.1f}" if size >= 1e9 else f"{size / 1e9:.3f}"


def memory_table(plans: dict[str, StageMemory], devices: Devices) -> list[str]:
    """Parts by stage in GB (10^9 bytes), and whether each fits."""
    extra = sorted({part for plan in plans.values() for part in plan.parts} - set(PARTS))
    lines = [f"{'GB per device':<16}" + "".join(f"{NAMES[stage]:>14}" for stage in plans)]
    lines += [
        f"{part:<16}" + "".join(f"{_gb(plan.parts.get(part, 0.0)):>14}" for plan in plans.values())
        for part in (*PARTS, *extra)
    ]
    lines.append(f"{'peak':<16}" + "".join(f"{_gb(plan.peak):>14}" for plan in plans.values()))
    lines.append(f"{'in phase':<16}" + "".join(f"{plan.peak_phase:>14}" for plan in plans.values()))
    return [
        *lines,
        f"{f'of {_gb(devices.memory)}':<16}"
        + "".join(f"{'fits' if plan.peak <= devices.memory else 'DOES NOT FIT':>14}" for plan in plans.values()),
    ]


def work_lines(works: dict[str, Work], devices: Devices, price: float | None) -> list[str]:
    """Tokens, hours and cost by stage; the whole node is paid for as long as a stage runs."""
    lines = []
    for stage, work in works.items():
        hours = f"{work.hours:,.2f} h ({work.rate:,.0f} tokens/s)" if work.hours else "hours not known"
        cost = "" if price is None or not work.hours else f", {price * work.hours * devices.total:,.2f} USD"
        lines.append(
            f"{NAMES[stage]}: {work.tokens:,.0f} tokens, {hours}{cost}; {work.note}"
            + (f"; {work.model_share:.0%} of the FLOPs are the model's own" if stage != "evaluation" else "")
        )
    total = sum(work.hours for work in works.values())
    spent = (
        "cost: price not given"
        if price is None
        else f"{price * total * devices.total:,.2f} USD at {price:g} USD per device hour"
    )
    return [
        *lines,
        f"together {total:,.2f} h on {devices.total} device{'s' if devices.total > 1 else ''}, {spent}"
        if total
        else "hours and cost: give --tflops and --bandwidth",
    ]


def _head(recipe: Recipe, config: PreTrainedConfig, devices: Devices, tokens: Tokens, mfu: float) -> list[str]:
    size, launch = sizes(config, recipe.model.dtype, recipe.sft.adapter), recipe.launch
    adapter = recipe.sft.adapter
    lengths = (
        f"longest example {tokens.row} tokens, longest prompt {tokens.prompt} (the run's data)"
        if tokens.known
        else f"every example {tokens.row} tokens (sft.max_length), every prompt {tokens.prompt} (--prompt-tokens): no data of this run yet"
    )
    where = (
        f"{devices.machines} × {devices.count} × {devices.name}"
        if devices.machines > 1
        else f"{devices.count} × {devices.name}"
    )
    speed = (
        f", {devices.flops / 1e12:,.4g} TFLOP/s {'measured' if devices.cpu else 'peak'} at utilisation {mfu:g}, {devices.bandwidth / 1e9:,.4g} GB/s"
        if devices.flops
        else ""
    )
    return [
        f"{recipe.name}: {recipe.model.base}, {size.base:,} parameters ({size.base - size.embeddings:,} without embeddings), {size.trainable:,} trainable "
        f"({'DoRA' if adapter.dora else 'LoRA'}{' + rsLoRA' if adapter.rslora else ''}, rank {adapter.rank})",
        f"devices: {where}{speed}; {launch.processes} process{'es' if launch.processes > 1 else ''}, {launch.strategy}, weights over {shards(recipe)}",
        f"lengths: {lengths}",
        "",
    ]


def make_plan(
    recipe: Recipe,
    devices: Devices,
    folder: Path,
    *,
    price: float | None = None,
    mfu: float = 0.4,
    prompt: int = PROMPT,
    say: Callable[[str], None] = print,
) -> None:
    """Say the whole plan. GazalError, one line with the cheapest change that makes it fit, where a stage cannot fit."""
    given = ""
    if launch := fitted_launch(recipe, devices):
        given = words(recipe, launch)
        say(
            f"{devices.total} device{'s' if devices.total > 1 else ''} for {recipe.launch.processes} processes: planned with {given}\n"
        )
        recipe = apply(recipe, launch)
    if Path(base_path(recipe.model)).is_dir():  # the tokenizer of a hub model is not asked for
        report(preflight_sft(recipe, run_items(folder, "sft"), run=False), say)
        say("")
    if devices.cpu and recipe.launch.processes > 1:
        devices = replace(devices, memory=devices.memory / recipe.launch.processes)
    config = base_config(recipe.model)
    devices = measured(devices, torch.bfloat16 if recipe.sft.bf16 else torch.float32)
    tokens = data_tokens(recipe, folder, prompt)
    stages = [stage for stage in STAGES if stage != "evaluation" or recipe.evaluation.stages]
    plans = {stage: stage_memory(recipe, config, stage, tokens, devices) for stage in stages}
    for line in (*_head(recipe, config, devices, tokens, mfu), *memory_table(plans, devices)):
        say(line)
    if host := max(plan.host for plan in plans.values()):
        say(f"merging and its check take {_gb(host)} GB of main memory")
    failing = [stage for stage, plan in plans.items() if plan.peak > devices.memory]
    if failing:
        say("looking for the cheapest change that makes it fit (a minute or two for a large model)")
        raise GazalError(_refusal(recipe, given, config, failing, plans, tokens, devices, prompt))
    say("")
    for line in work_lines(
        {stage: stage_work(recipe, config, stage, tokens, devices, mfu) for stage in stages}, devices, price
    ):
        say(line)


def _refusal(
    recipe: Recipe,
    given: str,
    config: PreTrainedConfig,
    failing: list[str],
    plans: dict[str, StageMemory],
    tokens: Tokens,
    devices: Devices,
    prompt: int,
) -> str:
    def lengths(changed: Recipe) -> Tokens:
        if not tokens.known:
            return assumed_tokens(changed, prompt)
        return replace(
            tokens, row=min(tokens.row, changed.sft.max_length), mean_row=min(tokens.mean_row, changed.sft.max_length)
        )

    chosen = cheapest(recipe, config, failing, lengths, devices)
    too_much = ", ".join(f"{NAMES[stage]} takes {_gb(plans[stage].peak)} GB" for stage in failing)
    what = f"{recipe.name} does not fit: {too_much}, a device has {_gb(devices.memory)}"
    if chosen is None:
        return f"{what}; no change known to gazal plan makes it fit"
    return f"{what}; cheapest change that makes it fit: {' '.join(filter(None, (given, words(recipe, chosen))))}"


def plan_command(
    recipe: Recipe,
    devices: str,
    run: str,
    *,
    price: float | None,
    mfu: float,
    prompt: int,
    tflops: float | None,
    bandwidth: float | None,
    models: list[str] | None = None,
    benchmarks: Path | None = None,
) -> None:
    """The command: reads the devices, with the speed given where it is. Of a recipe with ``models``, or for given ones, asking them is planned."""
    found = read_devices(devices)
    if (tflops is None) != (bandwidth is None):
        raise GazalError("--tflops and --bandwidth: give both, or neither")
    if tflops is not None:
        found = replace(found, flops=tflops * 1e12, bandwidth=bandwidth * 1e9)
    if models or recipe.models:
        plan_answers(recipe, measured(found, torch.bfloat16), models or [], benchmarks, price=price, mfu=mfu)
        return
    make_plan(recipe, found, run_path(recipe, run), price=price, mfu=mfu, prompt=prompt)
