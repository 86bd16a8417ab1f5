"""Each option of the training rooms by a small real run, against its formula where it has one."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from pytorch_optimizer import EXAdam
from transformers import TrainerCallback, set_seed
from trl.trainer.grpo_trainer import GRPOTrainer

from gazal.common.errors import GazalError
from gazal.items.schema import Item
from gazal.knowledge.generate import synthesize
from gazal.models.loading import load_model, load_tokenizer, lora_config
from gazal.recipe.recipe import Recipe
from gazal.recipe.training import AdapterSection
from gazal.trainer.backend import four_bit_config, gpu_options, require_options, unsloth_adapter
from gazal.training.grpo import grpo_trainer, train_grpo
from gazal.training.sft import sft_dataset, sft_trainer, train_sft

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU: the option may run")


@pytest.fixture(scope="module")
def items() -> list[Item]:
    return synthesize(24, 3, variety="plain")


def recipe(tiny_model: Path, stage: str = "grpo", model: dict | None = None, **values: object) -> Recipe:
    sizes = {
        "sft": {"batch_size": 8, "checkpoint_steps": 1, "learning_rate": 1e-2},
        "grpo": {
            "steps": 2,
            "prompts_per_step": 2,
            "num_generations": 4,
            "batch_size": 8,
            "pass_rate_samples": 0,
            "max_completion_length": 12,
            "learning_rate": 1e-2,
        },
    }
    return Recipe.model_validate(
        {
            "model": {"base": str(tiny_model), "system": ""} | (model or {}),
            stage: sizes[stage] | {"warmup_steps": 0, "bf16": False} | values,
        }
    )


def rewards() -> list:
    """Two objectives of different scale that any text earns some of."""

    def letters(completions, **columns):
        return [10.0 * sum(c.isalpha() for c in turns[0]["content"]) for turns in completions]

    def spaces(completions, **columns):
        return [float(turns[0]["content"].count(" ") % 3) for turns in completions]

    return [letters, spaces, *[named(name) for name in ("zero", "nought")]]


def named(name: str):
    def reward(completions, **columns):
        return [0.0] * len(completions)

    reward.__name__ = name
    return reward


class Batches(TrainerCallback):
    """Keeps the logged steps."""

    def __init__(self) -> None:
        self.rows: list[dict] = []

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if logs and "loss" in logs:
            self.rows.append(dict(logs))


def run(made: Recipe, items: list[Item], model: Path, folder: Path) -> tuple[GRPOTrainer, list[dict]]:
    """Train with :func:`rewards`; the trainer and its logged steps."""
    kept = Batches()
    trainer = grpo_trainer(made, items, model, load_tokenizer(model), rewards(), folder, [kept], save_strategy="no")
    trainer.train()
    return trainer, kept.rows


def batch_of(trainer: GRPOTrainer, lengths: list[int], cap: int, shift: float) -> tuple[dict, torch.Tensor]:
    """A scored batch of given completion lengths whose old log-probabilities lie ``shift`` below the policy's, and the latter."""
    device = trainer.args.device
    ids = torch.arange(len(lengths) * (4 + cap), device=device).view(len(lengths), -1) % 300 + 5
    mask = torch.tensor([[1] * n + [0] * (cap - n) for n in lengths], device=device)
    attention = torch.cat([torch.ones_like(ids[:, :4]), mask], dim=1)
    with torch.no_grad():
        logps, *_ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, attention, cap)
    return {
        "prompt_ids": ids[:, :4],
        "prompt_mask": attention[:, :4],
        "completion_ids": ids[:, 4:],
        "completion_mask": mask,
        "advantages": torch.tensor([1.0, -1.0, 0.5, -0.25], device=device),
        "old_per_token_logps": logps - shift,
        "num_items_in_batch": mask.sum(),
    }, logps


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo", "bnpo"])
def test_loss_types_follow_their_formula(loss_type, tiny_model, items, tmp_path):
    made = recipe(tiny_model, loss_type=loss_type, num_generations=4, prompts_per_step=1, batch_size=4, steps=1)
    trainer, rows = run(made, items, tiny_model, tmp_path)
    assert len(rows) == 1 and math.isfinite(rows[0]["loss"]) and rows[0]["grad_norm"] > 0
    lengths, cap, shift = [2, 12, 5, 9], 12, 0.1
    batch, _ = batch_of(trainer, lengths, cap, shift)
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch).item()
    ratio = math.exp(shift)  # of every token; clipped at 1.2, so exp(0.1) = 1.105 stays
    sums = [-ratio * a * n for a, n in zip([1.0, -1.0, 0.5, -0.25], lengths, strict=True)]
    expected = {
        "grpo": sum(s / n for s, n in zip(sums, lengths, strict=True)) / 4,  # mean over sequences of means over tokens
        "bnpo": sum(sums) / sum(lengths),  # mean over the batch's tokens
        "dapo": sum(sums) / sum(lengths),  # mean over the tokens of the whole step, here one batch
        "dr_grpo": sum(sums) / (4 * cap),  # a constant: sequences × max_completion_length
    }[loss_type]
    assert loss == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("high, clipped", [(None, True), (0.5, False)])
def test_clip_higher_frees_only_the_upper_side(high, clipped, tiny_model, items, tmp_path):
    trainer, _ = run(
        recipe(tiny_model, epsilon_high=high, loss_type="bnpo", prompts_per_step=1, batch_size=4, steps=1),
        items,
        tiny_model,
        tmp_path,
    )
    lengths = [3, 3, 3, 3]
    trainer.model.train()
    up = trainer.compute_loss(
        trainer.model, batch_of(trainer, lengths, 12, math.log(1.4))[0]
    ).item()  # every ratio is 1.4
    gain = 1.2 if clipped else 1.4
    assert up == pytest.approx(
        -(gain * (1.0 + 0.5) + 1.4 * (-1.0 - 0.25)) / 4, rel=1e-4
    )  # only gains are clipped above
    down = trainer.compute_loss(trainer.model, batch_of(trainer, lengths, 12, math.log(0.6))[0]).item()
    assert down == pytest.approx(
        -(0.6 * (1.0 + 0.5) + 0.8 * (-1.0 - 0.25)) / 4, rel=1e-4
    )  # and losses below, at 1 - 0.2 either way


def test_kl_is_to_the_model_without_its_adapter(tiny_model, items, tmp_path):
    trainer, rows = run(recipe(tiny_model, beta=0.5, steps=4), items, tiny_model, tmp_path)
    assert abs(rows[0]["kl"]) < 1e-6  # a new adapter changes nothing
    assert all(row["kl"] > 1e-6 for row in rows[1:]) and rows[-1]["kl"] > rows[1]["kl"]
    assert trainer.ref_model is None  # no second model in memory
    assert all("kl" not in row for row in run(recipe(tiny_model), items, tiny_model, tmp_path / "none")[1])


@pytest.mark.parametrize("aggregation", ["sum", "gdpo"])
def test_aggregation_by_hand_on_one_step(aggregation, tiny_model, items, tmp_path):
    made = recipe(tiny_model, aggregation=aggregation, steps=1)
    trainer, _ = run(made, items, tiny_model, tmp_path)
    scores = torch.tensor(
        [trainer._logs["rewards"][name] for name in trainer.reward_func_names], dtype=torch.float64
    ).T.reshape(2, 4, 4)  # prompts, completions, rewards
    weights = torch.tensor(made.grpo.rewards.weights(), dtype=torch.float64)
    if aggregation == "sum":  # weigh and add, then normalise in the group
        total = (scores * weights).sum(-1)
        expected = (total - total.mean(1, keepdim=True)) / (total.std(1, keepdim=True) + 1e-4)
    else:  # GDPO: normalise each reward in its group, weigh and add, then normalise over the batch
        each = (scores - scores.mean(1, keepdim=True)) / (scores.std(1, keepdim=True) + 1e-4)
        total = (each * weights).sum(-1)
        expected = (total - total.mean()) / (total.std() + 1e-4)
    assert scores.std(1).sum() > 0
    assert torch.allclose(
        torch.tensor(list(trainer._logs["advantages"]), dtype=torch.float64), expected.flatten(), atol=1e-4
    )


def exadam(weight: float, gradients: list[float], rate: float, decay: float, eps: float = 1e-8) -> list[float]:
    """Algorithm 1 of EXAdam (arXiv 2412.20302v2) in plain arithmetic, with decoupled decay as in its authors' code."""
    mean = square = 0.0
    made = []
    for step, gradient in enumerate(gradients, 1):
        weight -= rate * decay * weight
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        first = 1 + square / (square + eps) * 0.999**step  # debiasing of the mean by the second moment
        second = 1 + mean**2 / (mean**2 + eps) * 0.9**step  # and of the second moment by the mean
        numerator = (mean + gradient) / (1 - 0.9**step) * first  # m̃ + g̃
        weight -= rate * numerator / (math.sqrt(square / (1 - 0.999**step) * second) + eps)
        made.append(weight)
    return made


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_exadam_follows_the_published_rule(decay):
    gradients = [0.5, -0.2, 1e-5, 3.0]
    weight = torch.nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = EXAdam([weight], lr=1e-2, weight_decay=decay)
    made = []
    for gradient in gradients:
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        made.append(weight.item())
    assert made == pytest.approx(exadam(2.0, gradients, 1e-2, decay), rel=1e-12)
    # The first step by hand (decay 0): m = 0.05, v = 0.00025, d1 = d2 = 1.999, 1.9: m̃ + g̃ = (0.05 + 0.5)/0.1 · 1.999, ṽ = 0.25 · 1.9
    if not decay:
        assert made[0] == pytest.approx(2.0 - 1e-2 * (5.5 * 1.99896004) / math.sqrt(0.25 * 1.89999640), rel=1e-8)


@pytest.mark.slow
def test_exadam_trains_both_stages_with_the_trainers_groups(tiny_model, items, tmp_path):
    train_sft(recipe(tiny_model, "sft", optimizer="exadam"), items, tmp_path / "sft", say=lambda line: None)
    plain = recipe(tiny_model, "sft")
    train_sft(plain, items, tmp_path / "adamw", say=lambda line: None)
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("sft", "adamw")
    ]
    assert losses[0][0] == losses[1][0] and losses[0][-1] != losses[1][-1] and losses[0][-1] < losses[0][0]
    trainer, rows = run(recipe(tiny_model, optimizer="exadam"), items, tiny_model, tmp_path)
    optimizer = trainer.optimizer.optimizer  # inside accelerate's wrapper
    assert isinstance(optimizer, EXAdam) and len(rows) == 2 and rows[0]["grad_norm"] > 0
    names = {id(p): n for n, p in trainer.model.named_parameters()}
    grouped = [{names[id(p)] for p in group["params"]} for group in optimizer.param_groups]
    assert (
        grouped[0] | grouped[1] == {n for n, p in trainer.model.named_parameters() if p.requires_grad}
        and optimizer.param_groups[0]["eps"] == 1e-8
    )


@pytest.mark.slow
def test_exadam_goes_on_from_a_checkpoint(tiny_model, items, tmp_path):
    made = recipe(tiny_model, "sft", optimizer="exadam")

    def trained(folder: Path, steps: int, resume: bool = False) -> dict[str, torch.Tensor]:
        set_seed(1)
        trainer = sft_trainer(made, sft_dataset(items, ""), load_tokenizer(tiny_model), folder, [], max_steps=3)
        if steps < 3:
            trainer.add_callback(StopAt(steps))
        trainer.train_from_newest(lambda line: None) if resume else trainer.train()
        return {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}

    whole = trained(tmp_path / "whole", 3)
    trained(tmp_path / "cut", 2)
    resumed = trained(tmp_path / "cut", 3, resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


class StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs) -> None:
        control.should_training_stop = state.global_step == self.step


@NO_GPU
@pytest.mark.parametrize(
    "stage, model, values, option, module",
    [
        ("sft", {"backend": "unsloth"}, {}, "model.backend=unsloth", "unsloth"),
        ("grpo", {"backend": "unsloth"}, {}, "model.backend=unsloth", "unsloth"),
        ("sft", {"load_in_4bit": True}, {}, "model.load_in_4bit=true", "bitsandbytes"),
        ("sft", {}, {"optimizer": "adamw_8bit"}, "sft.optimizer=adamw_8bit", "bitsandbytes"),
        ("grpo", {}, {"optimizer": "adamw_8bit"}, "grpo.optimizer=adamw_8bit", "bitsandbytes"),
        ("grpo", {}, {"logits": "liger"}, "grpo.logits=liger", "liger-kernel"),
        ("sft", {}, {"logits": "liger"}, "sft.logits=liger", "liger-kernel"),
    ],
)
def test_what_needs_a_gpu_is_refused_in_one_line_before_anything_is_loaded(
    stage, model, values, option, module, items, tmp_path
):
    made = recipe(tmp_path / "no such model", stage, model, **values)
    with pytest.raises(GazalError) as error:
        train_sft(made, items, tmp_path / "run") if stage == "sft" else train_grpo(
            made, items, tmp_path / "none", tmp_path / "run"
        )
    found = str(error.value)
    assert (
        found.startswith(f"{option}: needs an NVIDIA GPU")
        and found.endswith("not found here")
        and not (tmp_path / "run").exists()
    )
    if importlib.util.find_spec(module.replace("-", "_")) is None:
        assert f"and {module} (pip install 'gazal[gpu]')" in found


def test_only_chosen_options_are_asked_for(tiny_model):
    plain = recipe(tiny_model)
    assert gpu_options(plain, "sft") == gpu_options(plain, "grpo") == {}
    require_options(plain, "grpo")
    both = recipe(tiny_model, "sft", {"backend": "unsloth", "load_in_4bit": True})
    assert list(gpu_options(both, "sft").values()) == ["unsloth", "bitsandbytes"]


def test_four_bit_is_nf4_with_double_quantisation_and_bf16_arithmetic():
    config = four_bit_config()
    assert (
        config.load_in_4bit,
        config.bnb_4bit_quant_type,
        config.bnb_4bit_use_double_quant,
        config.bnb_4bit_compute_dtype,
    ) == (True, "nf4", True, torch.bfloat16)


def test_unsloths_adapter_is_the_one_that_peft_makes(tiny_model):
    """What unsloth hands on to PEFT's LoraConfig gives the adapter of the transformers backend, layer by layer."""
    section = AdapterSection(rank=4, alpha=8)
    made = [
        get_peft_model(load_model(tiny_model), config)
        for config in (
            lora_config(section),
            LoraConfig(**unsloth_adapter(section), task_type="CAUSAL_LM"),
        )
    ]
    shapes = [{n: tuple(p.shape) for n, p in model.named_parameters() if p.requires_grad} for model in made]
    assert shapes[0] == shapes[1] and any("magnitude" in name for name in shapes[0])
    assert made[0].peft_config["default"].use_rslora and made[1].peft_config["default"].use_rslora
