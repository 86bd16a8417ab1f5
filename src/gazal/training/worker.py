"""One of the processes that train a stage together: ``python -m gazal.training.worker STAGE RUNFOLDER``, started by launch.py.

The first process says its lines, each behind :data:`SAID`; one that fails leaves its reason as a file in
the folder GAZAL_REASONS. Each ends when the notebook that asked for it has ended.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import yaml

from gazal.common.errors import GazalError
from gazal.common.files import write_json
from gazal.items.reading import read_items
from gazal.recipe.recipe import LaunchSection, Recipe

if TYPE_CHECKING:
    from transformers import TrainerCallback

SAID = "\x02gazal: "  # before each line that is meant for people; all else that libraries print goes to the log only
WATCHED, REASONS = "GAZAL_WATCHED", "GAZAL_REASONS"  # "pid created" of the process to end with; folder for reasons
PATIENCE = timedelta(hours=12)  # the others wait while the first measures pass rates, merges and proves the merge


def train(
    stage: str,
    run: Path,
    launch: LaunchSection,
    callbacks: list[TrainerCallback] | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, float]:
    """Train ``stage`` of the run folder ``run`` in this process, alone or with others; return the last logged values."""
    from gazal.training.grpo import train_grpo
    from gazal.training.sft import train_sft

    recipe = saved_recipe(run).model_copy(update={"launch": launch})
    items = read_items(run / "data" / f"{stage}.parquet", training=stage == "sft")
    if stage == "sft":
        return train_sft(recipe, items, run / "sft", callbacks, say)
    return train_grpo(recipe, items, run / "sft" / "merged", run / "grpo", callbacks, say)


def saved_recipe(run: Path) -> Recipe:
    """The resolved recipe of a run folder."""
    return Recipe.model_validate(yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8")))


def end_with(pid: int, created: float) -> None:
    """End this process, from a thread, within about a second of the end of process ``pid`` or of its own parent."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent and _lives(pid, created):
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _lives(pid: int, created: float) -> bool:
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - created) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def leave_reason(error: BaseException) -> None:
    """Write why this process fails, for the one that started it."""
    clear = isinstance(error, GazalError)
    line = str(error) if clear else f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    write_json(
        Path(os.environ[REASONS]) / f"{os.environ.get('RANK', '0')}.json",
        {"line": line, "clear": clear, "time": time.time()},
    )


def work(stage: str, run: Path, launch: LaunchSection, callbacks: list[TrainerCallback] | None = None) -> None:
    """Join the other processes (their number and this one's rank are in the environment) and train; leave the reason where that fails."""
    import torch
    from accelerate import PartialState

    try:
        state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
        say = (lambda line: print(SAID + line, flush=True)) if state.is_main_process else (lambda line: None)
        train(stage, run, launch, callbacks, say)
        state.wait_for_everyone()
        state.destroy_process_group()
    except BaseException as error:
        leave_reason(error)
        raise


def main() -> None:
    pid, created = os.environ[WATCHED].split()
    end_with(int(pid), float(created))
    work(sys.argv[1], Path(sys.argv[2]), LaunchSection.model_validate_json(sys.argv[3]))


if __name__ == "__main__":
    main()
