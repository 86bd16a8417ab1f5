"""The cheapest change of a recipe that makes it fit: a ladder of known changes, tried in the order of their price.

A price is a cost in per cent of time, as known or measured. What may cost accuracy is priced far above anything exact,
because time can be bought and accuracy not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from functools import reduce
from math import inf
from operator import getitem
from typing import Any

from pydantic import ValidationError
from transformers import PreTrainedConfig

from gazal.common.devices import Devices
from gazal.planning.memory import StageMemory, Tokens, least_bytes, stage_memory
from gazal.recipe.recipe import Recipe

STAGES = ("sft", "grpo", "evaluation")
Change = tuple[float, dict[str, Any]]
"""A price, and recipe values by dotted key. Of the changes with the same first key at most one is made."""


def apply(recipe: Recipe, values: dict[str, Any]) -> Recipe | None:
    """Return the recipe with ``values``, None if its own rules forbid them."""
    changed = recipe.model_dump()
    for key, value in values.items():
        *path, last = key.split(".")
        reduce(getitem, path, changed)[last] = value
    try:
        return Recipe.model_validate(changed)
    except ValidationError:
        return None


def halves(size: int, least: int = 1, even: bool = True) -> list[tuple[int, int]]:
    """Return how often ``size`` is halved and what that leaves, down to ``least``; not ``even``: rounded down."""
    found = [(n, size >> n) for n in range(1, size.bit_length()) if size >> n >= least]
    return [(n, half) for n, half in found if half << n == size or not even]


def candidates(recipe: Recipe, devices: Devices, stages: list[str]) -> list[Change]:
    """Return the changes that may help ``stages``, cheapest first.

    Prices of exact changes: a batch halved with more accumulation 2, logits in chunks 3, fewer tokens in an evaluation
    batch 4. Sharding over all devices costs 10 (network), recomputation 33 (one forward pass in three), rollouts
    through the adapter 100. Sharding and a 4-bit base take these rollouts along: neither can be merged into a copy.

    Prices of what is not exact: 8-bit AdamW 200, bf16 weights 300, a 4-bit base 500. Each halving of the context or of
    the prompts per GRPO step costs 1,000, each halving of the rank 2,000.
    """
    found: list[Change] = []

    def offer(price: float, values: dict[str, Any]) -> bool:
        new = apply(recipe, values) not in (None, recipe)
        found.extend([(price, values)] if new else [])
        return new

    gpu, training = not devices.cpu, [stage for stage in stages if stage != "evaluation"]
    for stage in training:
        section = getattr(recipe, stage)
        for n, size in halves(section.batch_size):
            more = {"sft.gradient_accumulation": section.sequences // size} if stage == "sft" else {}
            offer(2 * n, {f"{stage}.batch_size": size} | more)
        if section.logits == "full" and (stage == "sft" or gpu):
            offer(3, {f"{stage}.logits": "chunked" if stage == "sft" else "liger"})
        offer(33, {f"{stage}.gradient_checkpointing": True})
        if gpu:
            offer(200, {f"{stage}.optimizer": "adamw_8bit"})
        for n, rank in halves(section.adapter.rank, least=8)[:4]:
            offer(2000 * n, {f"{stage}.adapter.rank": rank})
    if "sft" in stages:
        for n, length in halves(recipe.sft.max_length, least=16, even=False)[:2]:
            offer(1000 * n, {"sft.max_length": length})
    if "grpo" in stages:
        offer(100, {"grpo.rollouts": "trainer"})
        for n, prompts in halves(recipe.grpo.prompts_per_step):
            offer(1000 * n, {"grpo.prompts_per_step": prompts})
    if "evaluation" in stages:
        for n, size in halves(recipe.evaluation.batch_tokens, least=256, even=False):
            offer(4 * n, {"evaluation.batch_tokens": size})
    if training and gpu:
        trainer, launch = {"grpo.rollouts": "trainer"}, recipe.launch
        more = 100 if recipe.grpo.rollouts == "merged" else 0
        offer(500 + more, {"model.load_in_4bit": True} | trainer)
        # as many of the devices as share a step's sequences evenly
        for count in range(devices.total, max(1, launch.processes - (launch.strategy == "ddp")), -1):
            machines = devices.machines if count > devices.count else 1
            shards = {"launch.strategy": "fsdp2", "launch.processes": count, "launch.machines": machines}
            if offer(10 + more, shards | trainer):  # ZeRO-3 shards the same
                break
    offer(300, {"model.dtype": "bfloat16"})
    return sorted(found, key=lambda change: change[0])


def cheapest(
    recipe: Recipe, config: PreTrainedConfig, plans: dict[str, StageMemory], tokens: Tokens, devices: Devices
) -> dict[str, Any] | None:
    """Return the values with which all stages of ``plans`` fit, None if no change makes them.

    The ladder is climbed as long as something does not fit, past each change that makes it worse. Then what was not
    needed is given back, the dearest first: the whole change, or all but a cheaper one of its kind.
    """
    ladder = candidates(recipe, devices, [stage for stage, plan in plans.items() if plan.peak > devices.memory])

    def values(taken: dict[str, Change]) -> dict[str, Any]:
        return {key: value for _, change in taken.values() for key, value in change.items()}

    def over(sizes: Iterable[float]) -> float:
        return sum(max(size - devices.memory, 0.0) for size in sizes)

    def excess(taken: dict[str, Change]) -> tuple[float, float]:
        """Return the bytes too many, of what stays and then of the peak; the peak is traced only if what stays fits."""
        if (changed := apply(recipe, values(taken))) is None:
            return inf, inf
        if least := over(least_bytes(changed, config, stage) for stage in plans):
            return least, inf
        longest = changed.sft.max_length
        cut = replace(tokens, row=min(tokens.row, longest), mean_row=min(tokens.mean_row, longest))
        return 0.0, over(stage_memory(changed, config, stage, cut, devices).peak for stage in plans)

    taken: dict[str, Change] = {}
    now = excess(taken)
    for change in ladder:
        further = taken | {_kind(change): change}
        if any(now) and (left := excess(further)) <= now:
            taken, now = further, left
    if any(now):
        return None
    for kind, (price, _) in sorted(taken.items(), key=lambda one: -one[1][0]):
        others = {name: change for name, change in taken.items() if name != kind}
        cheaper = (others | {kind: change} for change in ladder if _kind(change) == kind and change[0] < price)
        taken = next((fewer for fewer in (others, *cheaper) if not any(excess(fewer))), taken)
    return values(taken)


def _kind(change: Change) -> str:
    return next(iter(change[1]))


def words(recipe: Recipe, values: dict[str, Any]) -> str:
    """Return the values as ``--set`` options, without what the recipe says already."""
    old = recipe.model_dump()
    new = {key: value for key, value in values.items() if reduce(getitem, key.split("."), old) != value}
    return " ".join(
        f"--set {key}={json.dumps(value) if isinstance(value, bool) else value}" for key, value in new.items()
    )


def fitted_launch(recipe: Recipe, devices: Devices) -> dict[str, Any]:
    """Return the values that leave no more processes than there are devices; none if there are enough, or on a CPU."""
    if devices.cpu or recipe.launch.processes <= devices.total:
        return {}
    launches = ({"launch.processes": count, "launch.machines": 1} for count in range(devices.total, 0, -1))
    return next((values for values in launches if apply(recipe, values)), {})
