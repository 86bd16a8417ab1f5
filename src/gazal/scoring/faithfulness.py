"""Reasoning quality: ``faithfulness.json``, every claim of the think blocks compared with the source. A pure step.

Only knowledge-derived items can be judged so: their source settles each claim (:mod:`gazal.knowledge.truth`). What
counts as a claim is in :mod:`gazal.knowledge.claims`, what makes one right in :mod:`gazal.knowledge.verdicts`. Faithful
means here that what is written is true and leads to the answer. No text can show that the model computed its answer
that way.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any, Never

import numpy as np
import pandas as pd

from gazal.common.files import write_json
from gazal.items.schema import Item
from gazal.items.types import REASONING_TYPES
from gazal.knowledge.claims import KINDS, read_steps, structure
from gazal.knowledge.truth import find_truth
from gazal.knowledge.verdicts import OUTCOMES, judge
from gazal.predictions.folder import Read, read_answers
from gazal.scoring.schemas import (
    Change,
    Faithfulness,
    Judged,
    JudgedBenchmark,
    ModelFaithfulness,
    PairedFaithfulness,
    Rate,
    Shaped,
)
from gazal.scoring.stats import bootstrap, ratio

COMPARED = ("faultless", "precision", "coverage", "arithmetic", "follows", "wrong_reasons")
MEASURES = ("accuracy", *COMPARED, "tied", "quotes", "unread")
STRUCTURE = ("think", "steps", "assessment", "answer")


def measure_faithfulness(eval_dir: str | Path, answers: Read | None = None) -> Faithfulness | dict[str, Never]:
    """Write ``faithfulness.json`` beside the predictions (a run folder works too) and return it.

    Same files, same bytes, no model. If no knowledge-derived item is beside predictions, write no file and return an
    empty dictionary. Raises GazalError as :func:`gazal.predictions.folder.read_answers` does.
    """
    root, frames, items = answers or read_answers(eval_dir)
    truths = {name: {item.id: truth for item in found if (truth := find_truth(item))} for name, found in items.items()}
    if not any(truths.values()):
        return {}
    models: dict[str, ModelFaithfulness] = {}
    tables: dict[str, dict[str, pd.DataFrame]] = {}  # by benchmark and model
    for (model, benchmark), frame in frames.items():
        if not items[benchmark] or frame["likeliest"].any():
            continue
        benchmarks = models.setdefault(model, {"benchmarks": {}})["benchmarks"]
        if truths[benchmark]:
            table = tables.setdefault(benchmark, {})[model] = _judged(frame, truths[benchmark])
            parts = {kind: part for kind in REASONING_TYPES if len(part := table[table["group"] == kind])}
            by = {kind: Judged(**_cell(part, True)) for kind, part in parts.items()}
            benchmarks[benchmark] = JudgedBenchmark(**_cell(table, True), by=by)
        else:
            benchmarks[benchmark] = Shaped(**_cell(_shaped(frame), False))
    report: Faithfulness = {
        "models": models,
        "paired": _paired(tables),
        "unsettled": {
            name: left
            for name, found in items.items()
            if (left := sum(map(_claims_a_source, found)) - len(truths[name]))
        },
    }
    write_json(root / "faithfulness.json", report)
    return report


def _claims_a_source(item: Item) -> bool:
    return item.reasoning_type is not None and (item.source or "").startswith(("HPO", "open-medicine"))


def _judged(frame: pd.DataFrame, truths: dict[str, Any]) -> pd.DataFrame:
    """Return one row per completion of a settled item: numerators and, as ``of_*``, denominators."""
    rows = []
    for row in frame[frame["item_id"].isin(truths)].itertuples():
        letter = row.letter if isinstance(row.letter, str) else None
        verdict = judge(read_steps(row.completion, row.open), truths[row.item_id], letter)
        outcome, claimed = verdict.outcome(letter, row.key), row.correct and verdict.claims > 0
        counts = {
            "accuracy": (row.correct, 1),
            "faultless": (verdict.faultless, 1),
            "precision": (sum(verdict.right.values()), verdict.claims),
            "coverage": (verdict.covered, verdict.needed),
            "arithmetic": (verdict.holding, verdict.relations),
            "follows": (bool(verdict.follows), verdict.follows is not None),
            "tied": (len(verdict.leads_to) > 1, verdict.claims > 0),
            "wrong_reasons": (outcome == "right_for_wrong_reasons", claimed),
            "quotes": (verdict.quoted_right, verdict.quotes),
            "unread": (verdict.unread, verdict.steps),
        }
        rows.append(
            {
                "item_id": row.item_id,
                "group": row.group,
                "outcome": outcome,
                "strange": verdict.strange,
                "beside": verdict.beside,
                **{name: int(part) for name, (part, _) in counts.items()},
                **{f"of_{name}": int(whole) for name, (_, whole) in counts.items()},
                **{f"made_{kind}": verdict.made[kind] for kind in KINDS},
                **{f"right_{kind}": verdict.right[kind] for kind in KINDS},
                **{f"has_{part}": kept for part, kept in structure(row.completion, row.open).items()},
            }
        )
    return pd.DataFrame(rows)


def _shaped(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the structure alone, of completions that no source settles."""
    kept = pd.DataFrame(list(map(structure, frame["completion"], frame["open"])))
    return kept.add_prefix("has_").assign(
        item_id=frame["item_id"], accuracy=frame["correct"].astype(int), of_accuracy=1
    )


def _cell(table: pd.DataFrame, derived: bool) -> dict[str, Any]:
    items, one = pd.factorize(table["item_id"])[0], np.ones(len(table))
    parts = STRUCTURE if derived else (*STRUCTURE, "sections")
    cell: dict[str, Any] = {"items": int(items.max()) + 1, "completions": len(table)}
    for name in MEASURES if derived else ("accuracy",):
        cell[name] = _rate(items, table[name], table[f"of_{name}"])
    if derived:
        sums = table.sum(numeric_only=True)
        cell["claims"] = {
            kind: {"made": int(sums[f"made_{kind}"]), "right": int(sums[f"right_{kind}"])}
            for kind in KINDS
            if sums[f"made_{kind}"]
        }
        cell |= {"strange": int(sums["strange"]), "beside": int(sums["beside"])}
        cell["outcomes"] = {name: _rate(items, table["outcome"] == name, one) for name in OUTCOMES}
    return {**cell, "structure": {part: _rate(items, table[f"has_{part}"], one) for part in parts}}


def _rate(items: np.ndarray, part: pd.Series, whole: pd.Series | np.ndarray) -> Rate | None:
    """Return the rate of ``part`` in ``whole``, None if ``whole`` is 0 throughout.

    All have one value for each completion; that of ``items`` is its item as a number.
    """
    parts, wholes = (np.bincount(items, weights=np.asarray(values, dtype=float)) for values in (part, whole))
    if not wholes.any():
        return None
    value, (low, high) = ratio(parts[wholes > 0], wholes[wholes > 0])
    return {"value": round(value, 6), "ci95": [round(low, 6), round(high, 6)], "of": int(wholes.sum())}


def _paired(tables: dict[str, dict[str, pd.DataFrame]]) -> list[PairedFaithfulness]:
    """Return all pairs of models on the same items, earlier stage first."""
    rows: list[PairedFaithfulness] = []
    for benchmark, models in tables.items():
        for (a, one), (b, two) in combinations(models.items(), 2):
            if set(one["item_id"]) == set(two["item_id"]):
                kinds = [kind for kind in REASONING_TYPES if (one["group"] == kind).any()]
                by = {kind: _differences(one[one["group"] == kind], two[two["group"] == kind]) for kind in kinds}
                rows.append({"a": a, "b": b, "benchmark": benchmark, "all": _differences(one, two), "by": by})
    return rows


def _differences(one: pd.DataFrame, two: pd.DataFrame) -> dict[str, Change]:
    """Return ``two`` minus ``one`` for each measure that both have, with its bootstrap interval over items."""
    kept = [name for name in COMPARED if one[f"of_{name}"].sum() and two[f"of_{name}"].sum()]
    columns = [column for name in kept for column in (name, f"of_{name}")]
    if not kept:
        return {}
    a, b = (table.groupby("item_id", sort=True)[columns].sum().to_numpy(float) for table in (one, two))

    def differences(means: np.ndarray) -> np.ndarray:
        before, after = np.split(means, 2, axis=-1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return after[..., ::2] / after[..., 1::2] - before[..., ::2] / before[..., 1::2]

    rows = np.concatenate([a, b], axis=1)
    low, high = bootstrap(rows, differences)
    found = zip(kept, differences(rows.mean(axis=0)), low, high, strict=True)
    return {
        name: {"delta": round(float(delta), 6), "ci95": [round(float(lo), 6), round(float(hi), 6)]}
        for name, delta, lo, hi in found
    }
