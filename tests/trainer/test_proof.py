"""Proofs around training: hashes, merge parity, rsLoRA's scale and DoRA's norms, and a stage that fails when they do."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from gazal.common.errors import GazalError
from gazal.items.prompts import build_messages
from gazal.knowledge.generate import synthesize
from gazal.models.loading import load_model, load_tokenizer, lora_config, save_adapter
from gazal.models.tensors import tensor_hash
from gazal.recipe.recipe import Recipe
from gazal.recipe.training import AdapterSection
from gazal.trainer.proof import largest_error, last_logits, merge, parity, split_hashes
from gazal.training.rollouts import MergedModel
from gazal.training.sft import train_sft

PROMPTS = [build_messages(item, "") for item in synthesize(64, 5, variety="plain")]


def trained(tiny_model, section: AdapterSection, steps: int = 3) -> PeftModel:
    """A policy after a few real optimizer steps at a rate that moves every adapter weight."""
    torch.manual_seed(0)
    policy = get_peft_model(load_model(tiny_model), lora_config(section)).train()
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=3e-2)
    for _ in range(steps):
        ids = torch.randint(5, 300, (4, 24)).to(policy.device)
        policy(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return policy.eval()


@given(st.integers(1, 64), st.integers(1, 64), st.booleans())
@settings(max_examples=8)
def test_scale_is_alpha_over_root_r_with_rslora_and_alpha_over_r_without(tiny_model, rank, alpha, rslora):
    policy = get_peft_model(load_model(tiny_model), lora_config(AdapterSection(rank=rank, alpha=alpha, rslora=rslora)))
    layers = [m for m in policy.modules() if hasattr(m, "scaling") and hasattr(m, "lora_A")]
    assert len(layers) == 7  # q, k, v, o, gate, up, down of the one layer
    for layer in layers:
        assert layer.scaling["default"] == pytest.approx(
            alpha / (math.sqrt(rank) if rslora else rank)
        )  # Kalajdzievski 2023, theorem 3.2


def test_dora_is_the_identity_at_step_0_and_its_formula_after_training(tiny_model):
    """Liu et al. 2024, equation 5: W' = m (W0 + s BA) / ||W0 + s BA||, norms over each output's weights; at step 0 m = ||W0||, B = 0."""
    section = AdapterSection(rank=4, alpha=8)
    fresh = get_peft_model(load_model(tiny_model), lora_config(section))
    for layer in fresh.modules():
        if hasattr(layer, "lora_magnitude_vector"):
            assert not layer.lora_B["default"].weight.any()
            torch.testing.assert_close(
                layer.lora_magnitude_vector["default"].weight, layer.base_layer.weight.norm(dim=1), rtol=1e-6, atol=0
            )
    policy = trained(tiny_model, section)
    merged = dict(MergedModel(policy).refresh().named_modules())
    checked = 0
    for name, layer in policy.base_model.model.named_modules():
        if not hasattr(layer, "lora_magnitude_vector"):
            continue
        moved = (
            layer.base_layer.weight + 8 / math.sqrt(4) * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        )
        expected = layer.lora_magnitude_vector["default"].weight[:, None] * moved / moved.norm(dim=1, keepdim=True)
        assert not torch.allclose(expected, layer.base_layer.weight, rtol=1e-2)
        torch.testing.assert_close(merged[name].weight, expected, rtol=1e-5, atol=1e-6)
        checked += 1
    assert checked == 7


@pytest.mark.parametrize(
    "section",
    [
        AdapterSection(rank=4, alpha=8),
        AdapterSection(rank=4, alpha=8, dora=False),
        AdapterSection(rank=4, alpha=8, rslora=False),
    ],
)
def test_merged_on_disk_answers_as_base_plus_adapter_and_as_in_memory(tiny_model, tmp_path, section):
    policy = trained(tiny_model, section)
    tokenizer = load_tokenizer(tiny_model)
    expected, in_memory = (
        last_logits(policy, tokenizer, PROMPTS),
        last_logits(MergedModel(policy).refresh(), tokenizer, PROMPTS),
    )
    save_adapter(policy, tokenizer, "tiny", tmp_path / "adapter")
    parity(
        *merge(tiny_model, tmp_path / "adapter", tmp_path / "merged", PROMPTS),
        tmp_path / "merged",
        PROMPTS,
        tmp_path / "parity.json",
        say=lambda line: None,
    )
    found = json.loads((tmp_path / "parity.json").read_text())
    assert found["prompts"] == 64 and found["largest_relative_error"]["float32"] <= 1e-5
    assert 1e-5 < found["largest_relative_error"]["bfloat16"] < 0.1  # reported: eight bits of mantissa cannot keep 1e-5
    reloaded = last_logits(load_model(tmp_path / "merged"), tokenizer, PROMPTS)
    assert largest_error(in_memory, reloaded) == 0 and largest_error(expected, reloaded) <= 1e-5
    assert largest_error(expected, last_logits(load_model(tiny_model), tokenizer, PROMPTS)) > 1e-2


def test_an_adapters_config_is_the_same_bytes_in_every_process(tiny_model, tmp_path):
    """PEFT keeps the adapted layers as a set, whose order Python draws anew for each process."""
    policy = get_peft_model(load_model(tiny_model), lora_config(AdapterSection(rank=4)))
    save_adapter(policy, load_tokenizer(tiny_model), "tiny", tmp_path / "adapter")
    layers = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["target_modules"]
    assert layers == sorted(layers) and len(layers) == 7


def test_a_merge_that_lost_something_is_refused(tiny_model, tmp_path):
    policy, tokenizer = trained(tiny_model, AdapterSection(rank=4, alpha=8)), load_tokenizer(tiny_model)
    save_adapter(policy, tokenizer, "tiny", tmp_path / "adapter")
    before, after = merge(tiny_model, tmp_path / "adapter", tmp_path / "merged", PROMPTS)
    weights = load_file(tmp_path / "merged" / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    save_file(
        weights | {name: weights[name] * 1.001}, tmp_path / "merged" / "model.safetensors", metadata={"format": "pt"}
    )
    with pytest.raises(GazalError, match=r"its logits differ from base \+ adapter by .*e-0[1-5], more than 1e-05"):
        parity(before, after, tmp_path / "merged", PROMPTS, tmp_path / "parity.json", say=lambda line: None)


def test_hashes_tell_frozen_from_trained(tiny_model):
    policy = get_peft_model(load_model(tiny_model), lora_config(AdapterSection(rank=4)))
    frozen, adapter = split_hashes(policy)
    with torch.no_grad():
        next(p for p in policy.parameters() if p.requires_grad).view(-1)[0] += 1e-3
    assert split_hashes(policy)[0] == frozen and split_hashes(policy)[1] != adapter
    with torch.no_grad():
        next(p for p in policy.parameters() if not p.requires_grad).view(-1)[-1] += 1e-7
    assert split_hashes(policy)[0] != frozen


def test_the_hash_sees_names_dtypes_and_shapes_and_not_the_order():
    a, b = torch.arange(6.0), torch.ones(2)
    assert tensor_hash([("a", a), ("b", b)]) == tensor_hash([("b", b), ("a", a)])
    assert (
        len(
            {
                tensor_hash(pairs)
                for pairs in (
                    [("a", a)],
                    [("b", a)],
                    [("a", a.view(2, 3))],
                    [("a", a.view(torch.int32))],
                    [("a", a.bfloat16())],
                )
            }
        )
        == 5
    )


@pytest.fixture
def recipe(tiny_model) -> Recipe:
    return Recipe.model_validate(
        {"model": {"base": str(tiny_model)}, "sft": {"batch_size": 8, "learning_rate": 1e-2, "warmup_steps": 0}}
    )


def test_a_stage_that_trains_nothing_or_touches_the_base_fails_with_the_reason(recipe, tmp_path):
    from transformers import TrainerCallback

    items = synthesize(8, 3, variety="plain")

    class Touch(TrainerCallback):
        """What a bf16 merge and unmerge does to a frozen base: a drift too small to see (trl#6688)."""

        def on_step_end(self, args, state, control, model=None, **kwargs):
            with torch.no_grad():
                model.base_model.model.model.norm.weight.mul_(1 + 1e-6)

    with pytest.raises(GazalError, match="sft: training changed the frozen base"):
        train_sft(recipe, items, tmp_path / "touched", callbacks=[Touch()], say=lambda line: None)

    class Freeze(TrainerCallback):
        """An adapter that is not handed to the optimizer trains nothing (trl#6701)."""

        def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
            for group in optimizer.optimizer.param_groups:
                group["lr"], group["weight_decay"] = 0.0, 0.0

    with pytest.raises(GazalError, match="sft: training left the adapter as it was"):
        train_sft(recipe, items, tmp_path / "still", callbacks=[Freeze()], say=lambda line: None)
    for folder in ("touched", "still"):
        assert not (tmp_path / folder / "adapter").exists() and not (tmp_path / folder / "merged").exists()
        shutil.rmtree(tmp_path / folder)
