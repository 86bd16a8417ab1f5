"""Folders of predictions: the rows of each model's file, and the items beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gazal.items.schema import Item
from gazal.predictions.file import SCHEMA
from gazal.predictions.folder import save_items

from .items import make_item

KINDS = ("diagnosis", "treatment")
ITEMS = [make_item(n, reasoning_type=KINDS[n % 2]) for n in range(12)]


def row(item: Item, completion: str, sample: int = 0, **fields: Any) -> dict[str, Any]:
    """One row of a file, without a stored letter."""
    return {
        "item_id": item.id,
        "sample": sample,
        "completion": completion,
        "n_tokens": 9,
        "finish_reason": "stop",
        "letter": None,
        "reason": "none",
        "correct": False,
        **fields,
    }


def rows(outcomes: str, items: Sequence[Item] = ITEMS, samples: int = 1) -> list[dict[str, Any]]:
    """One character per completion: r right, w wrong, u unreadable, e empty, c right and then wrong.

    The stored letters lie: scoring reads completions.
    """
    made = []
    for at, outcome in enumerate(outcomes):
        item = items[at // samples]
        wrong = list(item.options)[("ABCD".index(item.answer_idx) + 1) % len(item.options)]
        letter = {"r": item.answer_idx, "w": wrong}.get(outcome)
        text = {"u": "It depends.", "e": "", "c": f"Answer: {item.answer_idx}\nAnswer: {wrong}"}.get(outcome)
        if letter:
            answer = f"**Answer:** {letter}. {item.options[letter]}"
            text = f"<think>\nStep 1: weigh.\n</think>\n\n## Clinical Assessment\n{answer}"
        ended = "length" if outcome == "u" else "stop"
        stored = {"n_tokens": 10, "finish_reason": ended, "letter": "A", "reason": "ok"}
        made.append(row(item, text, at % samples, **stored))
    return made


def write_rows(path: Path, made: list[dict[str, Any]], header: dict[str, Any] | None = None) -> None:
    """A file of predictions, with a header as ours have if there is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = SCHEMA.with_metadata({"gazal": json.dumps(header)}) if header else SCHEMA
    pq.write_table(pa.Table.from_pylist(made, schema), path)


def folder(
    root: Path,
    items: Sequence[Item] = ITEMS,
    benchmark: str = "test",
    beside: bool = True,
    header: dict[str, Any] | None = None,
    **models: list[dict[str, Any]],
) -> Path:
    """A folder of each model's rows, with the items ``beside`` them."""
    for model, made in models.items():
        write_rows(root / model / f"{benchmark}.parquet", made, header)
    if beside:
        save_items(root, benchmark, items)
    return root


def write(
    root: Path,
    model: str,
    benchmark: str,
    items: Sequence[Item],
    completions: Sequence[Sequence[str]],
    header: dict[str, Any] | None = None,
) -> None:
    """Add a model's completions, one list for each item, to a folder."""
    made = [row(item, text, n) for item, texts in zip(items, completions, strict=True) for n, text in enumerate(texts)]
    folder(root, items, benchmark, header=header, **{model: made})
