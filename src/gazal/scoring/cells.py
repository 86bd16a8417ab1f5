"""One cell of ``scores.json`` from a frame of predictions: accuracy and what goes with it, and two models compared."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from gazal.data.repeats import repeats
from gazal.items.schema import Item
from gazal.predictions.file import not_asked, refused
from gazal.scoring.schemas import AtK, BenchmarkScore, Cell, Comparison, GroupCell, Part
from gazal.scoring.stats import (
    detectable,
    detectable_above,
    effective_size,
    interval,
    macro_f1,
    maj_at_k,
    paired_interval,
    paired_p,
    pass_at_k,
    steps_of_k,
)


def rounded(value: Any) -> Any:
    """Round floats to six decimals, however deep they lie; tuples become lists."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(inner) for inner in value]
    return round(value, 6) if isinstance(value, float) else value


def significant(p: float) -> float:
    """Round to six significant digits, so that a p-value of 1e-12 is not 0."""
    return float(f"{p:.6g}")


def means_of(frame: pd.DataFrame) -> np.ndarray:
    """Return the mean accuracy of each item, shape (items,)."""
    return frame.groupby("item_id", sort=True)["correct"].mean().to_numpy(float)


def accuracy(frame: pd.DataFrame) -> float:
    """Return the mean over items of the mean over an item's completions, as in ``scores.json``."""
    return round(float(means_of(frame).mean()), 6)


def samples_of(frame: pd.DataFrame) -> int:
    """Return the number of completions of an item."""
    return len(frame) // frame["item_id"].nunique()


def groups_of(frame: pd.DataFrame) -> list[str]:
    """Return the reasoning types or subjects, sorted by name."""
    return sorted({group for group in frame["group"] if isinstance(group, str)})


def cell(frame: pd.DataFrame) -> Cell:
    """Return the cell of these predictions."""
    means, tokens = means_of(frame), int(frame["n_tokens"].sum())
    found = {
        "n": len(means),
        "accuracy": float(means.mean()),
        "ci95": list(interval(means, len(frame) // len(means))),
        "unparsed": float(frame["letter"].isna().mean()),
        "truncated": float((frame["finish_reason"] == "length").mean()),
        "empty": float((frame["completion"].str.strip() == "").mean()),
        "mean_tokens": float(frame["n_tokens"].mean()),
        "right_per_1k_tokens": float(1000 * frame["correct"].sum() / tokens) if tokens else None,
    }
    if frame["format"].notna().all():
        found["format"] = float(frame["format"].mean())
    return rounded(found)


def score(frame: pd.DataFrame, items: list[Item], unclean: set[str] | None, ours: bool = True) -> BenchmarkScore:
    """Return a model's entry for one benchmark.

    ``unclean``: ids that the clean subset leaves out, or None if they are not known. ``ours``: letters are our
    extractor's, so that votes and classes mean something.
    """
    samples = samples_of(frame)
    more: dict[str, Any] = {}
    if items:
        worth = effective_size(means_of(frame), samples)
        more["detectable"] = detectable_above(worth, _chance(frame, items)["chance"])
    if ours and (classes := _classes(items)):
        value, *ends = macro_f1(*_as_classes(frame, items, classes))
        more["macro_f1"] = {"value": value, "ci95": ends}
    if ours and samples > 1:
        more["at_k"] = at_k(frame)
    return BenchmarkScore(
        **cell(frame),
        clean=_part(frame, unclean),
        deduplicated=_part(frame, repeats(items)) if items else None,
        samples=samples,
        not_asked=round(float(not_asked(frame["finish_reason"], frame["completion"], frame["n_tokens"]).mean()), 6),
        refused=round(float(refused(frame["finish_reason"]).mean()), 6),
        sampling=frame.attrs.get("header", {}).get("sampling"),
        reasons=dict(sorted(Counter(frame["reason"].fillna("unknown")).items())),
        **rounded(more),
        by={g: GroupCell(**cell(part := frame[frame["group"] == g]), **_chance(part, items)) for g in groups_of(frame)},
    )


def _chance(frame: pd.DataFrame, items: list[Item]) -> dict[str, float]:
    answered = set(frame["item_id"])
    found = [1 / len(item.options) for item in items if item.id in answered]
    return {"chance": round(float(np.mean(found)), 6)} if found else {}


def _part(frame: pd.DataFrame, left_out: set[str] | None) -> Part | None:
    part = frame[~frame["item_id"].isin(left_out)] if left_out is not None else frame[:0]
    if not len(part):
        return None
    found = cell(part)
    return {"n": found["n"], "accuracy": found["accuracy"], "ci95": found["ci95"]}


def _fold(text: str) -> str:
    return " ".join(text.split()).casefold()


def _classes(items: list[Item]) -> list[str]:
    """Return the option texts if they are the same for all items (yes, no, maybe), else none."""
    sets = {tuple(sorted(map(_fold, item.options.values()))) for item in items}
    found = next(iter(sets), ())
    return list(found) if len(items) > 1 and len(sets) == 1 and len(set(found)) == len(found) else []


def _as_classes(frame: pd.DataFrame, items: list[Item], classes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    number = {(item.id, letter): classes.index(_fold(text)) for item in items for letter, text in item.options.items()}
    frame = frame.sort_values(["item_id", "sample"])

    def numbers(column: str) -> np.ndarray:
        pairs = zip(frame["item_id"], frame[column], strict=True)
        return np.array([number.get(pair, -1) for pair in pairs]).reshape(-1, samples_of(frame))

    return numbers("key")[:, :1], numbers("letter")


def at_k(frame: pd.DataFrame) -> AtK:
    """Return exact expectations over the draws of k samples (:func:`maj_at_k`, :func:`pass_at_k`).

    Intervals are over items, as for accuracy; k samples at a time an item gives samples // k answers that share none.
    """
    samples, right = samples_of(frame), frame.groupby("item_id", sort=True)["correct"].sum().astype(int)
    wrong = frame[~frame["correct"].astype(bool) & frame["letter"].notna()]
    votes: dict[str, tuple[int, ...]] = {
        name: tuple(sorted(found)) for name, found in wrong.groupby(["item_id", "letter"]).size().groupby(level=0)
    }
    result: AtK = {"maj": {}, "pass": {}}
    for k in steps_of_k(samples):
        majority = np.array([maj_at_k(count, votes.get(name, ()), samples, k) for name, count in right.items()])
        for kind, values in (("maj", majority), ("pass", pass_at_k(right.to_numpy(), samples, k))):
            values = values.round(12)  # exact ones and zeros, whatever the sums left
            result[kind][str(k)] = {"accuracy": float(values.mean()), "ci95": list(interval(values, samples // k))}
    return result


def comparison(one: pd.DataFrame, two: pd.DataFrame) -> Comparison:
    """Return the difference between two models on the same items."""
    a, b = means_of(one), means_of(two)
    low, high = paired_interval(b - a)
    # the difference of the accuracies as they are printed, so that a reader's subtraction agrees
    delta = round(round(float(b.mean()), 6) - round(float(a.mean()), 6), 6)
    return {
        "delta": delta,
        "ci95": [round(low, 6), round(high, 6)],
        "p": significant(paired_p(a, b, max(samples_of(one), samples_of(two)))),
        "n": len(a),
    }


def could_have_seen(one: pd.DataFrame, two: pd.DataFrame) -> float | None:
    """Return the smallest true difference that :func:`comparison` shows with 80 % power at this disagreement."""
    difference = means_of(two) - means_of(one)
    return rounded(detectable(len(difference), float(np.mean(difference**2)), max(samples_of(one), samples_of(two))))
