"""The metrics of a training stage as JSON lines, and as a live curve."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from gazal.common.files import atomic_write

TIMES = ("tokens_per_second", "mfu")  # logged values that differ between equal runs


def _line(logs: dict[str, Any], step: int) -> str:
    kept = {name: value for name, value in logs.items() if not name.startswith("step_time")} | {"step": step}
    return json.dumps(kept, sort_keys=True) + "\n"  # sorted, as in the trainer's state


class MetricsLog(TrainerCallback):
    """A callback that writes every logged step to a JSON-lines file, and says a line every ``every_seconds``.

    ``shown`` are the keys of the line. When training begins, the file holds the steps in the trainer's state:
    none, or those up to the checkpoint that training continues from.
    """

    def __init__(
        self, path: Path, shown: Sequence[str], say: Callable[[str], None] = print, every_seconds: float = 10
    ) -> None:
        self.path, self.shown, self.say, self.every = path, shown, say, every_seconds
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.began, self.last, self.first = 0.0, 0.0, 0

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.began, self.first = time.time(), state.global_step
        if not state.is_world_process_zero:
            return
        with atomic_write(self.path) as handle:
            handle.writelines(_line(logs, logs["step"]) for logs in state.log_history if "loss" in logs)

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if not logs or "loss" not in logs or not state.is_world_process_zero:
            return
        with open(self.path, "a", encoding="utf-8") as handle:
            handle.write(_line(logs, state.global_step))
        now = time.time()
        if now - self.last >= self.every or state.global_step == state.max_steps:
            self.last, spent = now, now - self.began
            values = "  ".join(
                f"{key.removeprefix('rewards/').removesuffix('/mean')} {float(logs[key]):.3f}"
                for key in self.shown
                if logs.get(key) is not None
            )
            left = spent / (state.global_step - self.first) * (state.max_steps - state.global_step)
            self.say(f"step {state.global_step}/{state.max_steps}  {values}  {spent:.0f} s, about {left:.0f} s left")


class LiveCurve(TrainerCallback):
    """A callback that redraws one figure in a notebook while training runs.

    The output is updated in place every ``every_seconds``; a drawing takes 0.1 s.
    """

    def __init__(self, keys: Sequence[str], every_seconds: float = 5) -> None:
        self.keys, self.every, self.rows, self.handle, self.drawn = keys, every_seconds, [], None, 0.0

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.rows = [logs for logs in state.log_history if "loss" in logs]

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if not logs or "loss" not in logs:
            return
        self.rows.append(logs | {"step": state.global_step})
        if time.time() - self.drawn >= self.every or state.global_step == state.max_steps:
            self._draw()

    def show(self, rows: list[dict[str, Any]]) -> None:
        """Redraw from all logged rows, if their number has changed."""
        if len(rows) != len(self.rows):
            self.rows = rows
            self._draw()

    def _draw(self) -> None:
        import matplotlib.pyplot as plt
        from IPython.display import display

        self.drawn = time.time()
        figure, axis = plt.subplots(figsize=(5, 2.6))
        for key in self.keys:
            axis.plot([row["step"] for row in self.rows], [row.get(key) for row in self.rows], label=key)
        axis.set_xlabel("optimizer step")
        axis.legend(frameon=False)
        plt.close(figure)
        if self.handle is None:
            self.handle = display(figure, display_id=True)
        else:
            self.handle.update(figure)
