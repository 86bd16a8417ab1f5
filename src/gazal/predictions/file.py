"""A predictions file: one row per item and sample, with a header that describes model, sampling and prompt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gazal.common.errors import GazalError
from gazal.engines.reply import REFUSED
from gazal.items.schema import Item

SCHEMA = pa.schema(
    [
        ("item_id", pa.string()),
        ("sample", pa.int64()),
        ("completion", pa.string()),
        ("n_tokens", pa.int64()),
        ("finish_reason", pa.string()),
        ("letter", pa.string()),
        ("reason", pa.string()),
        ("correct", pa.bool_()),
    ]
)
READ = ("letter", "reason", "correct")  # columns that can be read anew from completions and items


def fingerprint(items: Iterable[Item]) -> str:
    """Return the SHA-256 of the items' questions and keys, in order."""
    digest = hashlib.sha256()
    for item in items:
        fields = [item.id, item.context, item.question, item.options, item.answer_idx]
        digest.update(json.dumps(fields, ensure_ascii=False).encode())
    return digest.hexdigest()


def read_header(path: str | Path) -> dict[str, Any] | None:
    """Return a predictions file's model, benchmark, sampling and prompt; None for a file of other makers.

    Raises GazalError for a header that is not of our form.
    """
    try:
        metadata = pq.read_schema(path).metadata or {}
        header = json.loads(metadata.get(b"gazal", b"null"))
        parts = [header.get("sampling", {}), header.get("prompt", {})] if isinstance(header, dict) else [header or {}]
        if not all(isinstance(part, dict) for part in parts):
            raise ValueError("its header is of another form")
        return header or None
    except (OSError, pa.ArrowException, ValueError) as error:
        raise GazalError(f"{path}: not a predictions file ({str(error).splitlines()[0]})") from error


def read_predictions(path: str | Path) -> pd.DataFrame:
    """Return the rows of a predictions file, checked: all columns, their types, no item and sample twice, no gaps.

    Columns of other types are converted if nothing is lost (ids that are numbers, smaller integers). Columns that the
    format does not have are left out. Those in ``READ`` may hold nulls or be absent. Raises GazalError for all else.
    """
    try:
        names = pq.read_schema(path).names
        if missing := [name for name in SCHEMA.names if name not in (*names, *READ)]:
            raise GazalError(f"{path}: no column {', '.join(missing)}")
        table = pq.read_table(path, columns=[name for name in SCHEMA.names if name in names])
        columns = [
            _as_in_schema(path, one, table.column(one.name)) if one.name in names else pa.nulls(len(table), one.type)
            for one in SCHEMA
        ]
        table = pa.table(columns, SCHEMA)
        table.validate(full=True)  # text that is no UTF-8
        frame = table.to_pandas()
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise GazalError(f"{path}: not a predictions file ({str(error).splitlines()[0]})") from error
    if not len(frame):
        raise GazalError(f"{path}: no rows")
    for name in SCHEMA.names:
        if name not in READ and frame[name].isna().any():
            raise GazalError(f"{path}: row {int(frame[name].isna().argmax()) + 1}: {name}: null")
    if (less := frame["n_tokens"] < 0).any():
        row = int(less.argmax())
        raise GazalError(f"{path}: row {row + 1}: n_tokens: {frame['n_tokens'][row]} is no count")
    if (twice := frame.duplicated(["item_id", "sample"])).any():
        row = int(twice.argmax())
        which = f"item {frame['item_id'][row]!r}, sample {frame['sample'][row]}"
        raise GazalError(f"{path}: row {row + 1}: {which} is there twice")
    counts = frame.groupby("item_id").size()
    if counts.nunique() > 1:
        raise GazalError(f"{path}: item {counts.idxmin()!r} has {counts.min()} samples, others {counts.max()}")
    return frame


def _as_in_schema(path: str | Path, field: pa.Field, column: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        if pa.types.is_boolean(field.type) and pa.types.is_floating(column.type):
            column = column.cast(pa.int64())  # 1.0 is true, 0.5 is neither
        return column.cast(field.type)
    except pa.ArrowException as error:
        found = f"{column.type} ({str(error).splitlines()[0]})"
        raise GazalError(f"{path}: {field.name}: expected {field.type}, found {found}") from error


def not_asked(finish_reason: Any, completion: Any, n_tokens: Any) -> Any:
    """Return whether a prompt left no room in the model's context. Arguments are values, or columns of them.

    Such a completion is empty, has no tokens and was ended by length.
    """
    return (finish_reason == "length") & (completion == "") & (n_tokens == 0)


def refused(finish_reason: Any) -> Any:
    """Return whether a server refused the prompt. The argument is a value, or a column of them."""
    return finish_reason == REFUSED
