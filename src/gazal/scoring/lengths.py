"""Length against correctness: ``lengths.json``. A pure step, of predictions alone.

Do longer completions know more? Completions that ended by themselves are put into fifths by length, those cut at the
token limit stand apart. Items of one reasoning type or subject may be both longer and easier, so the same is done within
these groups, as accuracy less that of the group.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from gazal.common.files import write_json
from gazal.predictions.folder import Read, read_answers
from gazal.scoring.stats import interval, paired_interval

FIFTHS = 5


def measure_lengths(eval_dir: str | Path, answers: Read | None = None) -> dict[str, Any]:
    """Write ``lengths.json`` beside the predictions (a run folder works too) and return it; same files, same bytes.
    ``answers``: what :func:`read_answers` gave for it, so that nothing is read twice.

    Schema: ``benchmarks.B.M`` = ``fifths``, ``truncated`` (one of its cells, or None) and ``within``, shortest first.
    Each cell has fifth (1 to 5), completions, items, tokens (mean) and, items weighing equally, ``accuracy`` or, within
    groups, ``gain`` (accuracy less the group's, as shares), with ci95. Completions of one length share a fifth: one may be
    absent. ``within`` is empty where there are no two groups. ``rho`` and ``rho_within``: Spearman's correlation of the
    same, item by item, ``{"rho", "p"}``, None where either is constant. Models that write nothing (log-likelihood) are left out.
    Raises GazalError as :func:`gazal.scoring.score.score_folder` does.
    """
    root, frames, _ = answers or read_answers(eval_dir)
    benchmarks: dict[str, dict[str, Any]] = {}
    for (model, benchmark), frame in frames.items():
        if frame["n_tokens"].sum():
            benchmarks.setdefault(benchmark, {})[model] = of_completions(frame)
    report = {"benchmarks": benchmarks}
    write_json(root / "lengths.json", report)
    return report


def of_completions(frame: pd.DataFrame) -> dict[str, Any]:
    """One model on one benchmark; ``frame`` has item_id, n_tokens, finish_reason, correct and group (a text or None)."""
    cut = frame["finish_reason"] == "length"
    ended = _ranked(frame[~cut].assign(group="all"))
    grouped = _ranked(frame[~cut & frame["group"].notna()])
    several = grouped["group"].nunique() > 1
    return {
        "fifths": [{"fifth": int(fifth), **_cell(part)} for fifth, part in ended.groupby("fifth")],
        "truncated": _cell(frame[cut]) if cut.any() else None,
        "rho": _rho(ended),
        "within": [{"fifth": int(fifth), **_cell(part, "gain")} for fifth, part in grouped.groupby("fifth")]
        if several
        else [],
        "rho_within": _rho(grouped) if several else None,
    }


def _ranked(frame: pd.DataFrame) -> pd.DataFrame:
    """With ``place`` (rank by length in the group, between 0 and 1; equal lengths share their mean rank), ``fifth``, and
    ``gain`` (1 or 0 less the group's share of right completions)."""
    groups, right = frame.groupby("group"), frame["correct"].astype(float)
    place = (groups["n_tokens"].rank() - 0.5) / groups["n_tokens"].transform("size")
    return frame.assign(
        place=place,
        fifth=np.floor(place * FIFTHS).astype(int) + 1,
        gain=right - right.groupby(frame["group"]).transform("mean"),
    )


def _cell(part: pd.DataFrame, value: str = "accuracy") -> dict[str, Any]:
    means = part.groupby("item_id")["gain" if value == "gain" else "correct"].mean().to_numpy(float)
    low, high = (
        paired_interval(means) if value == "gain" else interval(means)
    )  # an item is one draw, however many of its completions are here
    return {
        "completions": len(part),
        "items": len(means),
        "tokens": round(float(part["n_tokens"].mean()), 6),
        value: round(float(means.mean()), 6),
        "ci95": [round(low, 6), round(high, 6)],
    }


def _rho(frame: pd.DataFrame) -> dict[str, float] | None:
    items = frame.groupby("item_id")[["place", "gain"]].mean().round(12)
    if len(items) < 3 or items["place"].nunique() < 2 or items["gain"].nunique() < 2:
        return None
    found = spearmanr(items["place"], items["gain"])
    return {"rho": round(float(found.statistic), 6), "p": float(f"{found.pvalue:.6g}")}
