"""From predictions to ``scores.json``: a pure step. Same files, same bytes; no model, no clock.

Every item counts: an answer that cannot be read is wrong.
"""

from __future__ import annotations

import sys
from itertools import combinations
from pathlib import Path
from typing import Any

from gazal.answers.protocols import OURS, protocol
from gazal.common.errors import GazalError
from gazal.common.files import write_json
from gazal.items.reading import read_items
from gazal.items.shortcuts import baselines
from gazal.predictions.folder import Answers, Read, read_answers, read_not_run, regrade, with_grades
from gazal.scoring.cells import comparison, could_have_seen, groups_of, score, significant
from gazal.scoring.contamination import read_unclean
from gazal.scoring.robustness import robustness
from gazal.scoring.schemas import ModelScores, PairedScore, Scores
from gazal.scoring.stats import holm


def score_folder(eval_dir: str | Path, by: str = OURS, answers: Read | None = None) -> Scores:
    """Score every ``<model>/<benchmark>.parquet`` under ``eval_dir`` or its ``eval``; write and return ``scores.json``.

    ``by`` another protocol than ours: ``scores.<by>.json``. ``answers``: what :func:`read_answers` gave for the folder.
    Raises GazalError for what :func:`read_answers` cannot read, for an unknown protocol, and for one that is not ours
    without items beside the predictions.
    """
    protocol(by)
    root, frames, items = answers or read_answers(eval_dir)
    for name in (name for name, found in items.items() if not found):
        if by != OURS:
            raise GazalError(f"{root}: {name} cannot be scored by {by}: no items/{name}.jsonl beside the predictions")
        print(
            f"{name}: no items/{name}.jsonl beside the predictions: scored by the stored letters, without baselines",
            file=sys.stderr,
        )
    if by != OURS:
        frames = {key: with_grades(frame, regrade(frame, items[key[1]], by)) for key, frame in frames.items()}
    models: dict[str, ModelScores] = {}
    unclean = read_unclean(root)
    for (model, benchmark), frame in frames.items():
        models.setdefault(model, {"benchmarks": {}})["benchmarks"][benchmark] = score(
            frame, items[benchmark], unclean.get(benchmark), by == OURS
        )
    trained = root / "training_items.jsonl"
    training = read_items(trained) if trained.exists() else []
    pairs = [row for name in items if by == OURS for row in _pairs(name, frames)]
    adjusted = holm([row["p"] for row in pairs])
    paired = [PairedScore(**row, p_holm=significant(p)) for row, p in zip(pairs, adjusted, strict=True)]
    scores: Scores = {
        "models": models,
        "paired": paired,
        "baselines": {
            name: {k: round(v["accuracy"], 6) for k, v in baselines(found, training).items()}
            for name, found in items.items()
            if found
        },
        "not_run": {name: reason for name, reason in read_not_run(root).items() if name not in items},
        "robustness": robustness(root, frames) if by == OURS else {},
    }
    if by != OURS:
        scores = {"protocol": by, **scores}
    write_json(root / ("scores.json" if by == OURS else f"scores.{by}.json"), scores)
    return scores


def _pairs(benchmark: str, answers: Answers) -> list[dict[str, Any]]:
    """Return all pairs of models, earlier stage first: the fields of :class:`PairedScore` but ``p_holm``."""
    rows: list[dict[str, Any]] = []
    frames = {model: frame[["item_id", "group", "correct"]] for (model, b), frame in answers.items() if b == benchmark}
    for (a, one), (b, two) in combinations(frames.items(), 2):
        if set(one["item_id"]) != set(two["item_id"]):
            print(f"{benchmark}: {a} and {b} answered different items: not compared", file=sys.stderr)
            continue
        by = {g: comparison(one[one["group"] == g], two[two["group"] == g]) for g in groups_of(one)}
        seen = could_have_seen(one, two)
        rows.append({"a": a, "b": b, "benchmark": benchmark, **comparison(one, two), "detectable": seen, "by": by})
    return rows
