"""Training that stops by itself: each alarm provoked by a real run where a tiny one can, windows by logs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gazal.common.errors import GazalError
from gazal.items.schema import Item
from gazal.knowledge.generate import synthesize
from gazal.recipe.recipe import Recipe
from gazal.recipe.rewards import COMPONENTS
from gazal.recipe.training import HealthSection
from gazal.trainer.checkpoints import checkpoints, is_whole
from gazal.trainer.health import ACCURACY, ENTROPY, FORMAT, TRUNCATED, ZERO_SIGNAL, Health, fault
from gazal.training import grpo as grpo_train
from gazal.training.grpo import train_grpo
from gazal.training.sft import train_sft

SECTION = HealthSection(window=3)
FINE = {"loss": 0.1, "grad_norm": 0.2, ENTROPY: 0.2, ZERO_SIGNAL: 0.1, TRUNCATED: 0.0, ACCURACY: 0.5, FORMAT: 0.9}


@pytest.fixture(scope="module")
def items() -> list[Item]:
    return synthesize(16, 3, variety="plain")


def recipe(tiny_model: Path, stage: str, **values: object) -> Recipe:
    """A recipe of tiny steps, one checkpoint each; ``values`` are the stage's."""
    sizes = {
        "sft": {"batch_size": 4},
        "grpo": {
            "steps": 6,
            "prompts_per_step": 2,
            "num_generations": 2,
            "batch_size": 4,
            "pass_rate_samples": 0,
            "max_completion_length": 8,
        },
    }
    common = {"checkpoint_steps": 1, "warmup_steps": 0, "bf16": False}
    return Recipe.model_validate(
        {"model": {"base": str(tiny_model), "system": ""}, stage: sizes[stage] | common | values}
    )


def stopped(message: str, run, *arguments: object, kept: list[int] | None = None) -> int:
    """The step at which a run stopped with ``message``; its newest checkpoint is whole and of the step before, or ``kept`` are all."""
    folder: Path = arguments[-1]
    with pytest.raises(GazalError, match=message) as error:
        run(*arguments, say=lambda line: None)
    step = int(str(error.value).split("stopped at step ")[1].split(":")[0])
    found = checkpoints(folder / ".checkpoints")
    expected = ([step - 1] if step > 1 else []) if kept is None else kept
    assert [int(path.name.rpartition("-")[2]) for path in found[:1]] == expected and all(map(is_whole, found))
    logged = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert logged == list(range(1, step + 1))  # the step that showed the fault is in the log
    return step


class Poison(TrainerCallback):
    """Puts a NaN into a trained weight before a step, as a fault of memory or arithmetic would."""

    def on_step_begin(self, args, state, control, model=None, **kwargs) -> None:
        if state.global_step == 2:
            next(p for p in model.parameters() if p.requires_grad).data.view(-1)[0] = float("nan")


def test_a_loss_that_is_not_a_number_stops_sft(tiny_model, items, tmp_path):
    def train(made, given, folder, say):
        return train_sft(made, given, folder, [Poison()], say)

    reason = r"sft: stopped at step 3: loss is nan: lower sft.learning_rate"
    assert stopped(reason, train, recipe(tiny_model, "sft"), items, tmp_path / "poisoned") == 3
    endless = recipe(tiny_model, "sft", learning_rate=1e39, checkpoint_steps=50)  # the first update is infinite
    assert stopped(reason.replace("3", "2"), train_sft, endless, items, tmp_path / "endless", kept=[]) == 2


def test_weights_are_looked_at_before_a_checkpoint_is_written(tiny_model, items, tmp_path):
    # Loss and gradient of the first step are finite; its update is not, and no later step has shown it yet.
    endless = recipe(tiny_model, "sft", learning_rate=1e39)
    assert stopped("a trained weight is not finite: lower sft.learning_rate", train_sft, endless, items, tmp_path) == 1


def test_rewards_that_never_vary_stop_grpo(tiny_model, items, tmp_path, monkeypatch):
    def constant(name: str):
        def reward(completions, **columns):
            return [0.5] * len(completions)

        reward.__name__ = name
        return reward

    monkeypatch.setattr(grpo_train, "trl_reward_functions", lambda *a, **k: [constant(name) for name in COMPONENTS])
    flat = recipe(tiny_model, "grpo", health={"zero_signal_steps": 3})
    assert (
        stopped(
            r"no group had a signal in 3 successive steps \(grpo.health.zero_signal_steps 3\)",
            train_grpo,
            flat,
            items,
            tiny_model,
            tmp_path,
        )
        == 3
    )


def test_completions_at_the_length_cap_stop_grpo(tiny_model, items, tmp_path):
    short = recipe(tiny_model, "grpo", health={"window": 2, "zero_signal_steps": 0})
    step = stopped(
        r"of the completions of 2 steps were cut at the length cap, above grpo.health.max_truncated 0.9",
        train_grpo,
        short,
        items,
        tiny_model,
        tmp_path,
    )
    assert step == 2  # a random model does not stop within eight tokens


def test_collapsed_entropy_stops_grpo(tiny_model, items, tmp_path):
    cold = recipe(
        tiny_model, "grpo", temperature=1e-3, health={"window": 2, "zero_signal_steps": 0, "max_truncated": 1.0}
    )
    assert (
        stopped(
            r"mean entropy over 2 steps is .* nats, below grpo.health.min_entropy 0.01",
            train_grpo,
            cold,
            items,
            tiny_model,
            tmp_path,
        )
        >= 2
    )


def test_healthy_logs_pass_and_each_fault_names_its_key():
    assert fault([FINE] * 30, SECTION, "grpo") is None and fault([], SECTION, "grpo") is None
    for name in ("loss", "grad_norm"):
        for value in (float("nan"), float("inf"), float("-inf")):
            assert f"{name} is {value}" in fault([FINE, FINE | {name: value}], SECTION, "grpo")
    assert "grpo.health.min_entropy" in fault([FINE | {ENTROPY: 0.0}] * 3, SECTION, "grpo")
    assert "grpo.health.max_truncated" in fault([FINE | {TRUNCATED: 1.0}] * 3, SECTION, "grpo")
    assert "grpo.health.zero_signal_steps 8" in fault([FINE | {ZERO_SIGNAL: 1.0}] * 8, SECTION, "grpo")
    assert fault([{"loss": 0.0, ENTROPY: 0.0}] * 30, SECTION, "sft") is None  # traces may be predicted with certainty


def test_hacking_alarm_compares_two_full_windows():
    before, after = FINE | {FORMAT: 0.5, ACCURACY: 0.5}, FINE | {FORMAT: 0.9, ACCURACY: 0.3}
    rows = [before] * 3 + [after] * 3
    assert (
        "format reward rose by 0.4 (grpo.health.format_rise 0.1) while accuracy fell by 0.2 (grpo.health.accuracy_fall 0.1)"
        in fault(rows, SECTION, "grpo")
    )
    assert fault(rows[1:], SECTION, "grpo") is None  # the first window is not full
    assert (
        fault([before] * 3 + [after | {ACCURACY: 0.5}] * 3, SECTION, "grpo") is None
    )  # format rises alone, as it should
    assert fault([before] * 3 + [after | {FORMAT: 0.5}] * 3, SECTION, "grpo") is None  # accuracy falls alone
    assert fault(rows, HealthSection(window=3, accuracy_fall=0), "grpo") is None


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=12), st.integers(1, 4))
def test_no_signal_counts_successive_steps_only(shares, limit):
    rows = [FINE | {ZERO_SIGNAL: share} for share in shares]
    section = HealthSection(window=20, zero_signal_steps=limit)
    run = 0
    for share in reversed(shares):
        if share != 1:
            break
        run += 1
    assert (fault(rows, section, "grpo") is not None) == (run >= limit)
    assert fault(rows, HealthSection(window=20, zero_signal_steps=0), "grpo") is None


@given(st.lists(st.floats(0, 0.5), min_size=1, max_size=12), st.integers(2, 5), st.floats(0.001, 0.4))
def test_entropy_is_judged_by_the_mean_of_the_last_window(values, window, least):
    found = fault(
        [FINE | {ENTROPY: value} for value in values], HealthSection(window=window, min_entropy=least), "grpo"
    )
    assert (found is not None) == (len(values) >= window and sum(values[-window:]) / window < least)


@given(
    st.lists(st.tuples(st.floats(0, 0.05), st.sampled_from([0.0, 1.0]), st.floats(0, 1)), min_size=2, max_size=14),
    st.data(),
)
def test_a_resumed_run_stops_where_the_uninterrupted_one_does(values, data):
    """The windows are rebuilt from the state that a checkpoint keeps."""
    logs = [FINE | {ENTROPY: entropy, ZERO_SIGNAL: zero, ACCURACY: accuracy} for entropy, zero, accuracy in values]
    section, arguments = (
        HealthSection(window=3, zero_signal_steps=2),
        TrainingArguments("unused", use_cpu=True, report_to="none"),
    )

    def first_stop(health: Health, start: int, history: list[dict]) -> int | None:
        state = TrainerState(log_history=list(history))
        health.on_train_begin(arguments, state, TrainerControl())
        for step, row in enumerate(logs[start:], start + 1):
            state.global_step = step
            try:
                health.on_log(arguments, state, TrainerControl(), logs=row)
            except GazalError:
                return step
        return None

    whole = first_stop(Health(section, "grpo"), 0, [])
    cut = data.draw(st.integers(0, (whole or len(logs) + 1) - 1))
    assert first_stop(Health(section, "grpo"), cut, [row | {"step": i} for i, row in enumerate(logs[:cut], 1)]) == whole


def test_defaults_let_recorded_runs_pass():
    """Means and spread of the embedded recipe's 24 steps (entropy 0.13 to 0.25, accuracy within ±0.2, no truncation)."""
    accuracy = [
        0.53,
        0.36,
        0.41,
        0.43,
        0.48,
        0.49,
        0.21,
        0.49,
        0.39,
        0.45,
        0.47,
        0.44,
        0.34,
        0.51,
        0.41,
        0.57,
        0.48,
        0.36,
        0.58,
        0.35,
        0.39,
        0.48,
        0.60,
        0.55,
    ]
    entropy = [
        0.21,
        0.20,
        0.18,
        0.19,
        0.17,
        0.17,
        0.22,
        0.19,
        0.15,
        0.15,
        0.16,
        0.16,
        0.18,
        0.15,
        0.17,
        0.16,
        0.17,
        0.16,
        0.16,
        0.16,
        0.14,
        0.14,
        0.15,
        0.15,
    ]
    rows = [FINE | {ACCURACY: a, ENTROPY: e, ZERO_SIGNAL: 0.25} for a, e in zip(accuracy, entropy, strict=True)]
    assert all(fault(rows[:n], HealthSection(), "grpo") is None for n in range(1, len(rows) + 1))
