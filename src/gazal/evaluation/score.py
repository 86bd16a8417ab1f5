"""From predictions to ``scores.json``: a pure step. Same files, same bytes; no model, no clock.

Letters are extracted again from the stored completions where the items lie beside the predictions
(``items/<benchmark>.jsonl``), so that a better extractor needs no new generation. Every item counts:
an answer that cannot be read is wrong.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gazal.answers import extract, has_format
from gazal.baselines import baselines
from gazal.errors import GazalError
from gazal.evaluation.benchmarks import BENCHMARKS
from gazal.evaluation.contamination import read_unclean
from gazal.evaluation.predictions import fingerprint, read_header, read_predictions
from gazal.evaluation.protocols import OURS, Grades, grade, protocol
from gazal.evaluation.stats import interval, paired_interval, paired_p
from gazal.files import write_json
from gazal.items import Item, read_items, write_items_jsonl

STAGES = ("base", "sft", "grpo")
KEPT = ("popularity", "matches")  # of an item's extra fields, what the baselines read


def save_items(eval_dir: str | Path, benchmark: str, items: list[Item], replace: bool = False) -> None:
    """Write ``items/<benchmark>.jsonl`` for scoring. Raises GazalError where it holds other items, unless ``replace``."""
    path = Path(eval_dir) / "items" / f"{benchmark}.jsonl"
    if not replace and path.exists() and fingerprint(read_items(path)) != fingerprint(items):
        raise GazalError(f"{path}: holds other items than those asked now (another limit, seed or file?); choose another folder")
    write_items_jsonl(path, (_slim(item) for item in items))


def save_training_items(eval_dir: str | Path, items: Iterable[Item]) -> None:
    """Write ``training_items.jsonl``: what the fitted baselines learn from (no reasoning traces)."""
    write_items_jsonl(Path(eval_dir) / "training_items.jsonl", (_slim(item) for item in items))


def save_not_run(eval_dir: str | Path, reasons: dict[str, str]) -> None:
    """Write ``not_run.json``: ``{benchmark: why it was not evaluated}``."""
    write_json(Path(eval_dir) / "not_run.json", dict(sorted(reasons.items())))


def read_not_run(eval_dir: str | Path) -> dict[str, str]:
    """What :func:`save_not_run` wrote; empty where it wrote nothing."""
    path = Path(eval_dir) / "not_run.json"
    try:
        return {str(name): str(reason) for name, reason in json.loads(path.read_text(encoding="utf-8")).items()} if path.exists() else {}
    except (ValueError, AttributeError) as error:
        raise GazalError(f"{path}: not a JSON object of reasons") from error


def _slim(item: Item) -> Item:
    extra = {name: value for name in KEPT if isinstance(value := getattr(item, name, None), dict)}
    fields = item.model_dump(include={"id", "question", "context", "options", "answer_idx", "reasoning_type", "subject", "source"})
    return Item.model_validate(fields | extra)


def score_folder(eval_dir: str | Path, by: str = OURS) -> dict[str, Any]:
    """Score every ``<model>/<benchmark>.parquet`` under ``eval_dir`` (a run folder works too), write
    ``scores.json`` there, and return it.

    Schema: ``models.M.benchmarks.B`` = n (items), samples, accuracy, ci95, unparsed, truncated and format
    (shares of completions), mean_tokens, reasons (counts), by (reasoning type, else subject), clean (n, accuracy, ci95
    without the items that ``contamination.json`` names; None where there is no such file); ``paired``
    (delta = accuracy of b minus accuracy of a); ``baselines.B.name`` = accuracy; ``not_run.B`` = reason.
    ``by`` another protocol than ours: ``scores.<by>.json``, where reasons say how letters were come by and
    nothing is paired; without items beside the predictions that raises GazalError. So does a file that is
    broken, incomplete, or of other items than those beside it, and an unknown protocol.
    """
    protocol(by)
    root, answers, items = read_answers(eval_dir)
    for name in (name for name, found in items.items() if not found):
        if by != OURS:
            raise GazalError(f"{root}: {name} cannot be scored by {by}: no items/{name}.jsonl beside the predictions")
        print(f"{name}: no items/{name}.jsonl beside the predictions: scored by the stored letters, without baselines", file=sys.stderr)
    if by != OURS:
        answers = {key: with_grades(frame, regrade(frame, items[key[1]], by)) for key, frame in answers.items()}
    models: dict[str, Any] = {}
    unclean = read_unclean(root)
    for (model, benchmark), frame in answers.items():
        models.setdefault(model, {"benchmarks": {}})["benchmarks"][benchmark] = _score(frame, unclean.get(benchmark))
    trained = root / "training_items.jsonl"
    training = read_items(trained) if trained.exists() else []
    scores = {
        "models": models,
        "paired": [row for name in items for row in _paired(name, {m: f for (m, b), f in answers.items() if b == name})] if by == OURS else [],
        "baselines": {name: {k: round(v["accuracy"], 6) for k, v in baselines(found, training).items()} for name, found in items.items() if found},
        "not_run": {name: reason for name, reason in read_not_run(root).items() if name not in items},
    }
    if by != OURS:
        scores = {"protocol": by, **scores}
    write_json(root / ("scores.json" if by == OURS else f"scores.{by}.json"), scores)
    return scores


Answers = dict[tuple[str, str], pd.DataFrame]
"""Predictions as our extractor reads them now, by model and benchmark."""


def read_answers(eval_dir: str | Path) -> tuple[Path, Answers, dict[str, list[Item]]]:
    """The folder of predictions (``eval_dir``, or ``eval`` in it), the predictions by model and benchmark in the order of
    stages, each frame in item order, then sample, with a boolean ``open`` (the prompt opened the think block), and each
    benchmark's items (none where they are not beside). Raises GazalError as :func:`score_folder` says."""
    root = Path(eval_dir)
    root = root / "eval" if (root / "eval").is_dir() else root
    if not root.is_dir():
        raise GazalError(f"{root}: no such folder")
    files = sorted(root.glob("*/*.parquet"), key=lambda p: (_rank(p.parent.name, STAGES), _rank(p.stem, BENCHMARKS, last=False)))
    if not files:
        raise GazalError(f"{root}: no predictions (expected <model>/<benchmark>.parquet)")
    items = {name: _items(root, name) for name in dict.fromkeys(sorted((p.stem for p in files), key=lambda n: _rank(n, BENCHMARKS, last=False)))}
    return root, {(path.parent.name, path.stem): _answers(path, items[path.stem]) for path in files}, items


def regrade(frame: pd.DataFrame, items: list[Item], by: str) -> Grades:
    """One frame of :func:`read_answers` graded by a protocol; completions in the frame's order."""
    asked = {item.id: item for item in items}
    rows = [asked[name] for name in frame["item_id"]]
    return grade(by, list(frame["completion"]), [item.options for item in rows], [item.answer_idx for item in rows], list(frame["open"]))


def with_grades(frame: pd.DataFrame, grades: Grades) -> pd.DataFrame:
    """The frame with a protocol's letters, without what it does not count; where that is everything, all are wrong."""
    frame = frame.assign(letter=grades.letters, reason=grades.how, correct=grades.correct)
    return frame[grades.counted] if grades.counted.any() else frame


def accuracy(frame: pd.DataFrame) -> float:
    """Mean over items of the mean over an item's completions, as ``scores.json`` has it."""
    return round(float(_means(frame).mean()), 6)


def _rank(name: str, order: tuple[str, ...], last: bool = True) -> tuple[int, str]:
    """Names of ``order`` in that order, all others by name: after them, or before them."""
    return (order.index(name) if name in order else len(order) if last else -1, name)


def _items(root: Path, benchmark: str) -> list[Item]:
    path = root / "items" / f"{benchmark}.jsonl"
    return read_items(path) if path.exists() else []


def _answers(path: Path, items: list[Item]) -> pd.DataFrame:
    """Predictions with ``group``, ``letter``, ``reason``, ``correct``, ``format`` and ``open``, in item order, then sample."""
    frame = read_predictions(path)
    if not items:
        frame = frame.assign(group=None, format=np.nan, open=False, correct=frame["correct"].astype(bool) & frame["letter"].notna())
        return frame.sort_values(["item_id", "sample"], ignore_index=True)
    place = {item.id: at for at, item in enumerate(items)}
    strange = frame.index[~frame["item_id"].isin(place)]
    if len(strange):
        raise GazalError(f"{path}: row {strange[0] + 1}: item_id: {frame['item_id'][strange[0]]!r} is not among the items of {path.stem}")
    absent = [item.id for item in items if item.id not in set(frame["item_id"])]
    if absent:
        raise GazalError(f"{path}: {len(absent)} of {len(items)} items have no prediction (the first: {absent[0]!r})")
    header = read_header(path) or {}
    if header and header.get("benchmark") != fingerprint(items):
        raise GazalError(f"{path}: was made for other items than those in items/{path.stem}.jsonl")
    think_open = bool(header.get("prompt", {}).get("opens_think", False))
    frame = frame.assign(place=frame["item_id"].map(place)).sort_values(["place", "sample"], ignore_index=True)
    asked = [items[at] for at in frame["place"]]
    found = [extract(text, item.options, think_open=think_open) for text, item in zip(frame["completion"], asked, strict=True)]
    return frame.assign(
        group=[item.reasoning_type or item.subject for item in asked], letter=[f.letter for f in found], reason=[f.reason.value for f in found],
        correct=[f.letter == item.answer_idx for f, item in zip(found, asked, strict=True)],
        format=[float(has_format(text, item.options, think_open, f)) for text, item, f in zip(frame["completion"], asked, found, strict=True)],
        open=think_open,
    )


def _means(frame: pd.DataFrame) -> np.ndarray:
    """Mean accuracy per item, shape (items,)."""
    return frame.groupby("item_id", sort=True)["correct"].mean().to_numpy(float)


def _cell(frame: pd.DataFrame) -> dict[str, Any]:
    means = _means(frame)
    cell = {
        "n": len(means), "accuracy": float(means.mean()), "ci95": list(interval(means, len(frame) // len(means))),
        "unparsed": float(frame["letter"].isna().mean()), "truncated": float((frame["finish_reason"] == "length").mean()),
        "mean_tokens": float(frame["n_tokens"].mean()),
    }
    if frame["format"].notna().all():
        cell["format"] = float(frame["format"].mean())
    return {key: [round(x, 6) for x in value] if isinstance(value, list) else round(value, 6) for key, value in cell.items()}


def _score(frame: pd.DataFrame, unclean: set[str] | None) -> dict[str, Any]:
    groups = sorted({group for group in frame["group"] if isinstance(group, str)})
    clean = frame[~frame["item_id"].isin(unclean)] if unclean is not None else frame[:0]
    return {
        **_cell(frame), "clean": {key: value for key, value in _cell(clean).items() if key in ("n", "accuracy", "ci95")} if len(clean) else None, "samples": len(frame) // frame["item_id"].nunique(), "reasons": dict(sorted(Counter(frame["reason"].fillna("unknown")).items())),
        "by": {group: _cell(frame[frame["group"] == group]) for group in groups},
    }


def _paired(benchmark: str, frames: dict[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """All pairs of models, earlier stage first; ``by`` holds the same for each reasoning type or subject."""
    rows = []
    names = list(frames)
    for at, a in enumerate(names):
        for b in names[at + 1 :]:
            one, two = frames[a], frames[b]
            if set(one["item_id"]) != set(two["item_id"]):
                continue
            groups = sorted({group for group in one["group"] if isinstance(group, str)})
            by = {g: _comparison(one[one["group"] == g], two[two["group"] == g]) for g in groups}
            rows.append({"a": a, "b": b, "benchmark": benchmark, **_comparison(one, two), "by": by})
    return rows


def _comparison(one: pd.DataFrame, two: pd.DataFrame) -> dict[str, Any]:
    a, b = _means(one), _means(two)
    low, high = paired_interval(b - a)
    samples = max(len(one) // len(a), len(two) // len(b))
    # the difference of the accuracies as they are printed, so that a reader's subtraction agrees
    delta = round(round(float(b.mean()), 6) - round(float(a.mean()), 6), 6)
    return {"delta": delta, "ci95": [round(low, 6), round(high, 6)], "p": _significant(paired_p(a, b, samples))}


def _significant(p: float) -> float:
    """Six significant digits: a p-value of 1e-12 is not 0."""
    return float(f"{p:.6g}")


def scores_frame(scores: dict[str, Any]) -> pd.DataFrame:
    """One row per model, benchmark and group (``all``, then each reasoning type or subject): n, accuracy,
    low, high, unparsed, truncated, mean_tokens, format (shares; NaN where unknown)."""
    rows = []
    for model, entry in scores["models"].items():
        for benchmark, score in entry["benchmarks"].items():
            for group, cell in {"all": score, **score["by"]}.items():
                low, high = cell["ci95"]
                kept = {key: cell.get(key) for key in ("n", "accuracy", "unparsed", "truncated", "mean_tokens", "format")}
                rows.append({"model": model, "benchmark": benchmark, "group": group, **kept, "low": low, "high": high})
    return pd.DataFrame(rows)


def results_table(scores: dict[str, Any]) -> str:
    """Markdown: models by benchmarks, accuracy in % with its 95 % interval, then chance and the best
    shortcut; a benchmark that was not run says so, and why, below, and a protocol that is not ours at the end."""
    not_run = scores.get("not_run", {})
    benchmarks = list(dict.fromkeys([*(b for m in scores["models"].values() for b in m["benchmarks"]), *not_run]))

    def cell(score: dict[str, Any] | None) -> str:
        if score is None:
            return "not run"
        return f"{100 * score['accuracy']:.1f} ({100 * score['ci95'][0]:.1f}–{100 * score['ci95'][1]:.1f})"

    def size(benchmark: str) -> str:
        found = next((m["benchmarks"][benchmark]["n"] for m in scores["models"].values() if benchmark in m["benchmarks"]), None)
        return benchmark if found is None else f"{benchmark} (n={found})"

    def shortcut(row: dict[str, float]) -> str:
        name = max(row, key=row.__getitem__)  # chance comes first and wins ties
        return "none above chance" if name == "chance" else f"{100 * row[name]:.1f} ({name})"

    rows = [["accuracy, % (95 % interval)", *map(size, benchmarks)]]
    rows += [[model, *(cell(entry["benchmarks"].get(b)) for b in benchmarks)] for model, entry in scores["models"].items()]
    known = scores.get("baselines", {})
    if known:
        rows.append(["chance", *(f"{100 * known[b]['chance']:.1f}" if b in known else "" for b in benchmarks)])
        rows.append(["best shortcut", *(shortcut(known[b]) if b in known else "" for b in benchmarks)])
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = ["| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    notes = [f"{name} not run: {reason}" for name, reason in not_run.items()]
    if "protocol" in scores:
        notes.append(f"Scored by the protocol {scores['protocol']}, not by ours: {protocol(scores['protocol']).rule}.")
    return "\n".join([*lines, *([""] if notes else []), *notes])
