"""Evaluate a run's stages, or any models: load the benchmarks, predict, score."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gazal.common.errors import GazalError
from gazal.data.benchmarks import BENCHMARKS, benchmark_name, load_benchmarks, sample
from gazal.engines.load import LazyEngine
from gazal.engines.reply import Engine
from gazal.evaluation.predict import predict
from gazal.evaluation.targets import Target, find_targets, save_settings
from gazal.items.reading import read_items
from gazal.items.schema import Item
from gazal.predictions.folder import PERMUTED, read_not_run, save_items, save_not_run, save_training_items
from gazal.predictions.permute import permuted
from gazal.predictions.prompting import prompting_of
from gazal.recipe.recipe import Recipe
from gazal.runs import relative, run_path
from gazal.scoring.contamination import measure_contamination
from gazal.scoring.report import results_table
from gazal.scoring.score import score_folder


def evaluate_model(
    engine: Engine,
    benchmarks: dict[str, list[Item]],
    out: Path,
    recipe: Recipe,
    name: str | None = None,
    replace: bool = False,
    folder: str | Path | None = None,
    development: dict[str, Path] | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Predict each benchmark with one engine into ``out/<name>/<benchmark>.parquet``, and save its items.

    With ``evaluation.permute`` also into ``out/<name>/permuted/<benchmark>.parquet``: the same items in other orders of
    their options. ``folder`` holds the benchmarks' development items, ``development`` the files of other sets (see
    :func:`prompting_of`).
    """
    settings, mine = recipe.evaluation, out / (name or engine.name)
    promptings = {
        benchmark: prompting_of(recipe, benchmark, items, folder, (development or {}).get(benchmark))
        for benchmark, items in benchmarks.items()
    }
    for benchmark, items in benchmarks.items():
        if line := promptings[benchmark].caution(settings):
            say(f"{benchmark}: {line}")
        asked = {benchmark: items}
        if settings.permute and (turned := permuted(items, settings.permute, recipe.seed, benchmark, say)):
            asked[f"{PERMUTED}/{benchmark}"] = turned
        for place, some in asked.items():
            save_items(out, place, some, replace)
            predict(
                engine,
                some,
                settings,
                mine / f"{place}.parquet",
                prompting=promptings[benchmark],
                seed=recipe.seed,
                replace=replace,
                say=say,
                label=f"{mine.name} on {place}",
            )


def evaluate_stages(
    run: str | Path, recipe: Recipe, folder: str | Path | None = None, say: Callable[[str], None] = print
) -> Path:
    """Evaluate the recipe's stages on the run's test split and on its benchmarks; return ``run/eval``.

    ``folder`` holds the benchmarks as JSON lines; None downloads them from the hub. A benchmark that cannot be had is
    written with its reason to ``not_run.json``. First ``contamination.json`` measures which items a model may have seen
    in training. Predictions that exist are kept, but those of a stage that was trained again since are replaced.
    """
    from gazal.models.loading import base_path

    run = Path(run)
    out, settings = run / "eval", recipe.evaluation
    whole, not_run = load_benchmarks(settings.benchmarks, folder, key_base=recipe.data.key_base)
    for name, reason in not_run.items():
        say(f"{name}: not run: {reason}")
    if training := _training(run / "data"):
        save_training_items(out, training)
    test = read_items(run / "data" / "test.parquet")
    # not of the sample alone: duplicates lie anywhere
    measure_contamination(run / "data", {"test": test, **whole}, recipe.data.curation, out, say)
    limit, development = settings.benchmark_limit, {"test": run / "data" / "dev.parquet"}
    asked = {"test": test} | {name: sample(items, limit, recipe.seed) for name, items in whole.items()}
    for stage in settings.stages:
        path = base_path(recipe.model) if stage == "base" else run / stage / "merged"
        engine = LazyEngine(path, settings, revision=recipe.model.revision if stage == "base" else None)
        evaluate_model(engine, asked, out, recipe, stage, replace=True, folder=folder, development=development, say=say)
        engine.close()
    save_not_run(out, not_run)
    return out


def _training(data: Path) -> list[Item]:
    """Return the multiple-choice items that models of this run are trained on, without repeats."""
    items = [
        item
        for split in ("sft", "grpo")
        for item in read_items(data / f"{split}.parquet", training=split == "sft")
        if item.options
    ]
    return list({item.id: item for item in items}.values())


def evaluation_folder(recipe: Recipe, out: Path | None, run: str = "") -> tuple[Path, Path]:
    """Return the folders of results and of predictions: ``out`` for both, by default the run's folder and its ``eval``.

    Raises GazalError if that would mix other models into a run that trains its own. The same if it is a finished stage,
    whose manifest would then be wrong.
    """
    if out is not None:
        return out, out
    if not run and not recipe.models:
        raise GazalError(
            f"--out: not given, and runs/{recipe.name}/eval is for that run's own models; give --out or --run a folder"
        )
    folder = run_path(recipe, run)
    if (folder / "eval" / "manifest.json").exists():
        raise GazalError(f"{relative(folder / 'eval')}: a finished stage of a run; give --out or --run another folder")
    return folder, folder / "eval"


def evaluate_command(
    model: str | list[str],
    benchmarks: list[str],
    *,
    limit: int | None,
    samples: int | None,
    out: str | Path,
    recipe: Recipe,
    folder: str | Path | None = None,
    changes: dict[str, Any] | None = None,
    then: Callable[[dict[str, Any]], object] = lambda scores: None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Evaluate models on benchmarks and items files (``gazal evaluate``), print the table and return the scores.

    ``model`` is read by :func:`gazal.evaluation.targets.find_targets`. Without ``benchmarks`` the recipe's are used.
    Another call continues, and loads no model whose predictions are complete. ``changes`` of ``evaluation`` hold for
    every model, whatever the recipe says of it. If one of several models fails, its error is printed and the others
    still run. ``then`` is called with the scores. Raises GazalError for bad input before any model is loaded, if no
    benchmark can be had, and at the end if a model failed.
    """
    out = Path(out)
    changes = {key: value for key, value in {**(changes or {}), "samples": samples}.items() if value is not None}
    asked = [one.changed(changes) for one in find_targets([model] if isinstance(model, str) else model, recipe)]
    for name in benchmarks:
        if not name.strip():
            raise GazalError("--benchmark: empty; expected a benchmark's name or an items file")
        if name not in BENCHMARKS and benchmark_name(name) in BENCHMARKS:
            raise GazalError(
                f"benchmark {name}: an items file with the name of a benchmark; "
                "its scores would pass for that: rename it"
            )
    limit = recipe.evaluation.benchmark_limit if limit is None and not benchmarks else limit
    names = benchmarks or recipe.evaluation.benchmarks
    found, not_run = load_benchmarks(names, folder, limit, recipe.seed, recipe.data.key_base)
    if not found:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in not_run.items())
        raise GazalError(reasons or "no benchmark is asked for")
    for name, reason in not_run.items():
        say(f"{name}: not run: {reason}")
    failed: dict[str, GazalError] = {}
    for one in asked:
        try:
            _evaluate(one, found, out, folder, say)
        except GazalError as error:
            if len(asked) == 1:
                raise
            failed[one.name] = error
            print(f"gazal: {error}", file=sys.stderr)
    save_not_run(out, {k: v for k, v in {**read_not_run(out), **not_run}.items() if k not in found})
    if len(failed) == len(asked):
        raise GazalError(f"none of {len(asked)} models was evaluated: {', '.join(failed)}")
    scores = score_folder(out)
    say(results_table(scores))
    then(scores)
    if failed:
        raise GazalError(f"{len(failed)} of {len(asked)} models not evaluated: {', '.join(failed)}")
    return scores


def _evaluate(
    one: Target, found: dict[str, list[Item]], out: Path, folder: str | Path | None, say: Callable[[str], None]
) -> None:
    engine = LazyEngine(one.spec, one.recipe.evaluation, one.dtype, one.revision)
    try:
        evaluate_model(engine, found, out, one.recipe, one.name, folder=folder, say=say)
    except RuntimeError as error:  # torch's is a subclass; comparing its name spares an import if nothing was loaded
        if type(error).__name__ == "OutOfMemoryError":
            raise GazalError(
                f"model {one.name}: out of memory; `gazal plan` says what it takes, "
                "evaluation.batch_tokens makes batches smaller"
            ) from error
        raise
    finally:
        engine.close()
    save_settings(out, one)
