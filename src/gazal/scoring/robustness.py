"""Does the order of the options change the answer? From the predictions of permuted items beside the normal ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from gazal.common.errors import GazalError
from gazal.predictions.folder import PERMUTED, Answers, read_permuted
from gazal.scoring.cells import rounded
from gazal.scoring.schemas import Robustness
from gazal.scoring.stats import bootstrap, interval


def robustness(root: Path, answers: Answers) -> dict[str, dict[str, Robustness]]:
    """Return how models answer items in several orders of the options, by model and benchmark.

    Raises GazalError if the permuted predictions are of other items.
    """
    found: dict[str, dict[str, Robustness]] = {}
    for (model, benchmark), frame in answers.items():
        if frame["key"].isna().any() or (turned := read_permuted(root, frame.attrs["path"])) is None:
            continue
        names, orders = set(turned["item_id"]), turned.groupby("item_id")["turn"].nunique()
        if not names <= set(frame["item_id"]) or orders.nunique() > 1:
            raise GazalError(
                f"{root}/{model}/{PERMUTED}/{benchmark}.parquet: not the items of {model}/{benchmark}.parquet, "
                "each in equally many orders"
            )
        plain = frame[frame["item_id"].isin(names)]
        every = pd.concat([plain.assign(turn=0, original=plain["letter"]), turned])
        found.setdefault(model, {})[benchmark] = rounded(of_orders(every))
    return found


def of_orders(frame: pd.DataFrame) -> Robustness:
    """Return a model's entry for one benchmark.

    ``frame`` has the columns item_id, sample, turn (the number of the order), letter and key as shown, original and
    correct. ``original`` is the answer's letter in the first order, or None.
    """
    frame = frame[frame["sample"] < frame.groupby("turn")["sample"].nunique().min()]
    samples = frame["sample"].nunique()
    right = frame.groupby(["item_id", "turn"])["correct"].mean().unstack().to_numpy(float)  # items by orders
    chosen = frame.set_index(["item_id", "sample", "turn"])["original"].unstack()
    same = (chosen.notna().all(axis=1) & (chosen.nunique(axis=1) == 1)).groupby(level=0).mean().to_numpy(float)
    orders, means, by_order = right.shape[1], right.mean(axis=1), right.mean(axis=0)
    bias, ends = letter_bias(frame)
    return {
        "orders": orders,
        "n": len(right),
        "accuracy": {
            "mean": float(means.mean()),
            "lowest": float(by_order.min()),
            "highest": float(by_order.max()),
            "ci95": list(interval(means, orders * samples)),
        },
        "same_answer": float(same.mean()),
        "same_answer_ci95": list(interval(same, samples)),
        "letter_bias": bias,
        "letter_bias_ci95": ends,
    }


def letter_bias(frame: pd.DataFrame) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Return how much oftener each letter is chosen than right, and the 95 % intervals; empty if nothing is read."""
    read = frame[frame["letter"].notna()]
    if not len(read):
        return {}, {}
    letters = sorted({*frame["letter"].dropna(), *frame["key"]})
    chosen, right = (read[name].to_numpy()[:, None] == np.array(letters, dtype=object) for name in ("letter", "key"))
    excess = np.column_stack([chosen.astype(float) - right, np.ones(len(read))])
    sums = pd.DataFrame(excess, index=read["item_id"]).groupby(level=0).sum()
    rows = sums.reindex(sorted(set(frame["item_id"])), fill_value=0).to_numpy()

    def share(means: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return means[..., :-1] / means[..., -1:]

    low, high = bootstrap(rows, share)
    ends = {letter: [float(a), float(b)] for letter, a, b in zip(letters, low, high, strict=True)}
    return dict(zip(letters, map(float, share(rows.mean(axis=0))), strict=True)), ends
