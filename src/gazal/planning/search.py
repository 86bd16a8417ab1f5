"""The cheapest change of a recipe that makes it fit: sets of known changes, tried in the order of their price.

A change's price is its cost in per cent of time, as known or measured, and what may cost accuracy is priced far above anything
exact, because time can be bought and accuracy not. A set's price is the sum. The first set that fits is the answer.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from pydantic import ValidationError
from transformers import PreTrainedConfig

from gazal.common.devices import Devices
from gazal.planning.memory import Tokens, least_bytes, stage_memory
from gazal.recipe.recipe import Recipe

STAGES = ("sft", "grpo", "evaluation")


@dataclass(frozen=True)
class Change:
    """Recipe values to set, its ``price``, and ``group``: of one group at most one change is taken."""

    values: tuple[tuple[str, Any], ...]
    price: float
    group: str


def apply(recipe: Recipe, changes: list[Change] | tuple[Change, ...]) -> Recipe | None:
    """The recipe with the changes, None when its own rules forbid them."""
    values = recipe.model_dump()
    for change in changes:
        for key, value in change.values:
            *path, last = key.split(".")
            place = values
            for part in path:
                place = place[part]
            place[last] = value
    try:
        return Recipe.model_validate(values)
    except ValidationError:
        return None


def candidates(recipe: Recipe, devices: Devices, stages: list[str]) -> list[Change]:
    """Changes that may help ``stages``, with their prices.

    Exact: a batch halved with more accumulation 2, logits in chunks 3, fewer tokens in an evaluation batch 4, sharding over all
    devices 10 (network; it takes rollouts by the trainer along, 100 more, because a merged copy cannot be sharded), recomputation 33
    (one forward pass in three), rollouts through the adapter 100. Not exact: 8-bit AdamW 200, bf16 weights 300, a 4-bit base 500, a
    shorter context or fewer prompts a GRPO step 1,000 a halving, half the rank 2,000 a halving.
    """
    found: list[Change] = []
    gpu = not devices.cpu
    for stage in stages:
        if stage == "evaluation":
            size, price = recipe.evaluation.batch_tokens, 4.0
            while (size := size // 2) >= 256:
                found.append(Change((("evaluation.batch_tokens", size),), price, "evaluation.batch_tokens"))
                price += 4
            continue
        section = getattr(recipe, stage)
        size, price = section.batch_size, 2.0
        while size % 2 == 0:
            size //= 2
            more = (("sft.gradient_accumulation", section.sequences // size),) if stage == "sft" else ()
            found.append(Change(((f"{stage}.batch_size", size), *more), price, f"{stage}.batch_size"))
            price += 2
        if section.logits == "full" and (stage == "sft" or gpu):
            found.append(Change(((f"{stage}.logits", "chunked" if stage == "sft" else "liger"),), 3, f"{stage}.logits"))
        if not section.gradient_checkpointing:
            found.append(Change(((f"{stage}.gradient_checkpointing", True),), 33, f"{stage}.gradient_checkpointing"))
        if gpu and section.optimizer != "adamw_8bit":
            found.append(Change(((f"{stage}.optimizer", "adamw_8bit"),), 200, f"{stage}.optimizer"))
        rank = section.adapter.rank
        for halving in range(1, 5):
            if rank % 2**halving == 0 and rank // 2**halving >= 8:
                found.append(
                    Change(((f"{stage}.adapter.rank", rank // 2**halving),), 2000.0 * halving, f"{stage}.adapter.rank")
                )
    if "sft" in stages:
        found += [
            Change((("sft.max_length", recipe.sft.max_length // 2**h),), 1000.0 * h, "sft.max_length")
            for h in (1, 2)
            if recipe.sft.max_length // 2**h >= 16
        ]
    if "grpo" in stages:
        prompts, price = recipe.grpo.prompts_per_step, 1000.0
        while prompts % 2 == 0:
            prompts //= 2
            change = Change((("grpo.prompts_per_step", prompts),), price, "grpo.prompts_per_step")
            found += [change] if apply(recipe, [change]) else []
            price += 1000
    if "grpo" in stages and recipe.grpo.rollouts == "merged":
        found.append(Change((("grpo.rollouts", "trainer"),), 100, "grpo.rollouts"))
    if gpu and set(stages) & {"sft", "grpo"}:
        found += _sharding(recipe, devices)
        if not recipe.model.load_in_4bit:
            trainer = () if recipe.grpo.rollouts == "trainer" else (("grpo.rollouts", "trainer"),)
            found.append(Change((("model.load_in_4bit", True), *trainer), 500 + 100 * len(trainer), "model"))
    if recipe.model.dtype == "float32":
        found.append(Change((("model.dtype", "bfloat16"),), 300, "model.dtype"))
    return sorted(found, key=lambda change: change.price)


def _sharding(recipe: Recipe, devices: Devices) -> list[Change]:
    """FSDP2 over as many of the devices as share a step's sequences evenly (ZeRO-3 shards the same)."""
    for count in range(devices.total, 1, -1):
        if count < recipe.launch.processes or (count == recipe.launch.processes and recipe.launch.strategy != "ddp"):
            return []
        trainer = () if recipe.grpo.rollouts == "trainer" else (("grpo.rollouts", "trainer"),)
        machines = (
            devices.machines
            if count % devices.machines == 0 and count // devices.machines <= devices.count and count > devices.count
            else 1
        )
        change = Change(
            (("launch.strategy", "fsdp2"), ("launch.processes", count), ("launch.machines", machines), *trainer),
            10 + 100 * len(trainer),
            "launch",
        )
        if (machines > 1 or count <= devices.count) and apply(recipe, [change]):
            return [change]
    return []


def by_price(changes: list[Change]) -> Iterator[tuple[Change, ...]]:
    """Sets of changes, cheapest first, at most one of a group. ``changes`` are sorted by price."""
    heap: list[tuple[float, tuple[int, ...]]] = [(change.price, (i,)) for i, change in enumerate(changes[:1])]
    while heap:
        price, chosen = heapq.heappop(heap)
        groups = [changes[i].group for i in chosen]
        if len(set(groups)) == len(groups):
            yield tuple(changes[i] for i in chosen)
        last = chosen[-1]
        if last + 1 < len(changes):
            heapq.heappush(heap, (price + changes[last + 1].price, (*chosen, last + 1)))
            heapq.heappush(heap, (price - changes[last].price + changes[last + 1].price, (*chosen[:-1], last + 1)))


def fits(recipe: Recipe, config: PreTrainedConfig, stage: str, tokens: Tokens, devices: Devices) -> bool:
    """Whether the stage's predicted peak is within a device's memory; the bound without a trace is asked first."""
    return (
        least_bytes(recipe, config, stage) <= devices.memory
        and stage_memory(recipe, config, stage, tokens, devices).peak <= devices.memory
    )


def cheapest(
    recipe: Recipe,
    config: PreTrainedConfig,
    failing: list[str],
    tokens: Callable[[Recipe], Tokens],
    devices: Devices,
) -> tuple[Change, ...] | None:
    """The cheapest set of changes with which every stage fits, None when no set does.

    Stages share the changes of the model and of the launch; under each set of those, each stage takes the cheapest of its own.
    """
    changes = candidates(recipe, devices, failing)
    own = {stage: [change for change in changes if change.group.startswith(f"{stage}.")] for stage in STAGES}
    shared = [change for change in changes if not any(change in mine for mine in own.values())]

    def fit(chosen: tuple[Change, ...], stage: str) -> bool:
        changed = apply(recipe, chosen)
        return changed is not None and fits(changed, config, stage, tokens(changed), devices)

    best: tuple[float, tuple[Change, ...]] | None = None
    for common in chain([()], by_price(shared)):
        price, chosen = sum(change.price for change in common), common
        if best and price >= best[0]:
            break
        for stage in STAGES:
            most = tuple(
                {change.group: change for change in own[stage]}.values()
            )  # the last of a group saves most: if that is too little, all is
            found = (
                next((mine for mine in chain([()], by_price(own[stage])) if fit(common + mine, stage)), None)
                if fit(common + most, stage)
                else None
            )
            if found is None:
                break
            price, chosen = price + sum(change.price for change in found), chosen + found
        else:
            if best is None or price < best[0]:
                best = price, chosen
    return best[1] if best else None


def words(recipe: Recipe, changes: tuple[Change, ...]) -> str:
    """The changes as ``--set`` options, without what the recipe says already."""
    old = recipe.model_dump()

    def now(key: str) -> Any:
        value: Any = old
        for part in key.split("."):
            value = value[part]
        return value

    new = [(key, value) for change in changes for key, value in change.values if now(key) != value]
    return " ".join(f"--set {key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in new)


def fitted_launch(recipe: Recipe, devices: Devices) -> tuple[Change, ...]:
    """The change that leaves no more processes than there are devices; none where there are enough, or on a CPU."""
    if devices.cpu or recipe.launch.processes <= devices.total:
        return ()
    changes = (
        Change((("launch.processes", count), ("launch.machines", 1)), 0, "processes")
        for count in range(devices.total, 0, -1)
    )
    return next(((change,) for change in changes if apply(recipe, [change])), ())
