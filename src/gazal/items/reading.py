"""Read files of questions: JSON lines, a JSON array or Parquet."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from gazal.common.errors import GazalError
from gazal.common.files import not_json, open_text, read_jsonl
from gazal.common.json_text import RepeatedKey, load_json, unique_keys
from gazal.items.schema import Item, item_problem, parse_item

ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")
BY_ROW = re.compile(r"row-\d+")  # what an item without an id is named
BETWEEN = re.compile(r"[ \t\r\n,\[\]]*")  # what may stand between the objects of a JSON array
CHUNK = 1 << 20  # characters of a JSON array that are read at a time
BATCH = 1000  # rows of Parquet
Rows = Iterable[tuple[int, dict[str, Any]]]  # numbered from 1
Reshape = Callable[[Rows], Rows]


def stem(path: str | Path) -> str:
    """Return the file's name without folder and ending."""
    name = Path(path).name
    return next((name.removesuffix(ending) for ending in ENDINGS if name.endswith(ending)), name)


def check_file(path: Path, option: str = "") -> None:
    """Raise GazalError, naming ``option`` and file, for a folder, a missing file or another ending than ``ENDINGS``."""
    if path.is_dir():
        raise GazalError(f"{option}{path}: is a folder, expected a file of items")
    if not path.name.endswith(ENDINGS):
        raise GazalError(f"{option}{path}: expected a file of items that ends in {', '.join(ENDINGS)}")
    if not path.exists():
        raise GazalError(f"{option}{path}: no such file")


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ``(row, object)``, rows from 1, of a file that ends in one of ``ENDINGS``; never hold the whole file.

    A ``.json`` holds one JSON array. Raises GazalError naming file and row for a missing, broken, cut or empty file.
    """
    check_file(path)
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        rows = _parquet_rows(path)
    else:
        rows = _array_rows(path) if name.endswith(".json") else read_jsonl(path)
    row = 0
    for row, value in rows:
        yield row, value
    if not row:
        raise GazalError(f"{path}: no items")


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield rows without the nulls that Arrow has for a field, or a letter of the options, that a row lacks."""
    try:
        with pq.ParquetFile(path) as file:
            rows = (row for batch in file.iter_batches(BATCH) for row in batch.to_pylist(maps_as_pydicts="strict"))
            for number, row in enumerate(rows, 1):
                if isinstance(row.get("options"), dict):
                    row["options"] = _without_nulls(row["options"])
                yield number, _without_nulls(row)
    except (OSError, pa.ArrowException, UnicodeDecodeError, KeyError) as error:  # KeyError: a map with a key twice
        raise GazalError(f"{path}: not a Parquet file of items ({str(error).splitlines()[0]})") from error


def _without_nulls(row: dict[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in row.items() if value is not None}


def _array_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a JSON array, decoded as the text arrives."""
    row, text, at, size = 0, "", 0, CHUNK
    decode = json.JSONDecoder(object_pairs_hook=unique_keys).raw_decode

    def check(signs: str, expected: str) -> None:
        if "".join(signs.split()) != expected:
            raise GazalError(f"{path}: row {row + 1}: expected one JSON array of objects; JSON lines end in .jsonl")

    with open_text(path) as handle:
        more = "."
        while more:
            more = handle.read(size)
            text, at = text[at:] + more, 0
            while (start := BETWEEN.match(text, at).end()) < len(text):  # type: ignore[union-attr]
                check(text[at:start], "," if row else "[")
                try:
                    value, at = decode(text, start)
                except RepeatedKey as error:
                    raise GazalError(f"{path}: row {row + 1}: {error}") from error
                except (ValueError, RecursionError) as error:
                    if more and isinstance(error, json.JSONDecodeError):
                        break  # perhaps cut by the end of the text: read on
                    raise GazalError(f"{path}: row {row + 1}: not JSON ({getattr(error, 'msg', error)})") from error
                row += 1
                if not isinstance(value, dict):
                    raise GazalError(f"{path}: row {row}: expected an object, found {type(value).__name__}")
                yield row, value
            size = max(CHUNK, len(text) - at)  # doubles for an object larger than a chunk: no work twice over
    check(text[at:], "]" if row else "[]")


def read_items(
    path: str | Path, training: bool = False, ids: bool = True, reshape: Reshape | None = None
) -> list[Item]:
    """Read items from a file that ends in one of ``ENDINGS``.

    With ``training`` a row that has ``response`` in place of ``options`` is a TrainingExample. Without ``ids`` the rows
    of a file in which none has an id are named by their numbers (``row-1``). ``reshape`` makes rows of another schema
    ours. Raise GazalError, naming file, row and field, for anything that is not an item and for two items of one id. So
    too for what no items file can hold (NaN, half a surrogate pair, bytes).
    """
    path = Path(path)
    rows: Rows = _decoded(path, read_rows(path)) if path.suffix == ".parquet" else read_rows(path)
    items: list[Item] = []
    seen: dict[str, int] = {}
    named = ids
    for row, value in reshape(rows) if reshape else rows:
        where = f"{path}: row {row}"
        for field in value:
            if what := _unwritable({field: value[field]}):
                raise GazalError(f"{where}: {field.encode(errors='replace').decode()}: {what}")
        if not ids:
            before, named = named, value.get("id") is not None
            if items and named != before:
                raise GazalError(
                    f"{where}: id: {'there' if named else 'missing'}, unlike in the rows before; "
                    "give one to every row, or to none"
                )
            value = value if named else value | {"id": f"row-{row}"}
        try:
            item = parse_item(value) if training else Item.model_validate(value)
        except ValidationError as error:
            raise GazalError(f"{where}: {item_problem(error)}") from error
        if item.id in seen:
            raise GazalError(f"{where}: id: {item.id!r} is also row {seen[item.id]}")
        seen[item.id] = row
        items.append(item)
    return items


def _decoded(path: Path, rows: Rows) -> Rows:
    """Yield rows with ``options`` read from JSON text, as :func:`~gazal.items.writing.write_items_parquet` has them."""
    for row, value in rows:
        if isinstance(value.get("options"), str):
            try:
                value["options"] = load_json(value["options"])
            except (ValueError, RecursionError) as error:
                raise GazalError(f"{path}: row {row}: options: {not_json(error)}") from error
        yield row, value


def _unwritable(value: Any) -> str:
    """Return why a field's value cannot be written as JSON in UTF-8; an empty text if it can."""
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
    if isinstance(value, int | float | None):
        return ""
    return f"{type(value).__name__} is no JSON value; make it text, or leave the field out"
