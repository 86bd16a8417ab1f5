"""Does the order of the options change the answer? From the predictions of permuted items beside the normal ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from gazal.common.errors import GazalError
from gazal.predictions.folder import PERMUTED, Answers, read_permuted
from gazal.scoring.cells import rounded
from gazal.scoring.schemas import Robustness
from gazal.scoring.stats import bootstrap, interval


def robustness(root: Path, answers: Answers) -> dict[str, dict[str, Robustness]]:
    """Return, by model and benchmark, what the items say that were asked in several orders of the options.

    Raises GazalError if the permuted predictions are of other items.
    """
    found: dict[str, dict[str, Robustness]] = {}
    for (model, benchmark), frame in answers.items():
        if frame["key"].notna().all() and (turned := read_permuted(root, frame.attrs["path"])) is not None:
            if (
                not set(turned["item_id"]) <= set(frame["item_id"])
                or turned.groupby("item_id")["turn"].nunique().nunique() > 1
            ):
                raise GazalError(
                    f"{root}/{model}/{PERMUTED}/{benchmark}.parquet: not the items of {model}/{benchmark}.parquet, each in equally many orders"
                )
            asked = frame[frame["item_id"].isin(set(turned["item_id"]))]
            found.setdefault(model, {})[benchmark] = rounded(
                of_orders(pd.concat([asked.assign(turn=0, original=asked["letter"]), turned]))
            )
    return found


def of_orders(frame: pd.DataFrame) -> Robustness:
    """One model on one benchmark; ``frame`` has item_id, sample, turn (which order), letter and key as shown, original (the
    answer's letter in the first order, or None) and correct."""
    frame = frame[frame["sample"] < frame.groupby("turn")["sample"].nunique().min()]
    samples = frame["sample"].nunique()
    right = frame.groupby(["item_id", "turn"])["correct"].mean().unstack().to_numpy(float)  # items by orders
    chosen = frame.set_index(["item_id", "sample", "turn"])["original"].unstack()
    same = (chosen.notna().all(axis=1) & (chosen.nunique(axis=1) == 1)).groupby(level=0).mean().to_numpy(float)
    orders, means = right.shape[1], right.mean(axis=1)
    bias, ends = letter_bias(frame)
    found: dict[str, Any] = {
        "orders": orders,
        "n": len(right),
        "accuracy": {
            "mean": float(means.mean()),
            "lowest": float(right.mean(axis=0).min()),
            "highest": float(right.mean(axis=0).max()),
            "ci95": list(interval(means, orders * samples)),
        },
        "same_answer": float(same.mean()),
        "same_answer_ci95": list(interval(same, samples)),
        "letter_bias": bias,
        "letter_bias_ci95": ends,
    }
    return cast(Robustness, found)


def letter_bias(frame: pd.DataFrame) -> tuple[dict[str, float], dict[str, list[float]]]:
    """For each letter how much oftener it is chosen than right, and its 95 % interval; empty where nothing is read."""
    read = frame[frame["letter"].notna()]
    if not len(read):
        return {}, {}
    letters = sorted({*frame["letter"].dropna(), *frame["key"]})
    excess = [
        (read["letter"] == letter).to_numpy(float) - (read["key"] == letter).to_numpy(float) for letter in letters
    ]
    excess = np.stack([*excess, np.ones(len(read))], axis=1)
    rows = (
        pd.DataFrame(excess, index=read["item_id"])
        .groupby(level=0)
        .sum()
        .reindex(sorted(set(frame["item_id"])), fill_value=0)
        .to_numpy()
    )

    def share(means: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return means[..., :-1] / means[..., -1:]

    low, high = bootstrap(rows, share)
    return dict(zip(letters, map(float, share(rows.mean(axis=0))), strict=True)), {
        k: [float(a), float(b)] for k, a, b in zip(letters, low, high, strict=True)
    }
