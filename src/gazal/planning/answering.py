"""What prompting the models of a recipe costs: memory, tokens and hours on a node, before anything is downloaded.

``vllm`` divides a model over the devices of a machine (as many as share its attention heads evenly). It fills
``MEMORY_SHARE`` of their memory with the weights and a cache of the sequences in work, ``SEQUENCES`` at most. Its speed
is not modelled but bounded, without network, scheduler and the start of the server. A step makes one token for every
sequence. It takes the longer of ``bytes / (bandwidth × utilisation)`` and ``FLOPs / (peak × utilisation)``. The bytes
are the weights, and the cache half-way through. ``transformers`` takes one device, as in :mod:`gazal.planning.work`.
Every completion is counted at its token limit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedConfig

from gazal.common.devices import Devices
from gazal.common.errors import GazalError
from gazal.data.benchmarks import load_benchmarks
from gazal.engines.vllm import gpus_for
from gazal.evaluation.targets import Target, find_targets
from gazal.items.prompts import build_messages
from gazal.planning.memory import NCCL_FRAMEWORK, Tokens, evaluation_memory, framework
from gazal.planning.model_shapes import base_config, known_models, meta_model
from gazal.planning.work import BENCHMARK_ITEMS, generation_seconds
from gazal.recipe.recipe import Recipe

MEMORY_SHARE = 0.9  # vLLM's gpu_memory_utilization
SEQUENCES = 256  # vLLM's max_num_seqs
CHARACTERS = 4.0  # a token; measured with SmolLM2's tokenizer on the four benchmarks: 3.6 (MedMCQA) to 4.2 (PubMedQA)
# means of question and options, measured likewise
QUESTION_TOKENS = {"medqa": 215, "medmcqa": 51, "pubmedqa": 350, "mmlu_pro_medical": 171}
TEMPLATE_TOKENS = 20  # of a chat template around two turns; chosen, because ChatML and Llama 3 take 11 to 25


@dataclass(frozen=True)
class Load:
    """The prompts of one model.

    ``prompts``: how many, with samples and permutations; ``tokens``: their mean length; ``known``: whether it comes
    from the benchmarks' own texts.
    """

    prompts: int
    tokens: float
    known: bool


@dataclass(frozen=True)
class Served:
    """One model on the devices.

    ``parts``: bytes on each device; ``rows``: sequences in work; ``hours``: 0 if the speed is not known; ``reason``:
    why the model cannot be planned or does not fit.
    """

    name: str
    devices: int = 0
    parts: dict[str, float] | None = None
    rows: int = 0
    tokens: float = 0.0
    hours: float = 0.0
    reason: str = ""


def load_of(recipe: Recipe, folder: Path | None) -> Load:
    """Count the prompts of the recipe's benchmarks and their tokens.

    With ``folder``, its texts are read, at ``CHARACTERS`` a token; without, the published counts are used. Raises
    GazalError if a benchmark cannot be read or its size is not known.
    """
    section = recipe.evaluation
    times = section.samples * (1 + section.permute)
    fixed = len(recipe.model.system + section.instruction) / CHARACTERS + TEMPLATE_TOKENS
    if folder is not None:
        found, not_run = load_benchmarks(
            section.benchmarks, folder, section.benchmark_limit, recipe.seed, recipe.data.key_base
        )
        if not_run:
            raise GazalError("; ".join(f"{name}: {reason}" for name, reason in not_run.items()))
        items = [item for some in found.values() for item in some]
        mean = sum(len(build_messages(item, "")[-1]["content"]) for item in items) / CHARACTERS / max(len(items), 1)
        return Load(len(items) * times, mean + fixed, True)
    if unknown := [name for name in section.benchmarks if name not in QUESTION_TOKENS]:
        raise GazalError(
            f"evaluation.benchmarks: {unknown[0]}: its size is not known here; give --benchmarks FOLDER, or a folder's "
            "items file"
        )
    sizes = {name: BENCHMARK_ITEMS[name] for name in section.benchmarks}
    counts = {name: min(section.benchmark_limit or size, size) for name, size in sizes.items()}
    mean = sum(count * QUESTION_TOKENS[name] for name, count in counts.items()) / max(sum(counts.values()), 1)
    return Load(sum(counts.values()) * times, mean + fixed, False)


def parameter_counts(config: PreTrainedConfig) -> tuple[int, int]:
    """Return all parameters, and those of the input embedding that are only looked up (0 if it is tied)."""
    model = meta_model(config, "bfloat16")
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    tied = outputs is not None and outputs.weight is inputs.weight
    return sum(p.numel() for p in model.parameters()), 0 if tied else inputs.weight.numel()


def stored_bytes(spec: str, config: PreTrainedConfig, parameters: int) -> float:
    """Return the bytes of the weights in 16 bits; those in ``fp8_layers`` of a shipped shape take 8 bits."""
    layers = known_models().get(spec, {}).get("fp8_layers", 0)
    return 2.0 * parameters - layers * 3.0 * config.hidden_size * config.intermediate_size


def cache_bytes(config: PreTrainedConfig) -> float:
    """Return the bytes of keys and values per token in 16 bits: 2 × layers × KV heads × head size × 2."""
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 4.0 * config.num_hidden_layers * config.num_key_value_heads * size


def served(one: Target, config: PreTrainedConfig, load: Load, devices: Devices, mfu: float) -> Served:
    """Plan one model with ``vllm``."""
    new, count = one.recipe.evaluation.max_new_tokens, gpus_for(config.num_attention_heads, devices.count)
    parameters, looked_up = parameter_counts(config)
    weights, cache = stored_bytes(one.spec, config, parameters), cache_bytes(config)
    shared = min(count, config.num_key_value_heads)  # a KV head is whole on a device
    own = framework(devices, count) if not devices.cpu else NCCL_FRAMEWORK
    room = MEMORY_SHARE * devices.memory - weights / count - own
    length = load.tokens + new
    held = room * shared / cache  # tokens
    context = one.recipe.evaluation.context or config.max_position_embeddings
    rows = min(SEQUENCES, load.prompts, int(held / length)) if held >= context else 0
    parts = {"weights": weights / count, "cache": max(rows, 1) * length * cache / shared, "framework": own}
    if rows < 1:
        least = weights / count + own + context * cache / shared
        reason = (
            f"weights and a sequence of {context:,} tokens (evaluation.context) take {least / 1e9:,.0f} GB a device "
            f"of {MEMORY_SHARE * devices.memory / 1e9:,.0f}"
        )
        return Served(one.name, count, parts, reason=reason)
    tokens = load.prompts * length
    if not devices.flops:
        return Served(one.name, count, parts, rows, tokens)
    speed, flops = devices.flops * mfu * count, 2.0 * (parameters - looked_up)
    step = max(
        (weights + rows * (load.tokens + new / 2) * cache * count / shared) / (devices.bandwidth * mfu * count),
        rows * flops / speed,
    )
    seconds = load.prompts * load.tokens * flops / speed + load.prompts / rows * new * step
    return Served(one.name, count, parts, rows, tokens, seconds / 3600)


def in_process(one: Target, config: PreTrainedConfig, load: Load, devices: Devices, mfu: float) -> Served:
    """Plan one model with ``transformers``, on one device."""
    section = one.recipe.evaluation
    recipe = one.recipe.model_copy(
        update={"model": one.recipe.model.model_copy(update={"base": one.spec, "dtype": one.dtype or "bfloat16"})}
    )
    prompt = max(round(load.tokens), 1)
    plan = evaluation_memory(recipe, config, Tokens(prompt, prompt, prompt), devices)
    rows = max(1, section.batch_tokens // (prompt + section.max_new_tokens))
    if plan.peak > devices.memory:
        reason = (
            f"takes {plan.peak / 1e9:,.0f} GB of {devices.memory / 1e9:,.0f}; smaller evaluation.batch_tokens, or "
            "evaluation.engine=vllm"
        )
        return Served(one.name, 1, plan.parts, reason=reason)
    seconds = (
        load.prompts / rows * generation_seconds(recipe, config, rows, prompt, section.max_new_tokens, devices, mfu)
    )
    return Served(one.name, 1, plan.parts, rows, load.prompts * (prompt + section.max_new_tokens), seconds / 3600)


def together(hours: float, count: int, price: float | None, unpriced: str) -> str:
    """Return the line of all ``hours`` of a device, on ``count`` devices at once, and of their cost."""
    cost = unpriced if price is None else f", {price * hours:,.2f} USD at {price:g} USD per device hour"
    return f"together {hours / count:,.2f} h on {count} device{'s' if count > 1 else ''}{cost}"


def plan_answers(
    recipe: Recipe,
    devices: Devices,
    names: list[str],
    folder: Path | None = None,
    *,
    price: float | None = None,
    mfu: float = 0.4,
    say: Callable[[str], None] = print,
) -> None:
    """Say the plan of prompting ``names`` (all the recipe's models if empty) with the recipe's benchmarks.

    Raises GazalError, at the end, if one does not fit.
    """
    load = load_of(recipe, folder)
    where, speed = f"{devices.count} × {devices.name}", ""
    if devices.flops:
        speed = (
            f", {devices.flops / 1e12:,.4g} TFLOP/s and {devices.bandwidth / 1e9:,.4g} GB/s each, both at utilisation "
            f"{mfu:g}"
        )
    source = "the benchmarks given" if load.known else "measured before on the published sets"
    say(f"{recipe.name}: {load.prompts:,} prompts a model, of {load.tokens:,.0f} tokens in the mean ({source})")
    say(f"devices: {where}{speed}" + (f"; of {devices.machines} machines one is used" if devices.machines > 1 else ""))
    say("")
    widths = (max(16, *(len(name) + 2 for name in names or recipe.models or [""])), 9, 12, 12, 10, 12, 10, 11)

    def row(first: str, *cells: str) -> None:
        say(first.ljust(widths[0]) + "".join(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)))

    usd = "" if price is None else "USD"
    row("model", "devices", "weights, GB", "cache, GB", "sequences", "tokens, M", "hours", usd)
    failing, total = [], 0.0
    for one in find_targets(names or list(recipe.models), recipe):
        found = _plan(one, load, devices, mfu)
        if found.reason:
            failing.append(f"{one.name}: {found.reason}")
            say(one.name.ljust(widths[0]) + "  " + found.reason)
            continue
        total += found.hours * devices.count
        parts = found.parts or {}
        row(
            one.name,
            str(found.devices),
            f"{parts['weights'] / 1e9:,.1f}",
            f"{parts.get('cache', parts.get('KV cache', 0.0)) / 1e9:,.1f}",
            f"{found.rows:,}",
            f"{found.tokens / 1e6:,.1f}",
            f"{found.hours:,.2f}" if found.hours else "not known",
            "" if price is None or not found.hours else f"{price * found.hours * devices.count:,.2f}",
        )
    say("")
    if total:
        say(together(total, devices.count, price, "; cost: price not given"))
    say(
        "GB are of each device. Every completion at its limit of tokens, an upper bound; vLLM's speed is assumed, not "
        f"modelled: {SEQUENCES} sequences at once at most, a step bound by memory bandwidth or FLOPs, no network "
        "between devices, no download and no loading."
    )
    if failing:
        raise GazalError(f"{len(failing)} of the models cannot be asked on {where}: {'; '.join(failing)}")


def _plan(one: Target, load: Load, devices: Devices, mfu: float) -> Served:
    if one.spec.startswith("openai:"):
        return Served(one.name, reason="a server: what it takes is its own")
    config = base_config(one.recipe.model.model_copy(update={"base": one.spec, "revision": one.revision}))
    return (served if one.recipe.evaluation.engine == "vllm" else in_process)(one, config, load, devices, mfu)
