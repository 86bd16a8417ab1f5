"""`gazal plan`: counts against real models, properties of the prediction, refusals whose named change then fits, bad input."""

from __future__ import annotations

import re
import shlex

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import get_peft_model
from torch.multiprocessing.reductions import StorageWeakRef
from typer.testing import CliRunner

from gazal.cli import app
from gazal.common.devices import Devices, known_devices, read_devices
from gazal.common.errors import GazalError
from gazal.evaluation.targets import find_targets
from gazal.models.loading import load_model, lora_config
from gazal.planning.answering import (
    CHARACTERS,
    Load,
    cache_bytes,
    load_of,
    parameter_counts,
    plan_answers,
    served,
    stored_bytes,
)
from gazal.planning.command import make_plan
from gazal.planning.memory import assumed_tokens, resident, stage_memory, weight_bytes
from gazal.planning.model_shapes import base_config, config_text, known_models, sizes, with_layers
from gazal.planning.search import apply, candidates, cheapest, fitted_launch, halves
from gazal.planning.trace import trace
from gazal.planning.work import generation_seconds
from gazal.recipe.load import load_recipe
from gazal.recipe.recipe import Recipe

PAPER = load_recipe("qwen3-32b")
H100 = read_devices("8xh100")


def changed(recipe: Recipe, **values) -> Recipe:
    return apply(recipe, {key.replace("__", "."): value for key, value in values.items()})


@pytest.fixture(scope="module")
def small(tiny_model) -> Recipe:
    return Recipe.model_validate(
        {
            "model": {"base": str(tiny_model), "system": ""},
            "sft": {"batch_size": 8, "max_length": 64, "bf16": False, "adapter": {"rank": 8}},
            "grpo": {
                "prompts_per_step": 4,
                "num_generations": 4,
                "batch_size": 8,
                "max_completion_length": 32,
                "bf16": False,
            },
            "evaluation": {"batch_tokens": 2048, "max_new_tokens": 32},
        }
    )


def peak(recipe, stage="sft", prompt=64, devices=H100):
    return stage_memory(recipe, base_config(recipe.model), stage, assumed_tokens(recipe, prompt), devices).peak


@pytest.mark.parametrize("name", ["Qwen/Qwen3-0.6B", "Qwen/Qwen3-8B", "HuggingFaceTB/SmolLM2-135M"])
def test_shipped_shapes_have_the_published_parameter_counts(name):
    model = PAPER.model.model_copy(update={"base": name})
    size, card = (
        sizes(base_config(model), "bfloat16", PAPER.sft.adapter.model_copy(update={"rank": 8})),
        known_models()[name],
    )
    assert size.base / 1e9 == pytest.approx(card["parameters"], rel=0.01)
    if "without_embeddings" in card:
        assert (size.base - size.embeddings) / 1e9 == pytest.approx(card["without_embeddings"], rel=0.005)


def test_the_paper_recipe_has_the_papers_counts():
    size = sizes(base_config(PAPER.model), "bfloat16", PAPER.sft.adapter)
    assert (round(size.base / 1e9, 1), round((size.base - size.embeddings) / 1e9, 1)) == (32.8, 31.2)
    # by hand: A and B of rank 256 and one magnitude an output, for the seven matrices of 64 layers
    shapes = [(5120, 8192), (5120, 1024), (5120, 1024), (8192, 5120), (5120, 25600), (5120, 25600), (25600, 5120)]
    assert size.trainable == 64 * sum(256 * (i + o) + o for i, o in shapes) == 2_152_071_168


def test_trainable_parameters_are_those_of_the_real_embedded_model():
    recipe = load_recipe("embedded")
    policy = get_peft_model(load_model(base_config(recipe.model)._name_or_path), lora_config(recipe.sft.adapter))
    size = sizes(base_config(recipe.model), "float32", recipe.sft.adapter)
    assert size.trainable == sum(p.numel() for p in policy.parameters() if p.requires_grad)
    assert size.base_bytes == sum(p.nbytes for p in policy.parameters() if not p.requires_grad)


def test_a_trace_counts_what_autograd_keeps(tiny_model, small):
    """Bytes that the real forward pass keeps for backward, by PyTorch's own hooks, against the trace's growth a layer."""
    config = base_config(small.model)
    held = []
    for layers in (2, 3):
        torch.manual_seed(0)
        from transformers import AutoModelForCausalLM

        policy = get_peft_model(
            AutoModelForCausalLM.from_config(with_layers(config, layers)), lora_config(small.sft.adapter)
        ).train()
        own = {p.untyped_storage().data_ptr() for p in policy.parameters()}
        kept: dict[int, tuple[StorageWeakRef, int]] = {}

        def pack(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:  # noqa: B023 - called in this round alone
                reference = StorageWeakRef(storage)  # an address may be another storage's later
                kept[reference.cdata] = (reference, storage.nbytes())  # noqa: B023
            return tensor

        ids, mask = torch.zeros(4, 50, dtype=torch.long), torch.ones(4, 50, dtype=torch.long)
        mask[0, 0] = 0
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = policy(input_ids=ids, attention_mask=mask, labels=ids, use_cache=False).loss
        held.append(sum(size for reference, size in kept.values() if not reference.expired()))
        del loss
    text = config_text(config)
    few, more = (trace(text, layers, "float32", small.sft.adapter, 4, 50, "sft") for layers in (2, 3))
    assert more.peak - few.peak == pytest.approx(held[1] - held[0], rel=0.05)


@pytest.mark.slow
def test_memory_grows_with_batch_length_and_rank(small):
    alone = peak(small)
    for larger in ({"sft.batch_size": 16}, {"sft.max_length": 128}, {"sft.adapter.rank": 16}):
        assert alone < peak(changed(small, **larger)), larger


def test_checkpointing_and_chunks_take_less_memory_and_checkpointing_more_flops(small):
    text, adapter = config_text(base_config(small.model)), small.sft.adapter
    plain, again, chunked = (
        trace(text, 8, "float32", adapter, 8, 64, "sft", **o) for o in ({}, {"checkpointing": True}, {"chunked": True})
    )
    assert again.peak < plain.peak and again.flops > 1.2 * plain.flops
    assert chunked.flops < plain.flops  # without the head's products


@settings(max_examples=25)
@given(st.sampled_from(["ddp", "fsdp2", "zero3"]), st.sampled_from([1, 2, 4, 8]))
def test_sharding_divides_what_stays_and_ddp_does_not(strategy, processes):
    recipe = changed(PAPER, launch__strategy=strategy, launch__processes=processes)
    size = sizes(base_config(recipe.model), "bfloat16", recipe.sft.adapter)
    parts, alone = (
        resident(one, "sft", size) for one in (recipe, changed(PAPER, launch__strategy="ddp", launch__processes=1))
    )
    share = 1 if strategy == "ddp" else processes
    assert parts["optimizer"] == alone["optimizer"] / share and parts["adapter"] == alone["adapter"] / share
    assert alone["weights"] / share <= parts["weights"] <= alone["weights"]
    assert parts["gradients"] == (
        2 * alone["gradients"] if strategy == "ddp" and processes > 1 else alone["gradients"] / share
    )


def test_four_bits_are_about_half_a_byte_for_the_layers():
    size = sizes(base_config(PAPER.model), "bfloat16", PAPER.sft.adapter)
    four = weight_bytes(changed(PAPER, **{"model.load_in_4bit": True}), size)
    outside = 2 * (size.base - size.adapted)
    assert (four - outside) / size.adapted == pytest.approx(0.516, abs=0.001)


def test_generation_is_bound_by_bandwidth_for_few_rows(small):
    config = base_config(small.model)
    slow, fast = (Devices(1, 1, 8e10, 1e15, bandwidth, "x") for bandwidth in (1e12, 2e12))
    assert generation_seconds(small, config, 1, 32, 64, slow, 0.4) > 1.9 * generation_seconds(
        small, config, 1, 32, 64, fast, 0.4
    )
    assert generation_seconds(small, config, 1, 32, 64, slow, 0.4, small.grpo.adapter) > 1.5 * generation_seconds(
        small, config, 1, 32, 64, slow, 0.4
    )


def room_for(recipe: Recipe, **values) -> Devices:
    """A GPU that holds SFT of the changed recipe, and not a byte more."""
    return Devices(1, 1, peak(changed(recipe, **values), devices=read_devices("h100")), 1e15, 1e12, "tight")


@pytest.mark.parametrize(
    "values",
    [
        {"sft.batch_size": 4, "sft.gradient_accumulation": 4},
        {"sft.gradient_checkpointing": True},
        pytest.param(
            {"sft.batch_size": 1, "sft.gradient_accumulation": 16, "sft.logits": "chunked"}, marks=pytest.mark.slow
        ),
    ],
)
def test_what_is_named_fits_costs_no_more_than_what_is_known_to_fit_and_no_part_of_it_is_idle(small, values):
    tight, config = room_for(small, **values), base_config(small.model)
    prices = {key: price for price, one in candidates(small, tight, ["sft"]) for key in one.items()}

    def cost(chosen):
        return sum(prices[one] for one in chosen.items() if one[0] != "sft.gradient_accumulation")

    def fits(chosen):
        return peak(changed(small, **chosen), devices=tight) <= tight.memory

    tokens = assumed_tokens(small, 64)
    found = cheapest(small, config, {"sft": stage_memory(small, config, "sft", tokens, tight)}, tokens, tight)
    assert fits(found) and cost(found) <= cost(values)
    for key in found:
        less = {name: value for name, value in found.items() if name != key}
        assert key == "sft.gradient_accumulation" or not fits(less), key


def test_where_no_change_helps_none_is_named(small):
    tight, config, tokens = Devices(1, 1, 1.0, 1e15, 1e12, "tight"), base_config(small.model), assumed_tokens(small, 64)
    plans = {stage: stage_memory(small, config, stage, tokens, tight) for stage in ("sft", "grpo", "evaluation")}
    assert cheapest(small, config, plans, tokens, tight) is None


@pytest.mark.slow
@pytest.mark.parametrize(("room", "batch"), [(0.97, 64), (0.6, 64)])
def test_the_named_change_makes_it_fit(small, tmp_path, room, batch):
    recipe = changed(small, sft__batch_size=batch)
    cpu = Devices(1, 1, 2**60, 1e11, 1e10, "cpu", cpu=True)
    most = max(peak(recipe, s, 64, cpu) for s in ("sft", "grpo", "evaluation"))
    least = 45e6  # what the framework takes stays
    tight = Devices(1, 1, least + room * (most - least), 1e11, 1e10, "cpu", cpu=True)
    with pytest.raises(GazalError, match="does not fit") as refusal:
        make_plan(recipe, tight, tmp_path, prompt=64, say=lambda line: None)
    named = re.findall(r"--set (\S+)=(\S+)", str(refusal.value))
    assert named, refusal.value
    from gazal.recipe.load import _apply, _number_words

    values = recipe.model_dump()
    for key, value in named:
        _apply(values, f"{key}={value}")
    lines: list[str] = []
    make_plan(Recipe.model_validate(_number_words(values)), tight, tmp_path, prompt=64, say=lines.append)
    assert not any("DOES NOT FIT" in line for line in lines) and any(line.startswith("together") for line in lines)


def test_changes_offered_are_valid_recipes():
    offered = candidates(PAPER, H100, ["sft", "grpo", "evaluation"])
    for price, values in offered:
        assert price > 0 and apply(PAPER, values) not in (None, PAPER), values
    assert [price for price, _ in offered] == sorted(price for price, _ in offered)
    assert halves(96, least=8) == [(1, 48), (2, 24), (3, 12)] and halves(7) == []
    assert halves(7, even=False) == [(1, 3), (2, 1)]


@pytest.mark.parametrize(
    ("text", "machines", "count", "memory"),
    [
        ("80GB", 1, 1, 80e9),
        ("1x80GB", 1, 1, 80e9),
        ("8x80gb", 1, 8, 80e9),
        ("2x8x80GB", 2, 8, 80e9),
        ("8xh100", 1, 8, 80e9),
        ("rtx4090", 1, 1, 24e9),
        ("2xrtx4090", 1, 2, 24e9),
        ("2x4xRTX4090", 2, 4, 24e9),
        ("1x40GiB", 1, 1, 40 * 2**30),
        ("h200", 1, 1, 141e9),
    ],
)
def test_devices(text, machines, count, memory):
    found = read_devices(text)
    assert (found.machines, found.count, found.memory, found.cpu) == (machines, count, memory, False)


def test_every_known_device_has_figures_and_a_source():
    for one in known_devices().values():
        assert one["memory"] > 0 and one["flops"] > 1e13 and one["bandwidth"] > 1e11 and one["source"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("--devices 8xfridge", "--devices 8xfridge: expected cpu"),
        ("--devices 0x80GB", "--devices 0x80GB: expected"),
        ("--devices 1x2x3x80GB", "expected"),
        ("--devices 1x0GB", "expected"),
        ("--devices 1x80GB --tflops 5", "give both, or neither"),
        ("--devices 1x80GB --recipe nowhere", "no such recipe"),
        pytest.param("--devices 1x0.001GB --recipe embedded", "makes it fit", marks=pytest.mark.slow),
        ("--devices 1x80GB --set model.base=nowhere", "no such folder, and no hub id"),
    ],
)
def test_bad_input_is_one_line(command, words):
    result = CliRunner().invoke(app, ["plan", *shlex.split(command)])
    assert (
        isinstance(result.exception, GazalError)
        and words in str(result.exception)
        and "\n" not in str(result.exception)
    )


def test_fewer_devices_than_processes_are_planned_with_what_they_can_run():
    one, eight = read_devices("1x80GB"), read_devices("8x80GB")
    assert fitted_launch(PAPER, eight) == {}
    assert apply(PAPER, fitted_launch(PAPER, one)).launch.processes == 1
    assert (
        apply(PAPER, fitted_launch(PAPER, read_devices("6x80GB"))).launch.processes == 4
    )  # five and six do not share 16 prompts


def test_unknown_hub_model_without_a_hub_says_what_to_do(monkeypatch):
    monkeypatch.setattr("gazal.common.hub.offline", lambda: True)
    with pytest.raises(GazalError, match="Qwen/Qwen9-1B"):
        base_config(PAPER.model.model_copy(update={"base": "Qwen/Qwen9-1B"}))


def test_the_plan_says_its_assumptions_and_no_cost_without_a_price(small, tmp_path):
    lines: list[str] = []
    make_plan(small, read_devices("1x80GB"), tmp_path, prompt=64, price=2.5, say=lines.append)
    text = "\n".join(lines)
    for words in (
        "trainable",
        "sft.max_length",
        "at utilisation 0.4",
        "optimizer",
        "KV cache",
        "rollout copy",
        "fits",
        "USD at 2.5 USD",
    ):
        assert words in text, words
    lines.clear()
    make_plan(small, read_devices("1x80GB"), tmp_path, prompt=64, say=lines.append)
    assert "price not given" in "\n".join(lines)


PUBLISHED = load_recipe("published")


def answered(name, devices="8xh100", recipe=PUBLISHED, load=Load(7491, 212, False), mfu=0.4):
    (one,) = find_targets([name], recipe)
    return served(
        one, base_config(recipe.model.model_copy(update={"base": one.spec})), load, read_devices(devices), mfu
    )


@pytest.mark.parametrize("name", PUBLISHED.models)
def test_every_published_model_has_a_shipped_shape_of_its_size_and_fits_eight_devices(name):
    spec = PUBLISHED.models[name].model
    parameters, looked_up = parameter_counts(base_config(PUBLISHED.model.model_copy(update={"base": spec})))
    assert (
        parameters / 1e9 == pytest.approx(known_models()[spec]["parameters"], rel=0.01)
        and 0 < looked_up < 0.1 * parameters
    )
    found = answered(name)
    assert not found.reason and found.rows > 1 and found.hours > 0


def test_memory_of_a_served_model_by_hand():
    config = base_config(PUBLISHED.model)
    assert cache_bytes(config) == 2 * 64 * 8 * 128 * 2  # keys and values, layers, KV heads, head size, bytes
    assert stored_bytes("Qwen/Qwen3-32B", config, 32_762_123_264) == 2 * 32_762_123_264
    found = answered("qwen-3-32b")
    assert found.parts["weights"] == pytest.approx(2 * 32.76e9 / 8, rel=0.001)
    assert found.parts["cache"] == pytest.approx(256 * (212 + 2048) * 262_144 / 8)
    eight = answered("llama-3.1-405b").parts["weights"] * 8
    assert eight == pytest.approx(
        2 * 405.85e9 - 124 * 3 * 16384 * 53248, rel=0.001
    )  # 124 layers' feed-forward matrices in 8 bits


def test_a_served_model_takes_longer_with_less_bandwidth_and_more_to_say():
    base = answered("qwen-3-32b").hours
    assert answered("qwen-3-32b", mfu=0.2).hours > 1.9 * base
    assert answered("qwen-3-32b", "8xa100").hours > 1.5 * base
    assert answered("qwen-3-32b", load=Load(2 * 7491, 212, False)).hours == pytest.approx(2 * base)
    longer = load_recipe("published", ["models.qwen-3-32b.max_new_tokens=4096"])
    assert answered("qwen-3-32b", recipe=longer).hours > 1.9 * base
    assert answered("qwen-3-32b", "6xh100").devices == 4  # 64 heads do not divide by six
    assert answered("qwen-3-32b", "1x90GB").hours == 0  # speed not known


def test_what_does_not_fit_says_what_it_takes():
    assert (
        "weights and a sequence of 8,192 tokens (evaluation.context) take" in answered("qwen-2.5-72b", "1x80GB").reason
    )
    assert not answered("qwen-3-32b", "1x80GB").reason
    whole = load_recipe("published", ["evaluation.context=null"])
    assert "a sequence of 40,960 tokens" in answered("qwen-3-32b", "1x80GB", whole).reason


def test_prompts_are_counted_from_the_benchmarks_or_from_what_was_measured(tmp_path):
    assert load_of(PUBLISHED, None).prompts == 1273 + 4183 + 500 + 1535
    twice = load_recipe("published", ["evaluation.samples=2", "evaluation.permute=1", "evaluation.benchmark_limit=10"])
    assert load_of(twice, None).prompts == 4 * 10 * 4
    path = tmp_path / "mine.jsonl"
    path.write_text(
        '{"id": "1", "question": "' + 196 * "x" + '", "options": {"A": "1", "B": "2"}, "answer_idx": "A"}\n'
    )
    mine = load_recipe("published", [f"evaluation.benchmarks=[{path}]", "model.system=''"])
    assert load_of(mine, tmp_path).tokens - 20 == (196 + 2 * 5) / CHARACTERS and load_of(mine, tmp_path).prompts == 1
    with pytest.raises(GazalError, match="mine.jsonl: its size is not known here; give --benchmarks"):
        load_of(mine, None)


def test_the_plan_of_the_published_recipe_names_each_model_and_its_cost():
    lines: list[str] = []
    plan_answers(PUBLISHED, H100, [], price=2.5, say=lines.append)
    for name in PUBLISHED.models:
        assert any(line.startswith(name + " ") for line in lines), name
    assert "an upper bound" in lines[-1] and "USD at 2.5 USD per device hour" in lines[-2]
    lines.clear()
    with pytest.raises(
        GazalError, match="1 of the models cannot be asked on 1 × h100: qwen-2.5-72b: weights"
    ) as refusal:
        plan_answers(PUBLISHED, read_devices("h100"), ["qwen-2.5-72b", "qwen-3-32b"], say=lines.append)
    assert (
        "\n" not in str(refusal.value)
        and any(line.startswith("qwen-3-32b ") for line in lines)
        and not any(line.startswith("qwq") for line in lines)
    )


def test_a_model_in_this_process_is_planned_on_one_device(tiny_model):
    lines: list[str] = []
    recipe = load_recipe(
        "published",
        [
            f"models.qwen-3-32b.model={tiny_model}",
            "models.qwen-3-32b.engine=transformers",
            "models.gazal-r1.model=openai:http://x/v1#y",
        ],
    )
    plan_answers(recipe, H100, ["qwen-3-32b"], say=lines.append)
    assert next(line for line in lines if line.startswith("qwen-3-32b")).split()[1] == "1"
    with pytest.raises(GazalError, match="gazal-r1: a server"):
        plan_answers(recipe, H100, ["gazal-r1"], say=lines.append)


def test_gazal_plan_of_the_published_recipe():
    result = CliRunner().invoke(app, ["plan", "--recipe", "published", "--devices", "8x80GB", "--model", "gazal-r1"])
    assert result.exit_code == 0 and "gazal-r1 " in result.output and "llama" not in result.output
