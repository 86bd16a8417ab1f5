"""Evaluate a run's stages, or any one model: load the benchmarks, predict, score."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gazal.errors import GazalError
from gazal.evaluation.benchmarks import load_benchmarks, sample
from gazal.evaluation.contamination import measure_contamination
from gazal.evaluation.engines import Engine, load_engine
from gazal.evaluation.predictions import predict
from gazal.evaluation.prompting import prompting_of
from gazal.evaluation.score import read_not_run, results_table, save_items, save_not_run, save_training_items, score_folder
from gazal.items import Item, read_items
from gazal.models import base_path
from gazal.recipe import Recipe


def evaluate_model(
    engine: Engine, benchmarks: dict[str, list[Item]], out: Path, recipe: Recipe, name: str | None = None,
    replace: bool = False, say: Callable[[str], None] = print,
) -> None:
    """Predict each benchmark with one engine: ``out/<name>/<benchmark>.parquet``, items beside."""
    for benchmark, items in benchmarks.items():
        save_items(out, benchmark, items, replace)
        predict(
            engine, items, recipe.evaluation, out / (name or engine.name) / f"{benchmark}.parquet",
            prompting=prompting_of(recipe), seed=recipe.seed, replace=replace, say=say,
        )


def evaluate_stages(run: str | Path, recipe: Recipe, folder: str | Path | None = None, say: Callable[[str], None] = print) -> Path:
    """Evaluate the recipe's stages on the run's test split and on its benchmarks; returns ``run/eval``.

    ``folder`` holds the benchmarks as JSON lines; None asks the hub. A benchmark that cannot be had is
    noted with its reason in ``not_run.json``; which items a model may have seen in training is measured before
    (``contamination.json``). What is there already is not asked again; predictions of a
    stage that has since been trained anew are replaced.
    """
    run = Path(run)
    out, settings = run / "eval", recipe.evaluation
    whole, not_run = load_benchmarks(settings.benchmarks, folder)
    for name, reason in not_run.items():
        say(f"{name}: not run: {reason}")
    if training := _training(run / "data"):
        save_training_items(out, training)
    test = read_items(run / "data" / "test.parquet")
    measure_contamination(run / "data", {"test": test, **whole}, recipe.data.curation, out, say)  # not of the sample alone: duplicates lie anywhere
    asked = {"test": test, **{name: sample(items, settings.benchmark_limit, recipe.seed) for name, items in whole.items()}}
    for stage in settings.stages:
        path = base_path(recipe.model) if stage == "base" else run / stage / "merged"
        engine = load_engine(path, revision=recipe.model.revision if stage == "base" else None)
        evaluate_model(engine, asked, out, recipe, stage, replace=True, say=say)
    save_not_run(out, not_run)
    return out


def _training(data: Path) -> list[Item]:
    """The multiple-choice items that models of this run are trained on, without repeats."""
    items = [item for split in ("sft", "grpo") for item in read_items(data / f"{split}.parquet", training=split == "sft") if item.options]
    return list({item.id: item for item in items}.values())


def evaluate_command(
    model: str, benchmarks: list[str], *, limit: int | None, samples: int | None, out: str | Path, recipe: Recipe,
    folder: str | Path | None = None, say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """``gazal evaluate``: one model (see :func:`gazal.evaluation.engines.load_engine`) on benchmarks and
    items files; prints the table and returns the scores. Run again it goes on; other models may share ``out``.

    Raises GazalError for bad input before any model is loaded, and when no benchmark can be had.
    """
    out = Path(out)
    found, not_run = load_benchmarks(benchmarks, folder, limit, recipe.seed)
    if not found:
        raise GazalError("; ".join(f"{name}: {reason}" for name, reason in not_run.items()) or "no benchmark is asked for")
    if samples is not None:
        recipe = recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update={"samples": samples})})
    evaluate_model(load_engine(model), found, out, recipe, say=say)
    save_not_run(out, {k: v for k, v in {**read_not_run(out), **not_run}.items() if k not in found})
    scores = score_folder(out)
    say(results_table(scores))
    return scores
