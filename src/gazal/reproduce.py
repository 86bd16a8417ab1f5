"""``gazal reproduce``: the five notebooks in order by papermill, each only if its stage is not done."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path

import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from gazal.common.errors import GazalError
from gazal.common.files import write_json
from gazal.common.locks import only_one
from gazal.common.paths import ROOT
from gazal.recipe.load import load_recipe
from gazal.runs import STAGES, RunFolder, relative, run_path

NOTEBOOKS = dict(zip(STAGES, ("01_data", "02_sft", "03_grpo", "04_evaluation", "05_figures"), strict=True))


def reproduce(recipe_name: str, overrides: list[str], run: str = "", benchmarks: str = "") -> Path:
    """Run the notebooks that are not done yet; return the run folder. The same call continues after an interruption.

    Raises GazalError for bad input, and for a notebook that fails (its output notebook is kept). The same if another
    call is running in the same run folder.
    """
    recipe = load_recipe(recipe_name, overrides)
    if benchmarks and not Path(benchmarks).expanduser().is_dir():
        raise GazalError(f"BENCHMARKS={benchmarks}: no such folder")
    folder = RunFolder(run_path(recipe, run).resolve(), recipe)
    location = Path(recipe_name)
    parameters = {
        "RECIPE": str(location.resolve()) if location.is_file() else recipe_name,
        "SET": overrides,
        "RUN": str(folder.path),
        "BENCHMARKS": str(Path(benchmarks).expanduser().resolve()) if benchmarks else "",
    }
    with only_one(folder / ".reproduce.lock", "gazal reproduce", wait=0):
        return _run_notebooks(folder, parameters, benchmarks)


def _run_notebooks(folder: RunFolder, parameters: dict[str, object], benchmarks: str) -> Path:
    began = time.time()
    for stage, notebook in NOTEBOOKS.items():
        target = folder / "notebooks" / f"{notebook}.ipynb"
        _reopen_cut(folder, stage, _partial(target))
        if folder.done(stage) and _same_benchmarks(folder, stage, benchmarks):
            print(f"== {notebook}: done before", flush=True)
            continue
        print(f"== {notebook}", flush=True)
        started = time.time()
        _execute(ROOT / "notebooks" / f"{notebook}.ipynb", target, parameters)
        times = _times(folder) | {notebook: round(time.time() - started, 1)}
        write_json(folder / "notebooks" / "times.json", times)
    print(f"\n{time_table(folder)}\nthis call took {time.time() - began:.0f} s")
    return folder.path


def _partial(target: Path) -> Path:
    """Return the path of a notebook while it is executed."""
    return target.with_name(f".{target.stem}.partial.ipynb")


def _reopen_cut(folder: RunFolder, stage: str, partial: Path) -> None:
    """Mark ``stage`` as not done if a kill stopped its notebook after the stage had finished.

    The notebook is then executed again, which takes seconds: the stage's checkpoints and predictions stay until the
    next stage begins.
    """
    later = STAGES[STAGES.index(stage) + 1 :]
    if partial.exists() and folder.done(stage) and not any((folder / name).exists() for name in later):
        (folder / stage / "manifest.json").unlink()


def _same_benchmarks(folder: RunFolder, stage: str, benchmarks: str) -> bool:
    """Return False for a finished evaluation that lacked benchmarks, if a folder of benchmarks is given now."""
    if stage != "eval" or not benchmarks:
        return True
    not_run = folder / "eval" / "not_run.json"
    return not (not_run.exists() and json.loads(not_run.read_text(encoding="utf-8")))


def _execute(source: Path, target: Path, parameters: dict[str, object]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    logging.getLogger("papermill").setLevel(logging.ERROR)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    partial = _partial(target)
    try:
        papermill.execute_notebook(
            str(source),
            str(partial),
            parameters=parameters,
            kernel_name="python3",
            cwd=str(Path.cwd()),
            progress_bar=False,
            stdout_file=sys.stdout,
            request_save_on_cell_execute=True,
        )
    except PapermillExecutionError as error:
        partial.replace(target)
        said = error.evalue if error.ename == "GazalError" else f"{error.ename}: {error.evalue}"
        raise GazalError(f"{source.stem}: {said} (see {relative(target)})") from None
    except DeadKernelError:
        raise GazalError(
            f"{source.stem}: its kernel died (killed, or out of memory); the same command goes on from where it was"
        ) from None
    _without_paths(partial)
    partial.replace(target)


def _without_paths(notebook: Path) -> None:
    """Take this machine's paths out of an executed notebook."""
    text = notebook.read_text(encoding="utf-8")
    for path, name in ((str(ROOT), "."), (str(Path.cwd()), "."), (str(Path.home()), "~")):
        text = text.replace(json.dumps(path)[1:-1] + "/", name + "/") if len(path) > 1 else text
    notebook.write_text(text, encoding="utf-8")


def _times(folder: RunFolder) -> dict[str, float]:
    path = folder / "notebooks" / "times.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def time_table(folder: RunFolder) -> str:
    """Return as text each executed notebook's wall time, its kernel's start included, and its stage's peak memory."""
    lines, times = [f"{'notebook':<16}{'seconds':>9}{'peak MiB':>10}"], _times(folder)
    for stage, notebook in NOTEBOOKS.items():
        manifest = folder / stage / "manifest.json"
        if manifest.exists() and notebook in times:
            memory = json.loads(manifest.read_text(encoding="utf-8"))["peak_memory_mib"] or "–"
            lines.append(f"{notebook:<16}{times[notebook]:>9.0f}{memory:>10}")
    lines.append(f"{'together':<16}{sum(times.values()):>9.0f}")
    return "\n".join(lines)
