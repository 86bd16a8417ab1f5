"""From predictions to ``scores.json``: a pure step. Same files, same bytes; no model, no clock.

Every item counts: an answer that cannot be read is wrong.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd

from gazal.answers.protocols import OURS, protocol
from gazal.common.errors import GazalError
from gazal.common.files import write_json
from gazal.items.reading import read_items
from gazal.items.shortcuts import baselines
from gazal.predictions.folder import Read, read_answers, read_not_run, regrade, with_grades
from gazal.scoring.cells import comparison, could_have_seen, groups_of, score, significant
from gazal.scoring.contamination import read_unclean
from gazal.scoring.robustness import robustness
from gazal.scoring.stats import holm


def score_folder(eval_dir: str | Path, by: str = OURS, answers: Read | None = None) -> dict[str, Any]:
    """Score every ``<model>/<benchmark>.parquet`` under ``eval_dir`` (a run folder works too), write
    ``scores.json`` there, and return it. ``answers``: what :func:`read_answers` gave for it, so that nothing is read twice.

    Schema: ``models.M.benchmarks.B`` = n (items), samples, accuracy, ci95, unparsed, truncated, empty and format
    (shares of completions), mean_tokens, right_per_1k_tokens (right answers per 1,000 completion tokens; None without tokens),
    not_asked (share of prompts that left no room in the model's context: empty, of no tokens, ended by length; they are truncated
    too, and wrong), sampling (how it was asked; None where the file does not say), reasons (counts), by (reasoning type, else
    subject; with items beside, its chance), clean (n, accuracy, ci95 without the items that ``contamination.json`` names; None where there is no such file), deduplicated (the same
    without items that repeat an earlier one of the set; None without items), detectable (the smallest true accuracy above
    chance that so many answers tell from chance with 80 % power; None where none is), macro_f1 (value, ci95; where all items
    have the same option texts) and at_k (``maj`` and ``pass``, by k; with several samples).

    ``paired``: a, b, benchmark, delta (accuracy of b minus accuracy of a), ci95, p, n (items), p_holm (adjusted by Holm over all
    rows of ``paired``: each benchmark and pair of models is one test; what ``by`` holds for groups is no part of that family and
    is not adjusted), detectable (the smallest true difference that this n would have shown with 80 % power, at the share of items
    on which the two differ here; None where none is). ``baselines.B.name`` = accuracy; ``not_run.B`` = reason;
    ``robustness.M.B``: :func:`gazal.scoring.robustness.robustness`.

    ``by`` another protocol than ours: ``scores.<by>.json``, where reasons say how letters were come by and
    nothing is paired; without items beside the predictions that raises GazalError. So does what :func:`read_answers`
    cannot read, and an unknown protocol.
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
    models: dict[str, Any] = {}
    unclean = read_unclean(root)
    for (model, benchmark), frame in frames.items():
        models.setdefault(model, {"benchmarks": {}})["benchmarks"][benchmark] = score(
            frame, items[benchmark], unclean.get(benchmark), by == OURS
        )
    trained = root / "training_items.jsonl"
    training = read_items(trained) if trained.exists() else []
    paired = (
        [
            row
            for name in items
            for row in _paired(
                name, {m: f[["item_id", "group", "correct"]] for (m, b), f in frames.items() if b == name}
            )
        ]
        if by == OURS
        else []
    )
    for row, p in zip(paired, holm([row["p"] for row in paired]), strict=True):
        row["p_holm"] = significant(p)
    scores = {
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


def _paired(benchmark: str, frames: dict[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """All pairs of models, earlier stage first; ``by`` holds the same for each reasoning type or subject."""
    rows = []
    names = list(frames)
    for at, a in enumerate(names):
        for b in names[at + 1 :]:
            one, two = frames[a], frames[b]
            if set(one["item_id"]) != set(two["item_id"]):
                print(f"{benchmark}: {a} and {b} answered different items: not compared", file=sys.stderr)
                continue
            by = {g: comparison(one[one["group"] == g], two[two["group"] == g]) for g in groups_of(one)}
            rows.append(
                {
                    "a": a,
                    "b": b,
                    "benchmark": benchmark,
                    **comparison(one, two),
                    "detectable": could_have_seen(one, two),
                    "by": by,
                }
            )
    return rows
