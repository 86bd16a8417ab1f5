"""Length against correctness: ``lengths.json``. A pure step, of predictions alone.

Are longer completions more often right? Completions that ended by themselves are put into fifths by length. Those cut
at the token limit stand apart. What a server refused or filtered is left out. Items of one reasoning type or subject
may be both longer and easier. So the same is done within these groups, as accuracy less that of the group.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from gazal.common.files import write_json
from gazal.common.openai_message import FILTERED
from gazal.engines.reply import REFUSED
from gazal.predictions.folder import Read, read_answers
from gazal.scoring.stats import interval, paired_interval

FIFTHS = 5


def measure_lengths(eval_dir: str | Path, answers: Read | None = None) -> dict[str, Any]:
    """Write ``lengths.json`` beside the predictions (a run folder works too) and return it; same files, same bytes.

    ``answers``: what :func:`read_answers` gave for the folder, so that nothing is read twice. By benchmark and model,
    the file's ``benchmarks`` hold:

    * ``fifths``: cells of the completions that ended by themselves, shortest first. Completions of one length share a
      fifth, so that one may be absent.
    * ``truncated``: the cell of those that were cut, or None.
    * ``rho``: Spearman's correlation of length and accuracy, item by item, as ``{"rho", "p"}``. It is None if either is
      constant, or with fewer than three items.
    * ``within`` and ``rho_within``: the same within groups; empty and None if there are no two groups.

    A cell has ``fifth`` (1 to 5, not of those cut), ``completions``, ``items``, ``tokens`` (mean) and ``accuracy`` with
    ``ci95``. Within groups ``gain`` stands for accuracy: the accuracy less the group's, as shares. All items weigh
    equally. Models that write nothing (log-likelihood) are left out.

    Raises GazalError as :func:`gazal.predictions.folder.read_answers` does.
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
    """Return a model's entry for one benchmark.

    ``frame`` has the columns item_id, n_tokens, finish_reason, correct and group (a text or None).
    """
    frame = frame[~frame["finish_reason"].isin([REFUSED, FILTERED])]
    cut = frame["finish_reason"] == "length"
    ended = _ranked(frame[~cut].assign(group="all"))
    grouped = _ranked(frame[~cut & frame["group"].notna()])
    several = grouped["group"].nunique() > 1
    return {
        "fifths": _fifths(ended, "accuracy"),
        "truncated": _cell(frame[cut], "accuracy") if cut.any() else None,
        "rho": _rho(ended),
        "within": _fifths(grouped, "gain") if several else [],
        "rho_within": _rho(grouped) if several else None,
    }


def _ranked(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with ``place``, ``fifth`` and ``gain``.

    ``place`` is the rank by length in the group, between 0 and 1; equal lengths share their mean rank. ``gain`` is 1 or
    0 less the group's share of right completions.
    """
    groups, right = frame.groupby("group"), frame["correct"].astype(float)
    place = (groups["n_tokens"].rank() - 0.5) / groups["n_tokens"].transform("size")
    return frame.assign(
        place=place,
        fifth=np.floor(place * FIFTHS).astype(int) + 1,
        gain=right - right.groupby(frame["group"]).transform("mean"),
    )


def _fifths(ranked: pd.DataFrame, value: str) -> list[dict[str, Any]]:
    return [{"fifth": int(fifth), **_cell(part, value)} for fifth, part in ranked.groupby("fifth")]


def _cell(part: pd.DataFrame, value: str) -> dict[str, Any]:
    means = part.groupby("item_id")["gain" if value == "gain" else "correct"].mean().to_numpy(float)
    # an item is one draw, however many of its completions are here
    low, high = paired_interval(means) if value == "gain" else interval(means)
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
