"""What every notebook's first code cell calls: check the parameters, open the run."""

from __future__ import annotations

import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gazal.errors import GazalError
from gazal.recipe import Recipe, load_recipe
from gazal.runs import RunFolder, run_path

PARAMETERS = ("RECIPE", "SET", "RUN", "BENCHMARKS")


def read_parameters(namespace: dict[str, Any], known: Sequence[str] = PARAMETERS) -> Recipe:
    """The recipe that the notebook's parameters RECIPE and SET name.

    ``namespace`` is the notebook's ``globals()``. Papermill only warns about a parameter that a
    notebook does not have; here it is an error, as is a missing one of ``known``.
    """
    plain = (str, int, float, bool, list, tuple, dict, type(None))
    given = {
        name for name, value in namespace.items()
        if isinstance(value, plain) and not isinstance(value, types.ModuleType) and not name.startswith("_") and name not in ("In", "Out")
    }
    unknown, missing = sorted(given - set(known)), sorted(set(known) - given)
    if unknown or missing:
        raise GazalError(f"notebook parameters: {'unknown ' + ', '.join(unknown) if unknown else 'missing ' + ', '.join(missing)} (known: {', '.join(known)})")
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
    """The BENCHMARKS parameter as a folder, None when it is empty. Raises GazalError when it does not exist."""
    if not namespace["BENCHMARKS"]:
        return None
    folder = Path(namespace["BENCHMARKS"]).expanduser()
    if not folder.is_dir():
        raise GazalError(f"BENCHMARKS={namespace['BENCHMARKS']}: no such folder")
    return folder
