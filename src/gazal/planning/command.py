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
from gazal.planning.answering import plan_answers, together
from gazal.planning.memory import PARTS, StageMemory, Tokens, assumed_tokens, shards, stage_memory
from gazal.planning.model_shapes import base_config, sizes
from gazal.planning.search import STAGES, apply, cheapest, fitted_launch, words
from gazal.planning.work import Work, stage_work
from gazal.recipe.recipe import Recipe
from gazal.runs import run_path
from gazal.training.preflight import preflight_sft, print_checks

NAMES = {"sft": "SFT", "grpo": "GRPO", "evaluation": "evaluation"}
# tokens of a prompt if no data is at hand; chosen, because exam vignettes with their options rarely take more
PROMPT = 512


def run_items(folder: Path, split: str) -> list[Item]:
    """Read a split of the run in ``folder``; empty if it is not there yet."""
    path = folder / "data" / f"{split}.parquet"
    return read_items(path) if path.is_file() else []


def data_tokens(recipe: Recipe, folder: Path, prompt: int) -> Tokens:
    """Return the lengths in a run's own splits if ``folder/data`` and the tokenizer are there, else assumed ones."""
    sft, grpo = (run_items(folder, name) for name in ("sft", "grpo"))
    if not sft or not grpo or not Path(base_path(recipe.model)).is_dir():
        return assumed_tokens(recipe, prompt)
    tokenizer = load_tokenizer(base_path(recipe.model))

    asked = [build_messages(item, recipe.model.system) for item in grpo]
    trained = [
        [
            *build_messages(item, recipe.model.system),
            {"role": "assistant", "content": completion_text(item, item.reasoning or "")},
        ]
        for item in sft
    ]
    prompts = [len(ids) for ids in encode_chats(tokenizer, asked, True)]
    rows = [len(ids) for ids in encode_chats(tokenizer, trained, False)]
    rows = [length for length in rows if length <= recipe.sft.max_length] or [recipe.sft.max_length]
    return Tokens(max(rows), sum(rows) / len(rows), max(prompts), known=True)


def _gb(size: float) -> str:
    return f"{size / 1e9:,.1f}" if size >= 1e9 else f"{size / 1e9:.3f}"


def memory_table(plans: dict[str, StageMemory], devices: Devices) -> list[str]:
    """Show the parts by stage in GB (10^9 bytes), and whether each stage fits."""
    extra = sorted({part for plan in plans.values() for part in plan.parts} - set(PARTS))
    some = plans.values()
    rows = [
        ("GB per device", [NAMES[stage] for stage in plans]),
        *((part, [_gb(plan.parts.get(part, 0.0)) for plan in some]) for part in (*PARTS, *extra)),
        ("peak", [_gb(plan.peak) for plan in some]),
        ("in phase", [plan.peak_phase for plan in some]),
        (f"of {_gb(devices.memory)}", ["fits" if plan.peak <= devices.memory else "DOES NOT FIT" for plan in some]),
    ]
    return [f"{name:<16}" + "".join(f"{cell:>14}" for cell in cells) for name, cells in rows]


def work_lines(works: dict[str, Work], devices: Devices, price: float | None) -> list[str]:
    """Show tokens, hours and cost by stage; the whole node is paid for as long as a stage runs."""
    lines = []
    for stage, work in works.items():
        hours = f"{work.hours:,.2f} h ({work.rate:,.0f} tokens/s)" if work.hours else "hours not known"
        cost = "" if price is None or not work.hours else f", {price * work.hours * devices.total:,.2f} USD"
        lines.append(
            f"{NAMES[stage]}: {work.tokens:,.0f} tokens, {hours}{cost}; {work.note}"
            + (f"; {work.model_share:.0%} of the FLOPs are the model's own" if stage != "evaluation" else "")
        )
    total = sum(work.hours for work in works.values())
    if not total:
        return [*lines, "hours and cost: give --tflops and --bandwidth"]
    return [*lines, together(total * devices.total, devices.total, price, ", cost: price not given")]


def _head(recipe: Recipe, config: PreTrainedConfig, devices: Devices, tokens: Tokens, mfu: float) -> list[str]:
    size, launch = sizes(config, recipe.model.dtype, recipe.sft.adapter), recipe.launch
    adapter = recipe.sft.adapter
    lengths = (
        f"longest example {tokens.row} tokens, longest prompt {tokens.prompt} (the run's data)"
        if tokens.known
        else f"every example {tokens.row} tokens (sft.max_length), every prompt {tokens.prompt} (--prompt-tokens): "
        "no data of this run yet"
    )
    where = f"{devices.machines} × " if devices.machines > 1 else ""
    where += f"{devices.count} × {devices.name}"
    speed = (
        f", {devices.flops / 1e12:,.4g} TFLOP/s {'measured' if devices.cpu else 'peak'} at utilisation {mfu:g}, "
        f"{devices.bandwidth / 1e9:,.4g} GB/s"
        if devices.flops
        else ""
    )
    return [
        f"{recipe.name}: {recipe.model.base}, {size.base:,} parameters ({size.base - size.embeddings:,} without "
        f"embeddings), {size.trainable:,} trainable "
        f"({'DoRA' if adapter.dora else 'LoRA'}{' + rsLoRA' if adapter.rslora else ''}, rank {adapter.rank})",
        f"devices: {where}{speed}; {launch.processes} process{'es' if launch.processes > 1 else ''}, "
        f"{launch.strategy}, weights over {shards(recipe)}",
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
    """Say the whole plan. Raise GazalError, with the cheapest change that makes it fit, if a stage cannot fit."""
    asked, launch = recipe, fitted_launch(recipe, devices)
    if launch:
        many = f"{devices.total} device{'s' if devices.total > 1 else ''}"
        say(f"{many} for {recipe.launch.processes} processes: planned with {words(recipe, launch)}\n")
        recipe = apply(recipe, launch)
    if Path(base_path(recipe.model)).is_dir():  # the tokenizer of a hub model is not downloaded
        print_checks(preflight_sft(recipe, run_items(folder, "sft"), run=False), say)
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
        chosen = cheapest(recipe, config, plans, tokens, devices)
        too_much = ", ".join(f"{NAMES[stage]} takes {_gb(plans[stage].peak)} GB" for stage in failing)
        way = "no change known to gazal plan makes it fit"
        if chosen is not None:
            way = f"cheapest change that makes it fit: {words(asked, launch | chosen)}"
        raise GazalError(f"{recipe.name} does not fit: {too_much}, a device has {_gb(devices.memory)}; {way}")
    say("")
    works = {stage: stage_work(recipe, config, stage, tokens, devices, mfu) for stage in stages}
    for line in work_lines(works, devices, price):
        say(line)


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
    """Run the command: read the devices, with their speed if it is given, and say the plan.

    For a recipe with ``models``, or for given ones, it is the plan of prompting them.
    """
    found = read_devices(devices)
    if (tflops is None) != (bandwidth is None):
        raise GazalError("--tflops and --bandwidth: give both, or neither")
    if tflops is not None:
        found = replace(found, flops=tflops * 1e12, bandwidth=bandwidth * 1e9)
    if models or recipe.models:
        plan_answers(recipe, measured(found, torch.bfloat16), models or [], benchmarks, price=price, mfu=mfu)
        return
    make_plan(recipe, found, run_path(recipe, run), price=price, mfu=mfu, prompt=prompt)
