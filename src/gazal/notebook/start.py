"""What every notebook's first code cell calls: check the parameters, open the run."""

from __future__ import annotations

import types
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gazal.common.errors import GazalError
from gazal.recipe.load import load_recipe
from gazal.recipe.recipe import Recipe
from gazal.runs import RunFolder, run_path

if TYPE_CHECKING:
    from IPython.display import Image, Markdown

    from gazal.paper.inputs import Results

PARAMETERS = ("RECIPE", "SET", "RUN", "BENCHMARKS")


def check_parameters(namespace: dict[str, Any], known: Sequence[str]) -> None:
    """Raise GazalError for a parameter that the notebook does not have, and for a missing one of ``known``.

    ``namespace`` is the notebook's ``globals()``. papermill itself only warns of an unknown parameter.
    """
    plain = (str, int, float, bool, list, tuple, dict, type(None))
    given = {
        name
        for name, value in namespace.items()
        if isinstance(value, plain)
        and not isinstance(value, types.ModuleType)
        and not name.startswith("_")
        and name not in ("In", "Out")
    }
    unknown, missing = sorted(given - set(known)), sorted(set(known) - given)
    if unknown or missing:
        wrong = "unknown " + ", ".join(unknown) if unknown else "missing " + ", ".join(missing)
        raise GazalError(f"notebook parameters: {wrong} (known: {', '.join(known)})")


def read_parameters(namespace: dict[str, Any], known: Sequence[str] = PARAMETERS) -> Recipe:
    """Check the notebook's parameters, as :func:`check_parameters` does; load the recipe that RECIPE and SET name."""
    check_parameters(namespace, known)
    overrides = namespace["SET"].split() if isinstance(namespace["SET"], str) else list(namespace["SET"])
    return load_recipe(namespace["RECIPE"], overrides)


def start(namespace: dict[str, Any]) -> RunFolder:
    """Open the run that the notebook's parameters name; raises GazalError as :func:`read_parameters` does."""
    import datasets
    import torch
    import transformers

    recipe = read_parameters(namespace)
    datasets.disable_progress_bars()  # a saved notebook would keep every redraw
    transformers.utils.logging.disable_progress_bar()
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    return RunFolder(run_path(recipe, namespace["RUN"]), recipe)


def benchmarks_folder(namespace: dict[str, Any]) -> Path | None:
    """Return the BENCHMARKS parameter as a folder, None if it is empty.

    Raises GazalError if there is no such folder.
    """
    if not namespace["BENCHMARKS"]:
        return None
    folder = Path(namespace["BENCHMARKS"]).expanduser()
    if not folder.is_dir():
        raise GazalError(f"BENCHMARKS={namespace['BENCHMARKS']}: no such folder")
    return folder


def show_figure(results: Results, name: str) -> Image | Markdown:
    """Return one of the paper's figures of a run (:func:`gazal.paper.figures.figure_jobs`) by its name.

    If the run has no data for it, return a line that says so.
    """
    from IPython.display import Markdown

    from gazal.paper.figures import figure_jobs
    from gazal.paper.style import picture

    possible, draw = figure_jobs(results)[name]
    return picture(draw()) if possible else Markdown(f"*{name}: this run has no data for it*")
