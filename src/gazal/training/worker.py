"""One of the processes that train a stage together: ``python -m gazal.training.worker STAGE RUNFOLDER LAUNCH``.

launch.py starts it. The first process prints its lines, each behind :data:`SAID`; one that fails writes its reason as
a file into the folder GAZAL_REASONS. Each ends when the notebook that started it has ended.
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
from gazal.recipe.recipe import Recipe
from gazal.recipe.training import LaunchSection

if TYPE_CHECKING:
    from transformers import TrainerCallback

SAID = "\x02gazal: "  # before each line for people; whatever else libraries print goes to the log only
WATCHED, REASONS = "GAZAL_WATCHED", "GAZAL_REASONS"  # "pid created" of the process to end with; folder for reasons
PATIENCE = timedelta(hours=12)  # the others wait while the first measures pass rates, merges and checks the merge


def train(
    stage: str,
    run: Path,
    launch: LaunchSection,
    callbacks: list[TrainerCallback] | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, float]:
    """Train ``stage`` of the run folder ``run`` in this process, alone or with others; return the last values."""
    from gazal.training.grpo import train_grpo
    from gazal.training.sft import train_sft

    recipe = saved_recipe(run).model_copy(update={"launch": launch})
    items = read_items(run / "data" / f"{stage}.parquet", training=stage == "sft")
    if stage == "sft":
        return train_sft(recipe, items, run / "sft", callbacks, say)
    return train_grpo(recipe, items, run / "sft" / "merged", run / "grpo", callbacks, say)


def saved_recipe(run: Path) -> Recipe:
    """Return the resolved recipe of a run folder."""
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
    """Write why this process fails, for the process that started it."""
    clear = isinstance(error, GazalError)
    line = str(error) if clear else f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    path = Path(os.environ[REASONS]) / f"{os.environ.get('RANK', '0')}.json"
    write_json(path, {"line": line, "clear": clear, "time": time.time()})


def work(stage: str, run: Path, launch: LaunchSection, callbacks: list[TrainerCallback] | None = None) -> None:
    """Join the other processes and train; write the reason if that fails.

    The number of processes and this one's rank are in the environment.
    """
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
