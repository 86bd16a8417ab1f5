"""The training rooms on tiny real runs: a random Qwen3, a real adapter, real TRL trainers."""

from __future__ import annotations

import json
import math

import pytest
import torch
from helpers.formats import check
from peft import PeftModel, get_peft_model
from transformers import TrainerState

from gazal.common.errors import GazalError
from gazal.items.prompts import build_messages
from gazal.items.schema import Item
from gazal.knowledge.generate import synthesize
from gazal.models.generation import generate
from gazal.models.loading import load_model, load_tokenizer, lora_config
from gazal.recipe.recipe import Recipe
from gazal.recipe.training import AdapterSection
from gazal.trainer.schemas import GrpoStep
from gazal.training.difficulty import choose_items
from gazal.training.grpo import train_grpo
from gazal.training.rollouts import MergedModel, MergedRollouts, encode_prompts
from gazal.training.sft import sft_dataset, train_sft


@pytest.fixture(scope="module")
def items() -> list[Item]:
    return synthesize(24, 3, variety="plain")


@pytest.fixture(scope="module")
def recipe(tiny_model) -> Recipe:
    return Recipe.model_validate(
        {
            "model": {"base": str(tiny_model)},
            "sft": {
                "batch_size": 8,
                "epochs": 2.0,
                "learning_rate": 2e-2,
                "warmup_steps": 0,
            },  # six steps must show in the loss
            "grpo": {
                "steps": 2,
                "prompts_per_step": 2,
                "num_generations": 4,
                "batch_size": 4,
                "pass_rate_samples": 1,
                "pass_rate_low": 0.0,
                "pass_rate_high": 1.0,
                "max_completion_length": 24,
            },
        }
    )


@pytest.fixture(scope="module")
def sft_folder(recipe, items, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sft")
    train_sft(recipe, items, folder, say=lambda line: None)
    return folder


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits


def perturbed(model, seed=0):
    """A policy whose adapter has been moved away from its start."""
    policy = get_peft_model(model, lora_config(AdapterSection(rank=4, alpha=8)))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return policy.eval()


def test_new_adapter_changes_nothing_and_scale_is_rslora(tiny_model):
    base = load_model(tiny_model)
    expected = logits(base, [5, 6, 7, 8])
    policy = get_peft_model(base, lora_config(AdapterSection(rank=4, alpha=8))).eval()
    assert torch.allclose(logits(policy, [5, 6, 7, 8]), expected, atol=1e-5)
    layer = policy.base_model.model.model.layers[0].mlp.up_proj
    assert layer.scaling["default"] == pytest.approx(8 / math.sqrt(4))
    assert torch.allclose(layer.lora_magnitude_vector["default"].weight, layer.base_layer.weight.norm(dim=1), rtol=1e-5)


def test_merged_copy_equals_policy_and_leaves_it_alone(tiny_model):
    policy = perturbed(load_model(tiny_model))
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    expected = logits(policy, [5, 6, 7, 8])
    for _ in range(3):
        assert torch.allclose(logits(MergedModel(policy).refresh(), [5, 6, 7, 8]), expected, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(before[name], value) for name, value in policy.state_dict().items())


def test_merged_rollouts_are_the_policys_own_greedy_completions(tiny_model, items):
    class Trainer:
        pass

    policy, tokenizer = perturbed(load_model(tiny_model)), load_tokenizer(tiny_model)
    trainer = Trainer()
    trainer.model, trainer.processing_class = policy, tokenizer
    trainer.state = TrainerState()
    trainer.accelerator = type("Accelerator", (), {"unwrap_model": staticmethod(lambda model: model)})
    section = Recipe().grpo.model_copy(update={"temperature": 1e-6, "max_completion_length": 12})
    prompts = [build_messages(item, "") for item in items[:4]]
    rolled = MergedRollouts(section, 0)(prompts, trainer)
    ids = encode_prompts(tokenizer, prompts)
    assert rolled["prompt_ids"] == ids
    greedy = sorted(generate(policy, tokenizer, ids, max_new_tokens=12))
    assert rolled["completion_ids"] == [made.ids for made in greedy]


def test_sft_trains_the_completion_and_ends_it_with_eos(recipe, items, sft_folder, tiny_model):
    tokenizer = load_tokenizer(tiny_model)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    example = sft_dataset(items[:1], "")[0]
    prompt = tokenizer.apply_chat_template(example["prompt"], add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template(example["prompt"] + example["completion"], tokenize=False)
    assert whole.startswith(prompt) and whole.removeprefix(prompt).startswith("<think>\nStep 1: ")
    assert whole.rstrip().endswith(tokenizer.eos_token)
    losses = [json.loads(line)["loss"] for line in (sft_folder / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 6 and losses[-1] < losses[0]


def test_merged_on_disk_is_base_plus_adapter(sft_folder, tiny_model):
    merged = load_model(sft_folder / "merged")
    policy = PeftModel.from_pretrained(load_model(tiny_model), str(sft_folder / "adapter")).eval()
    expected = logits(policy, [5, 6, 7, 8])
    assert (logits(merged, [5, 6, 7, 8]) - expected).abs().max() / expected.abs().max() < 1e-5
    assert not torch.allclose(expected, logits(load_model(tiny_model), [5, 6, 7, 8]), atol=1e-4)


def test_sft_refuses_examples_that_would_lose_their_eos(recipe, items, tmp_path):
    short = recipe.model_copy(update={"sft": recipe.sft.model_copy(update={"max_length": 32})})
    with pytest.raises(GazalError, match="all 24 examples are longer than 32 tokens"):
        train_sft(short, items, tmp_path)
    assert not (tmp_path / "adapter").exists()


def test_grpo_runs_and_logs_each_component(recipe, items, sft_folder, tmp_path):
    # A random model earns no signal from accuracy, so length decides here: the adapter must still move.
    rewards = recipe.grpo.rewards.model_copy(update={"length_kind": "cosine", "max_tokens": 24})
    moving = recipe.model_copy(update={"grpo": recipe.grpo.model_copy(update={"rewards": rewards})})
    try:
        train_grpo(moving, items, sft_folder / "merged", tmp_path, say=lambda line: None)
    except GazalError as error:
        assert "left the adapter as it was" in str(error)  # noqa: PT017 - the honest outcome when no group has a signal
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        check(GrpoStep, row)


def test_too_few_items_after_the_filter_is_one_line(recipe, items, sft_folder, tmp_path):
    strict = recipe.model_copy(
        update={"grpo": recipe.grpo.model_copy(update={"pass_rate_low": 0.99, "pass_rate_high": 0.995})}
    )
    with pytest.raises(GazalError, match="0 items left by the pass-rate filter"):
        choose_items(strict, items, sft_folder / "merged", tmp_path, say=lambda line: None)
