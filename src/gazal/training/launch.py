"""Run a training stage as the recipe's ``launch`` says: in this process, or in several by ``accelerate launch``.

Several machines share the run folder. The notebook runs on machine 0, with GAZAL_MAIN_ADDRESS=host:port set: machine
0's address for the others. On each other machine run ``python -m gazal.training.launch sft RUNFOLDER`` (or ``grpo``),
with the same address and GAZAL_MACHINE_RANK=1, 2, …. It waits for machine 0 and trains with it.
"""

from __future__ import annotations

import gc
import json
import os
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from gazal.common.errors import GazalError
from gazal.common.locks import HELD
from gazal.common.paths import RECIPES
from gazal.recipe.recipe import Recipe
from gazal.runs import RunFolder, relative
from gazal.trainer.metrics import LiveCurve
from gazal.training.worker import REASONS, SAID, WATCHED, saved_recipe, train

RANK, ADDRESS = "GAZAL_MACHINE_RANK", "GAZAL_MAIN_ADDRESS"
CONFIGS = RECIPES / "accelerate"


def run_stage(
    stage: str, run: RunFolder, curve: Sequence[str] = (), say: Callable[[str], None] = print
) -> dict[str, float]:
    """Train ``stage`` (``sft`` or ``grpo``) of ``run``; return the last logged values.

    ``curve`` names logged values for a live curve. Raises GazalError with the reason if training fails, in whichever
    process; no process is left behind.
    """
    recipe, live = run.recipe, LiveCurve(curve) if curve else None
    if recipe.launch.processes == 1:
        return train(stage, run.path, recipe.launch, [live] if live else [], say)
    if os.environ.get(RANK, "0") != "0":
        raise GazalError(
            f"{RANK} is not 0: notebooks run on machine 0; "
            f"here run `python -m gazal.training.launch {stage} {relative(run.path)}`"
        )
    start_workers(stage, run.path, recipe, live, say)
    return _rows(run / stage)[-1]


def start_workers(
    stage: str, run: Path, recipe: Recipe, live: LiveCurve | None = None, say: Callable[[str], None] = print
) -> None:
    """Run this machine's share of the processes to their end, and say the first one's lines as they come.

    The output of all of them is in ``.workers.log`` of the stage's folder until they succeed. Raises GazalError as
    :func:`run_stage` does.
    """
    command = launch_command(stage, run, recipe)
    _free_memory()
    log, drawn = run / stage / ".workers.log", 0
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as reasons,
        open(log, "w", encoding="utf-8") as logged,
        started(command, _environment(recipe, reasons)) as process,
    ):
        for line in _lines(process):
            logged.write(line)
            if SAID in line:
                say(line.split(SAID, 1)[1].rstrip("\n"))
            if live and time.monotonic() - drawn > 2:
                live.show(_rows(run / stage))
                drawn = time.monotonic()
        if process.wait():
            logged.flush()
            raise GazalError(reason(stage, Path(reasons), log))
    if live:
        live.show(_rows(run / stage))
    log.unlink()


def check_launch(recipe: Recipe) -> None:
    """Raise GazalError, in one line, for a launch that cannot work on this machine."""
    import torch

    from gazal.trainer.backend import require_gpu

    launch = recipe.launch
    if launch.strategy == "zero3":
        require_gpu("launch.strategy=zero3", "deepspeed")
    here = launch.processes // launch.machines
    if torch.cuda.is_available() and here > torch.cuda.device_count():
        raise GazalError(f"launch.processes: {here} on this machine, which has {torch.cuda.device_count()} GPUs")
    if launch.machines > 1 and ADDRESS not in os.environ:
        raise GazalError(f"launch.machines: {launch.machines} need {ADDRESS}=host:port of machine 0 and {RANK} on each")


def launch_command(stage: str, run: Path, recipe: Recipe) -> list[str]:
    """Return the ``accelerate launch`` command of a stage; raise GazalError for a launch that cannot work here."""
    check_launch(recipe)
    launch = recipe.launch
    # port 0 stands for any free port
    host, _, port = os.environ.get(ADDRESS, "").partition(":") if launch.machines > 1 else ("127.0.0.1", "", "0")
    options = {
        "config_file": CONFIGS / f"{launch.strategy}.yaml",
        "num_processes": launch.processes,
        "num_machines": launch.machines,
        "machine_rank": os.environ.get(RANK, "0") if launch.machines > 1 else 0,
        "main_process_ip": host,
        "main_process_port": port or "29500",
        "mixed_precision": "bf16" if getattr(recipe, stage).bf16 else "no",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    worker = ["--module", "gazal.training.worker", stage, str(run), launch.model_dump_json()]
    return [sys.executable, "-m", "accelerate.commands.launch", *words, *worker]


def _free_memory() -> None:
    """Free what this process's preflight held of the GPU that a worker will use."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()  # does nothing without a GPU


def _environment(recipe: Recipe, reasons: str) -> dict[str, str]:
    """Return this process's environment, with the cores divided among the workers.

    The variables that accelerate set in it for one process are left out.
    """
    here, me = recipe.launch.processes // recipe.launch.machines, psutil.Process()
    threads = max(1, (recipe.threads or os.cpu_count() or 1) // here)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ACCELERATE_", "FSDP_"))}
    return kept | {
        "OMP_NUM_THREADS": str(threads),
        REASONS: reasons,
        WATCHED: f"{me.pid} {me.create_time()}",
        "PYTHONUNBUFFERED": "1",
    }


@contextmanager
def started(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Yield the running launcher; however the block ends, no process of it is left."""
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        pass_fds=HELD,  # the run folder stays locked until the last worker has ended
    )
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    try:
        family = [psutil.Process(process.pid)]
        family = [*family[0].children(recursive=True), *family]
    except psutil.NoSuchProcess:
        return
    for member in family:
        try:
            member.terminate()
        except psutil.NoSuchProcess:
            pass
    for member in psutil.wait_procs(family, timeout=5)[1]:
        member.kill()
    process.wait()


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    """Yield the lines of a process as they come, and an empty one each second in which none comes."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=1)
        except queue.Empty:
            line = ""
        if line is None:
            return
        yield line


def reason(stage: str, reasons: Path, log: Path) -> str:
    """Return why the workers failed: the reason that was written first, or the signal that ended one."""
    left = [json.loads(path.read_text(encoding="utf-8")) for path in reasons.glob("*.json")]
    left.sort(key=lambda one: one["time"])
    received = re.findall(r"Signal \d+ \((SIG\w+)\) received", log.read_text(encoding="utf-8"))
    signals = [name for name in received if name != "SIGTERM"]  # which ends the others
    if left and left[0]["clear"]:
        return left[0]["line"]
    if signals:
        memory = ", perhaps for want of memory" if signals[-1] == "SIGKILL" else ""
        return f"{stage}: a worker was ended by {signals[-1]}{memory} (see {relative(log)})"
    return f"{stage}: a worker failed: {left[0]['line'] if left else 'it left no reason'} (see {relative(log)})"


def _rows(folder: Path) -> list[dict[str, float]]:
    path = folder / "metrics.jsonl"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def main() -> None:
    """Run this machine's processes, on a machine other than 0."""
    stage, run = sys.argv[1], Path(sys.argv[2])
    try:
        start_workers(stage, run, saved_recipe(run))
    except GazalError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
