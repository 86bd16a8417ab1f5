"""A folder of predictions, with the items beside them, read as our extractor reads completions now.

Letters are extracted again from the stored completions if the items lie beside the predictions
(``items/<benchmark>.jsonl``), so that a better extractor needs no new generation.
"""

from __future__ import annotations

import glob
import json
import sys
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gazal.answers.extract import Reason, extract, has_format
from gazal.answers.markup import part
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
"""Extra fields of an item that are kept, with their types: two for the baselines, and how options are permuted."""

Answers = dict[tuple[str, str], pd.DataFrame]
"""Predictions by model and benchmark."""
Read = tuple[Path, Answers, dict[str, list[Item]]]
"""What :func:`read_answers` gives."""


def save_items(eval_dir: str | Path, benchmark: str, items: list[Item], replace: bool = False) -> None:
    """Write ``items/<benchmark>.jsonl`` for scoring.

    Raises GazalError if the file holds other items and there are predictions of them, unless ``replace``.
    """
    path, name = Path(eval_dir) / "items" / f"{benchmark}.jsonl", glob.escape(benchmark)
    predicted = chain.from_iterable(Path(eval_dir).glob(f"*/{name}{end}") for end in (".parquet", ".partial.jsonl"))
    if not replace and path.exists() and any(predicted) and fingerprint(read_items(path)) != fingerprint(items):
        other = "holds other items than those asked now (another limit, seed or file?); choose another folder"
        raise GazalError(f"{path}: {other}")
    write_items_jsonl(path, map(_slim, items))


def save_training_items(eval_dir: str | Path, items: Iterable[Item]) -> None:
    """Write ``training_items.jsonl``: what the fitted baselines learn from (no reasoning traces)."""
    write_items_jsonl(Path(eval_dir) / "training_items.jsonl", map(_slim, items))


def save_not_run(eval_dir: str | Path, reasons: dict[str, str]) -> None:
    """Write ``not_run.json``: ``{benchmark: why it was not evaluated}``."""
    write_json(Path(eval_dir) / "not_run.json", dict(sorted(reasons.items())))


def read_not_run(eval_dir: str | Path) -> dict[str, str]:
    """Return what :func:`save_not_run` wrote, empty if it wrote nothing. Raises GazalError for another file."""
    path = Path(eval_dir) / "not_run.json"
    if not path.exists():
        return {}
    try:
        return {str(name): str(reason) for name, reason in json.loads(path.read_text(encoding="utf-8")).items()}
    except (ValueError, AttributeError) as error:
        raise GazalError(f"{path}: not a JSON object of reasons") from error


def _slim(item: Item) -> Item:
    extra = {name: value for name, kind in EXTRA.items() if isinstance(value := getattr(item, name, None), kind)}
    kept = {"id", "question", "context", "options", "answer_idx", "reasoning_type", "subject", "source"}
    return Item.model_validate(item.model_dump(include=kept) | extra)


def read_answers(eval_dir: str | Path) -> Read:
    """Return the folder of predictions, the predictions by model and benchmark, and each benchmark's items.

    The folder is ``eval_dir``, or ``eval`` in it. Models are in the order of stages. A benchmark has no items if their
    file is not beside its predictions. A folder that holds ``<benchmark>.parquet`` itself is a single model's, with the
    items in it or beside it.

    Frames have the columns of :func:`gazal.predictions.file.read_predictions`, in item order, then sample, with letters
    read anew. To these come:

    * ``group``: reasoning type, else subject.
    * ``key``: the right letter.
    * ``format``: 0 or 1, NaN if unknown.
    * ``open``: the prompt opened the think block, which its header or the model's other completions tell.
    * ``likeliest``: the letter was chosen by log-likelihood, not written.

    ``frame.attrs`` holds the file as ``path`` and its header as ``header``. Raises GazalError for a folder without
    predictions, and for a file that is broken, incomplete, or of other items than those beside it.
    """
    root = Path(eval_dir)
    root = root / "eval" if (root / "eval").is_dir() else root
    if not root.is_dir():
        what = "is a file, expected the folder of predictions" if root.exists() else "no such folder"
        raise GazalError(f"{root}: {what}")
    several = [path for path in root.glob("*/*.parquet") if path.parent.name not in KEPT]
    alone = root.resolve().name
    found = several or root.glob("*.parquet")
    files = {(path.parent.name if several else alone, path.stem): path for path in found}
    if not files:
        raise GazalError(f"{root}: no predictions (expected <model>/<benchmark>.parquet)")
    names = sorted({name for _, name in files}, key=_benchmark_rank)
    items = {name: _items(root, name, not several) for name in names}
    order = sorted(files, key=lambda key: (_rank(key[0], STAGES, len(STAGES)), _benchmark_rank(key[1])))
    return root, {key: _answers(files[key], items[key[1]]) for key in order}, items


def read_permuted(root: Path, plain: Path) -> pd.DataFrame | None:
    """Return the predictions in ``permuted/`` beside the file ``plain``, as :func:`read_answers` would read them.

    ``item_id`` is the original's, ``turn`` the number of the order (1, 2, …), and ``original`` the answer's letter in
    the original order. Return None if there is no such file, or no items beside it (said on stderr). Raises GazalError
    for an item without its ``order``.
    """
    path, benchmark = plain.parent / PERMUTED / plain.name, plain.stem
    if not path.exists():
        return None
    items = _items(root, f"{PERMUTED}/{benchmark}", plain.parent == root)
    if not items:
        absent = f"no items/{PERMUTED}/{benchmark}.jsonl beside the predictions"
        print(f"{benchmark}: {absent}: its permuted orders are not scored", file=sys.stderr)
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
    """Return the protocol ``by``'s grades of one frame of :func:`read_answers`, in the frame's order.

    Letters that were chosen by log-likelihood are not written. So no protocol reads them: all take them as they are.
    """
    if frame["likeliest"].any():
        letters = [letter if isinstance(letter, str) else None for letter in frame["letter"]]
        readings = np.array(letters, dtype=object)[:, None]
        return Grades(readings, letters, frame["correct"].to_numpy(float), ["read"] * len(letters))
    by_id = {item.id: item for item in items}
    rows = [by_id[name] for name in frame["item_id"]]
    options, keys = [item.options for item in rows], [item.answer_idx for item in rows]
    return grade(by, list(frame["completion"]), options, keys, list(frame["open"]))


def with_grades(frame: pd.DataFrame, grades: Grades) -> pd.DataFrame:
    """Return the frame with a protocol's letters, without rows that it does not count; if it counts none, with all."""
    frame = frame.assign(letter=grades.letters, reason=grades.how, correct=grades.correct)
    return frame[grades.counted] if grades.counted.any() else frame


def _rank(name: str, order: tuple[str, ...], others: int) -> tuple[int, str]:
    """Return the key that sorts names of ``order`` in that order, and all others by name at the place ``others``."""
    return (order.index(name) if name in order else others, name)


def _benchmark_rank(name: str) -> tuple[int, str]:
    return _rank(name, BENCHMARKS, -1)


def _items(root: Path, benchmark: str, alone: bool) -> list[Item]:
    for folder in (root, root.resolve().parent) if alone else (root,):
        for ending in ENDINGS:
            if (path := folder / "items" / f"{benchmark}{ending}").exists():
                return read_items(path)
    return []


def _answers(path: Path, items: list[Item]) -> pd.DataFrame:
    frame, header = read_predictions(path), read_header(path) or {}
    if items:
        frame = _in_order(path, frame, items, header)
    elif (unknown := frame["correct"].isna()).any():
        absent = f"no items/{path.stem}.jsonl beside says what is right"
        raise GazalError(f"{path}: row {int(unknown.argmax()) + 1}: correct: null, and {absent}")
    else:
        stored = _stored(frame)
        frame = frame.assign(group=None, key=None, format=np.nan, open=False, letter=stored)
        frame["correct"] = frame["correct"].astype(bool) & stored.notna()
        frame = frame.sort_values(["item_id", "sample"], ignore_index=True)
    frame["likeliest"] = header.get("sampling", {}).get("method") == "loglik"
    frame.attrs |= {"path": path, "header": header}
    return frame


def _stored(frame: pd.DataFrame) -> pd.Series:
    """Return the letters that the file holds, as capitals, None if a row has none."""
    return frame["letter"].map(lambda letter: letter.strip().upper() or None if isinstance(letter, str) else None)


def _in_order(path: Path, frame: pd.DataFrame, items: list[Item], header: dict[str, Any]) -> pd.DataFrame:
    place = {item.id: at for at, item in enumerate(items)}
    strange = frame.index[~frame["item_id"].isin(place)]
    if len(strange):
        name = f"{frame['item_id'][strange[0]]!r}"
        raise GazalError(f"{path}: row {strange[0] + 1}: item_id: {name} is not among the items of {path.stem}")
    answered = set(frame["item_id"])
    if absent := [item.id for item in items if item.id not in answered]:
        raise GazalError(f"{path}: {len(absent)} of {len(items)} items have no prediction (the first: {absent[0]!r})")
    if header and header.get("benchmark") != fingerprint(items):
        raise GazalError(f"{path}: was made for other items than those in items/{path.stem}.jsonl")
    frame = frame.assign(place=frame["item_id"].map(place)).sort_values(["place", "sample"], ignore_index=True)
    asked = [items[at] for at in frame["place"]]
    frame = frame.assign(
        group=[item.reasoning_type or item.subject for item in asked], key=[item.answer_idx for item in asked]
    )
    likeliest = header.get("sampling", {}).get("method") == "loglik"
    read = _likeliest(path, frame, asked, header) if likeliest else _written(path, frame, asked, header)
    other = frame["letter"].notna() & (_stored(frame).fillna("") != read["letter"].fillna(""))
    other |= frame["correct"].notna() & (frame["correct"] != read["correct"])
    if other.any():
        many = f"{other.sum()} of {len(frame)} stored letters or marks"
        note = "are not what the completions say; the completions count"
        print(f"{path.parent.name} on {path.stem}: {many} {note}", file=sys.stderr)
    return read


def _written(path: Path, frame: pd.DataFrame, asked: list[Item], header: dict[str, Any]) -> pd.DataFrame:
    think_open = bool(header.get("prompt", {}).get("opens_think", False))
    written = list(zip(frame["completion"], [item.options for item in asked], strict=True))
    open_here = [think_open or cut for cut in _cut_in_unopened(frame)]
    found = [extract(*pair, opened) for pair, opened in zip(written, open_here, strict=True)]
    well_formed = [has_format(*pair, think_open, one) for pair, one in zip(written, found, strict=True)]
    if several := sum(open_here) if not think_open else 0:
        what = f"{several} completions are cut in thinking that its prompt opens, as the others' marks show"
        print(f"{path.parent.name} on {path.stem}: {what}; they count as unread", file=sys.stderr)
    return frame.assign(
        letter=[one.letter for one in found],
        reason=[one.reason.value for one in found],
        correct=[one.letter == key for one, key in zip(found, frame["key"], strict=True)],
        format=list(map(float, well_formed)),
        open=open_here,
    )


def _cut_in_unopened(frame: pd.DataFrame) -> list[bool]:
    """Return which completions are cut inside thinking that no mark shows, since the template opened it.

    Those without any mark that reached their limit, if at least half of the model's finished ones on this benchmark
    close a block that they did not open.
    """
    cut = frame["finish_reason"].eq("length").tolist()
    if not any(cut):
        return cut
    parted = [part(text) for text in frame["completion"]]
    finished = [one for one, short in zip(parted, cut, strict=True) if not short]
    unopened = sum(one.thought is not None and not one.opened for one in finished)
    if not unopened or 2 * unopened < len(finished):
        return [False] * len(cut)
    return [short and one.thought is None for one, short in zip(parted, cut, strict=True)]


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
