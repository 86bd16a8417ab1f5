"""Read files of questions: JSON lines, a JSON array or Parquet."""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from gazal.common.errors import GazalError
from gazal.common.files import read_jsonl
from gazal.items.schema import Item, item_problem, parse_item

ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")
BY_ROW = re.compile(r"row-\d+")  # what an item without an id is named
Rows = Iterable[tuple[int, dict[str, Any]]]  # numbered from 1
Reshape = Callable[[Rows], Rows]


def read_items(
    path: str | Path, training: bool = False, ids: bool = True, reshape: Reshape | None = None
) -> list[Item]:
    """Read items from JSON lines (``.jsonl``), a JSON array (``.json``), either gzipped (``.gz``), or Parquet.

    With ``training`` a row that has ``response`` in place of ``options`` is a TrainingExample; without ``ids`` the rows of a
    file in which none has an id are named by their numbers (``row-1``); ``reshape`` makes rows of another schema ours. Raises
    GazalError, one line naming file, row and field, for anything that is not an item, for what no items file can hold (NaN, half a surrogate pair, bytes), and for two items of one id.
    """
    path = Path(path)
    if path.is_dir():
        raise GazalError(f"{path}: is a folder, expected a file of items")
    if not path.name.endswith(ENDINGS):
        raise GazalError(f"{path}: expected a file of items that ends in {', '.join(ENDINGS)}")
    kind = path.name.removesuffix(".gz")
    rows = (
        _parquet_rows(path)
        if kind.endswith(".parquet")
        else _array_rows(path)
        if kind.endswith(".json")
        else read_jsonl(path)
    )
    items: list[Item] = []
    seen: dict[str, int] = {}
    named = ids
    for row, value in reshape(rows) if reshape else rows:
        if bad := next(((field, what) for field in value if (what := _unwritable({field: value[field]}))), None):
            raise GazalError(f"{path}: row {row}: {bad[0].encode(errors='replace').decode()}: {bad[1]}")
        if not ids:
            before, named = named, value.get("id") is not None
            if items and named != before:
                raise GazalError(
                    f"{path}: row {row}: id: {'there' if named else 'missing'}, unlike in the rows before; give one to every row, or to none"
                )
            value = value if named else value | {"id": f"row-{row}"}
        try:
            item = parse_item(value) if training else Item.model_validate(value)
        except ValidationError as error:
            raise GazalError(f"{path}: row {row}: {item_problem(error)}") from error
        if item.id in seen:
            raise GazalError(f"{path}: row {row}: id: {item.id!r} is also row {seen[item.id]}")
        seen[item.id] = row
        items.append(item)
    if not items:
        raise GazalError(f"{path}: no items")
    return items


def _unwritable(value: Any) -> str:
    """Why a field's value cannot be written as JSON in UTF-8; empty where it can."""
    if isinstance(value, str):
        try:
            if not value.isascii():
                value.encode()
        except UnicodeEncodeError as error:
            return f"{value[error.start]!r} is half a surrogate pair, no text"
        return ""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is no JSON value; leave the field out"
    if isinstance(value, dict | list):
        return next(filter(None, map(_unwritable, [*value, *value.values()] if isinstance(value, dict) else value)), "")
    return (
        ""
        if isinstance(value, int | float | None)
        else f"{type(value).__name__} is no JSON value; make it text, or leave the field out"
    )


def _array_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        values = json.loads(
            (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode("utf-8-sig")
        )
    except FileNotFoundError as error:
        raise GazalError(f"{path}: no such file") from error
    except json.JSONDecodeError as error:
        raise GazalError(
            f"{path}: not JSON ({error.msg} at line {error.lineno}, column {error.colno}); JSON lines end in .jsonl"
        ) from error
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise GazalError(f"{path}: cannot be read ({error})") from error
    if not isinstance(values, list):
        raise GazalError(
            f"{path}: expected a JSON array of items, found {type(values).__name__}; JSON lines end in .jsonl"
        )
    for row, value in enumerate(values, 1):
        if not isinstance(value, dict):
            raise GazalError(f"{path}: row {row}: expected an object, found {type(value).__name__}")
        yield row, value


def _parquet_rows(path: Path) -> Iterable[tuple[int, dict[str, Any]]]:
    try:
        rows = pq.read_table(path).to_pylist(maps_as_pydicts="strict")
    except FileNotFoundError as error:
        raise GazalError(f"{path}: no such file") from error
    except (OSError, pa.ArrowException, UnicodeDecodeError, KeyError) as error:  # a map with a key twice
        raise GazalError(f"{path}: not a Parquet file of items ({str(error).splitlines()[0]})") from error
    for row, value in enumerate(rows, 1):
        if isinstance(value.get("options"), str):
            try:
                value["options"] = json.loads(value["options"])
            except json.JSONDecodeError as error:
                raise GazalError(f"{path}: row {row}: options: not JSON ({error.msg})") from error
        elif isinstance(
            value.get("options"), dict
        ):  # a column of letters: Arrow has null where an item has fewer options
            value["options"] = {letter: text for letter, text in value["options"].items() if text is not None}
        yield row, {key: field for key, field in value.items() if field is not None}
