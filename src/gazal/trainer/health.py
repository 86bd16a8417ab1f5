"""Stop a stage, with the reason, before the step that showed the fault is written as a checkpoint.

The Trainer logs a step before it saves it, so after an error raised here the newest checkpoint is an earlier one.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import TrainerCallback

from gazal.common.errors import GazalError
from gazal.recipe.training import HealthSection

ACCURACY, FORMAT = "rewards/accuracy/mean", "rewards/format/mean"
ENTROPY, ZERO_SIGNAL, TRUNCATED = "entropy", "frac_reward_zero_std", "completions/clipped_ratio"


def _mean(rows: list[dict[str, Any]], key: str) -> float | None:
    """Return the mean of a logged value; None if a step lacks it or there is no step."""
    values = [row.get(key) for row in rows]
    return None if not values or None in values else sum(values) / len(values)


def fault(rows: list[dict[str, Any]], section: HealthSection, stage: str) -> str | None:
    """Return why training should stop after the last of ``rows`` (logged steps, oldest first), or None.

    The reason names the value, the threshold and the recipe's key. A window is the last ``section.window`` steps, and
    is judged once it is full. The check for reward hacking compares it with the window before.
    """
    if not rows:
        return None
    last, key = rows[-1], f"{stage}.health"
    for name in ("loss", "grad_norm"):
        if last.get(name) is not None and not math.isfinite(last[name]):
            return f"{name} is {last[name]}: lower {stage}.learning_rate, or look at this step's examples"
    if stage == "sft":  # the rest is about sampling; the entropy of given traces may well go to zero
        return None
    steps = section.zero_signal_steps
    if steps and len(rows) >= steps and all(row.get(ZERO_SIGNAL) == 1 for row in rows[-steps:]):
        return (
            f"no group had a signal in {steps} successive steps ({key}.zero_signal_steps {steps}): "
            "all rewards of each group are equal"
        )
    if len(rows) < section.window:
        return None
    window, before = rows[-section.window :], rows[-2 * section.window : -section.window]
    entropy, truncated = _mean(window, ENTROPY), _mean(window, TRUNCATED)
    if section.min_entropy and entropy is not None and entropy < section.min_entropy:
        return (
            f"mean entropy over {section.window} steps is {entropy:.4g} nats, "
            f"below {key}.min_entropy {section.min_entropy:g}: the policy has collapsed"
        )
    if section.max_truncated < 1 and truncated is not None and truncated > section.max_truncated:
        return (
            f"{truncated:.3g} of the completions of {section.window} steps were cut at the length cap, "
            f"above {key}.max_truncated {section.max_truncated:g}"
        )
    if section.accuracy_fall and len(before) == section.window:
        means = [_mean(rows, name) for name in (FORMAT, ACCURACY) for rows in (before, window)]
        if None not in means:
            rise, fall = means[1] - means[0], means[2] - means[3]
            if rise >= section.format_rise and fall >= section.accuracy_fall:
                return (
                    f"format reward rose by {rise:.3g} ({key}.format_rise {section.format_rise:g}) "
                    f"while accuracy fell by {fall:.3g} ({key}.accuracy_fall {section.accuracy_fall:g}) "
                    f"between two windows of {section.window} steps: the reward is being hacked"
                )
    return None


class Health(TrainerCallback):
    """A callback that raises GazalError at the step that shows a fault; weights are checked before each checkpoint."""

    def __init__(self, section: HealthSection, stage: str) -> None:
        self.section, self.stage, self.rows = section, stage, []

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.rows = [logs for logs in state.log_history if "loss" in logs]

    def on_log(self, args, state, control, logs=None, model=None, **kwargs) -> None:
        if not logs or "loss" not in logs:
            return
        self.rows = [*self.rows[-max(2 * self.section.window, self.section.zero_signal_steps) :], dict(logs)]
        reason = fault(self.rows, self.section, self.stage)
        if not reason and control.should_save and not _finite(model):
            reason = f"a trained weight is not finite: lower {self.stage}.learning_rate"
        if reason:
            raise GazalError(
                f"{self.stage}: stopped at step {state.global_step}: {reason}; the checkpoint before it is kept"
            )


def _finite(model: torch.nn.Module) -> bool:
    """Return whether every trainable weight (this process's shard of it) is finite."""
    weights = (p.to_local() if hasattr(p, "to_local") else p for p in model.parameters() if p.requires_grad)
    return all(bool(torch.isfinite(weight).all()) for weight in weights)
