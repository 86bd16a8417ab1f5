"""What lies in a folder of predictions: items beside them, what was not run, and the predictions as our extractor reads them now.

Letters are extracted again from the stored completions where the items lie beside the predictions
(``items/<benchmark>.jsonl``), so that a better extractor needs no new generation.
"""

from __future__ import annotations

import glob
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gazal.answers.extract import Reason, extract, has_format
from gazal.answers.protocols import Grades, grade
from gazal.common.errors import GazalError
from gazal.common.files import write_json
from gazal.data.benchmarks import BENCHMARKS
from gazal.items.reading import ENDINGS, read_items
from gazal.items.schema import LETTERS, Item
from gazal.items.writing import write_items_jsonl
from gazal.predictions.file import fingerprint, read_header, read_predictions
from gazal.predictions.permute import turned

STAGES = ("base", "sft", "grpo")
PERMUTED = "permuted"
KEPT = ("eval", "items", PERMUTED)
"""Folders that are no model's."""
EXTRA = {"popularity": dict, "matches": dict, "order": list}
"""Of an item's extra fields, what the baselines read and what says how its options are permuted."""

Answers = dict[tuple[str, str], pd.DataFrame]
"""Predictions by model and benchmark."""
Read = tuple[Path, Answers, dict[str, list[Item]]]
"""What :func:`read_answers` gives."""


def save_items(eval_dir: str | Path, benchmark: str, items: list[Item], replace: bool = False) -> None:
    """Write ``items/<benchmark>.jsonl`` for scoring. Raises GazalError where it holds other items of which there are predictions,
    unless ``replace``."""
    path = Path(eval_dir) / "items" / f"{benchmark}.jsonl"
    predicted = (
        found
        for end in (".parquet", ".partial.jsonl")
        for found in Path(eval_dir).glob(f"*/{glob.escape(benchmark)}{end}")
    )
    if not replace and path.exists() and any(predicted) and fingerprint(read_items(path)) != fingerprint(items):
        raise GazalError(
            f"{path}: holds other items than those asked now (another limit, seed or file?); choose another folder"
        )
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
        return (
            {str(name): str(reason) for name, reason in json.loads(path.read_text(encoding="utf-8")).items()}
            if path.exists()
            else {}
        )
    except (ValueError, AttributeError) as error:
        raise GazalError(f"{path}: not a JSON object of reasons") from error


def _slim(item: Item) -> Item:
    extra = {name: value for name, kind in EXTRA.items() if isinstance(value := getattr(item, name, None), kind)}
    fields = item.model_dump(
        include={"id", "question", "context", "options", "answer_idx", "reasoning_type", "subject", "source"}
    )
    return Item.model_validate(fields | extra)


def read_answers(eval_dir: str | Path) -> Read:
    """The folder of predictions (``eval_dir``, or ``eval`` in it), the predictions by model and benchmark in the order of
    stages, and each benchmark's items (none where they are not beside). A folder that holds ``<benchmark>.parquet`` itself is
    a single model's, with its items in it or, as in a folder of several, beside it. Raises GazalError for a folder without predictions
    and for a file that is broken, incomplete, or of other items than those beside it.

    Frames are in item order, then sample, as :func:`gazal.predictions.file.read_predictions` gives them, letters read
    anew, with ``group`` (reasoning type, else subject), ``key``, ``format`` (0 or 1; NaN where unknown), ``open`` (the prompt
    opened the think block) and ``likeliest`` (the letter was chosen by log-likelihood, not written); the file and its header are in
    ``frame.attrs["path"]`` and ``frame.attrs["header"]``.
    """
    root = Path(eval_dir)
    root = root / "eval" if (root / "eval").is_dir() else root
    if not root.is_dir():
        raise GazalError(
            f"{root}: {'is a file, expected the folder of predictions' if root.exists() else 'no such folder'}"
        )
    several = [path for path in root.glob("*/*.parquet") if path.parent.name not in KEPT]
    files = {
        (path.parent.name if several else root.resolve().name, path.stem): path
        for path in several or root.glob("*.parquet")
    }
    if not files:
        raise GazalError(f"{root}: no predictions (expected <model>/<benchmark>.parquet)")
    items = {
        name: _items(root, name, not several)
        for name in sorted({name for _, name in files}, key=lambda n: _rank(n, BENCHMARKS, last=False))
    }
    order = sorted(files, key=lambda key: (_rank(key[0], STAGES), _rank(key[1], BENCHMARKS, last=False)))
    return root, {key: _answers(files[key], items[key[1]]) for key in order}, items


def read_permuted(root: Path, plain: Path) -> pd.DataFrame | None:
    """What lies in ``permuted/`` beside the predictions file ``plain``, as :func:`read_answers` reads it, ``item_id`` being the original's and
    ``turn`` the number of the order (1, 2, …), with ``original``: the answer's letter in the original order. None where there is no
    such file, or no items beside it (said on stderr). Raises GazalError for an item that does not say its ``order``.
    """
    path, benchmark = plain.parent / PERMUTED / plain.name, plain.stem
    if not path.exists():
        return None
    items = _items(root, f"{PERMUTED}/{benchmark}", plain.parent == root)
    if not items:
        print(
            f"{benchmark}: no items/{PERMUTED}/{benchmark}.jsonl beside the predictions: its permuted orders are not scored",
            file=sys.stderr,
        )
        return None
    orders = {}
    for row, item in enumerate(items, 1):
        orders[item.id] = turned(item)
        if not orders[item.id]:
            what = "order: expected the original letters in their new order, and an id that ends in #1, #2, …"
            raise GazalError(f"{root}/items/{PERMUTED}/{benchmark}.jsonl: row {row}: {what}")
    frame = _answers(path, items)
    found = [orders[name] for name in frame["item_id"]]
    return frame.assign(
        item_id=[origin for origin, _, _ in found],
        turn=[turn for _, turn, _ in found],
        original=[
            order[LETTERS.index(letter)] if isinstance(letter, str) else None
            for letter, (_, _, order) in zip(frame["letter"], found, strict=True)
        ],
    )


def regrade(frame: pd.DataFrame, items: list[Item], by: str) -> Grades:
    """One frame of :func:`read_answers` graded by a protocol, in the frame's order; what was not written but chosen by
    log-likelihood is read by no protocol: all take its letter."""
    if frame["likeliest"].any():
        letters = [letter if isinstance(letter, str) else None for letter in frame["letter"]]
        return Grades(
            np.array(letters, dtype=object)[:, None], letters, frame["correct"].to_numpy(float), ["read"] * len(letters)
        )
    asked = {item.id: item for item in items}
    rows = [asked[name] for name in frame["item_id"]]
    return grade(
        by,
        list(frame["completion"]),
        [item.options for item in rows],
        [item.answer_idx for item in rows],
        list(frame["open"]),
    )


def with_grades(frame: pd.DataFrame, grades: Grades) -> pd.DataFrame:
    """The frame with a protocol's letters, without what it does not count; where that is everything, all are wrong."""
    frame = frame.assign(letter=grades.letters, reason=grades.how, correct=grades.correct)
    return frame[grades.counted] if grades.counted.any() else frame


def _rank(name: str, order: tuple[str, ...], last: bool = True) -> tuple[int, str]:
    """Names of ``order`` in that order, all others by name: after them, or before them."""
    return (order.index(name) if name in order else len(order) if last else -1, name)


def _items(root: Path, benchmark: str, alone: bool) -> list[Item]:
    folders = (root, root.resolve().parent) if alone else (root,)
    found = (
        path for folder in folders for ending in ENDINGS if (path := folder / "items" / f"{benchmark}{ending}").exists()
    )
    return read_items(path) if (path := next(found, None)) else []


def _answers(path: Path, items: list[Item]) -> pd.DataFrame:
    frame, header = read_predictions(path), read_header(path) or {}
    if items:
        frame = _in_order(path, frame, items, header)
    elif (unknown := frame["correct"].isna()).any():
        raise GazalError(
            f"{path}: row {int(unknown.argmax()) + 1}: correct: null, and no items/{path.stem}.jsonl beside says what is right"
        )
    else:
        stored = _stored(frame)
        frame = frame.assign(
            group=None,
            key=None,
            format=np.nan,
            open=False,
            letter=stored,
            correct=frame["correct"].astype(bool) & stored.notna(),
        )
        frame = frame.sort_values(["item_id", "sample"], ignore_index=True)
    frame["likeliest"] = header.get("sampling", {}).get("method") == "loglik"
    frame.attrs |= {"path": path, "header": header}
    return frame


def _stored(frame: pd.DataFrame) -> pd.Series:
    """The letters that the file holds, capital; None where it holds none."""
    return frame["letter"].map(lambda letter: letter.strip().upper() or None if isinstance(letter, str) else None)


def _in_order(path: Path, frame: pd.DataFrame, items: list[Item], header: dict[str, Any]) -> pd.DataFrame:
    place = {item.id: at for at, item in enumerate(items)}
    strange = frame.index[~frame["item_id"].isin(place)]
    if len(strange):
        raise GazalError(
            f"{path}: row {strange[0] + 1}: item_id: {frame['item_id'][strange[0]]!r} is not among the items of {path.stem}"
        )
    answered = set(frame["item_id"])
    absent = [item.id for item in items if item.id not in answered]
    if absent:
        raise GazalError(f"{path}: {len(absent)} of {len(items)} items have no prediction (the first: {absent[0]!r})")
    if header and header.get("benchmark") != fingerprint(items):
        raise GazalError(f"{path}: was made for other items than those in items/{path.stem}.jsonl")
    frame = frame.assign(place=frame["item_id"].map(place)).sort_values(["place", "sample"], ignore_index=True)
    asked = [items[at] for at in frame["place"]]
    frame = frame.assign(
        group=[item.reasoning_type or item.subject for item in asked], key=[item.answer_idx for item in asked]
    )
    read = (
        _likeliest(path, frame, asked, header)
        if header.get("sampling", {}).get("method") == "loglik"
        else _written(frame, asked, header)
    )
    other = (frame["letter"].notna() & (_stored(frame).fillna("") != read["letter"].fillna(""))) | (
        frame["correct"].notna() & (frame["correct"] != read["correct"])
    )
    if other.any():
        print(
            f"{path.parent.name} on {path.stem}: {other.sum()} of {len(frame)} stored letters or marks are not what the completions say; the completions count",
            file=sys.stderr,
        )
    return read


def _written(frame: pd.DataFrame, asked: list[Item], header: dict[str, Any]) -> pd.DataFrame:
    think_open = bool(header.get("prompt", {}).get("opens_think", False))
    found = [
        extract(text, item.options, think_open=think_open)
        for text, item in zip(frame["completion"], asked, strict=True)
    ]
    return frame.assign(
        letter=[f.letter for f in found],
        reason=[f.reason.value for f in found],
        correct=[f.letter == key for f, key in zip(found, frame["key"], strict=True)],
        format=[
            float(has_format(text, item.options, think_open, f))
            for text, item, f in zip(frame["completion"], asked, found, strict=True)
        ],
        open=think_open,
    )


def _likeliest(path: Path, frame: pd.DataFrame, asked: list[Item], header: dict[str, Any]) -> pd.DataFrame:
    from gazal.predictions.loglik import read_letter

    letters = []
    for text, item in zip(frame["completion"], asked, strict=True):
        try:
            letters.append(read_letter(text, header["sampling"].get("loglik_norm", "sum")))
        except GazalError as error:
            raise GazalError(f"{path}: item {item.id!r}: {error}") from error
    reasons = [(Reason.EMPTY if letter is None else Reason.OK).value for letter in letters]
    correct = [letter == key for letter, key in zip(letters, frame["key"], strict=True)]
    return frame.assign(letter=letters, reason=reasons, correct=correct, format=np.nan, open=False)
