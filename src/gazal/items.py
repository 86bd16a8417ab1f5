"""One item: a multiple-choice question with its key (the schema that every room shares)."""

from __future__ import annotations

import gzip
import itertools
import json
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gazal.common.errors import GazalError
from gazal.common.files import atomic_write, read_jsonl

LETTERS = "ABCDEFGHIJ"
ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")
BY_ROW = re.compile(r"row-\d+")  # what an item without an id is named
Rows = Iterable[tuple[int, dict[str, Any]]]  # numbered from 1
Reshape = Callable[[Rows], Rows]
REASONING_TYPES = ("diagnosis", "uncertainty", "treatment", "prognosis")
ReasoningType = Literal["diagnosis", "uncertainty", "treatment", "prognosis"]
EXPECTED = {
    "options": 'letters and texts, as {"A": "…", "B": "…"}',
    "answer_idx": 'the letter of an option, as "B"',
    "context": "a list of texts",
    "reasoning_type": f"one of {', '.join(REASONING_TYPES)}",
}


class Item(BaseModel):
    """A question with 2 to 10 options and one key; unknown keys are kept as they are."""

    model_config = ConfigDict(extra="allow")

    id: str
    question: str
    options: dict[str, str]
    answer_idx: str
    context: list[str] | None = None
    answer: str | None = None
    reasoning_type: ReasoningType | None = None
    subject: str | None = None
    source: str | None = None
    reasoning: str | None = None

    @model_validator(mode="after")
    def _check(self) -> "Item":
        for field in ("id", "question"):
            if not getattr(self, field).strip():
                raise ValueError(f"{field}: empty")
        if not 2 <= len(self.options) <= len(LETTERS):
            raise ValueError(f"options: expected 2 to 10, found {len(self.options)}")
        if list(self.options) != list(LETTERS[: len(self.options)]):
            raise ValueError(
                f"options: expected the letters A to {LETTERS[len(self.options) - 1]} in order, found {', '.join(self.options)}"
            )
        if empty := next((letter for letter, text in self.options.items() if not text.strip()), None):
            raise ValueError(f"options.{empty}: empty")
        if self.answer_idx not in self.options:
            raise ValueError(f"answer_idx: {self.answer_idx!r} is not among the options {', '.join(self.options)}")
        return self


class TrainingExample(Item):
    """A free-text SFT example: ``question``, ``reasoning`` (inside ``<think>``) and ``response`` (after it).

    It has no options and no key; neither is written to a file.
    """

    reasoning: str
    response: str
    options: dict[str, str] = Field(default={}, exclude=True, max_length=0)
    answer_idx: str = Field(default="", exclude=True, max_length=0)

    @model_validator(mode="after")
    def _check(self) -> "TrainingExample":
        for field in ("question", "reasoning", "response"):
            if not getattr(self, field).strip():
                raise ValueError(f"{field}: empty")
        return self


def item_problem(error: ValueError) -> str:
    """The first thing wrong with an item: ``field: what``; of another ValueError what it says."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"{field}: missing (found: {', '.join(map(str, first['input'])) or 'nothing'})"
    if first["type"] == "value_error":
        message = first["msg"].removeprefix("Value error, ")
        return f"{field}: {message}" if field else message
    found = first["input"]
    return f"{field}: expected {EXPECTED.get(field, 'text')}, found {'null' if found is None else f'{type(found).__name__} {found!r:.40}'}"


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
            return "" if value.isascii() or value.encode() else ""
        except UnicodeEncodeError as error:
            return f"{value[error.start]!r} is half a surrogate pair, no text"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is no JSON value; leave the field out"
    if isinstance(value, dict | list):
        return next(filter(None, map(_unwritable, [*value, *value.values()] if isinstance(value, dict) else value)), "")
    return (
        ""
        if isinstance(value, int | float | None)
        else f"{type(value).__name__} is no JSON value; make it text, or leave the field out"
    )


def parse_item(value: dict[str, Any]) -> Item:
    """A row in the item schema; with ``response`` in place of ``options`` a TrainingExample. Raises ValidationError."""
    return (TrainingExample if "response" in value and "options" not in value else Item).model_validate(value)


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


def write_items_parquet(path: str | Path, items: Iterable[Item]) -> None:
    """Write items as Parquet; ``options`` is a JSON string, so that 2 to 10 options fit one column.

    ``items`` is gone through twice, in batches: first for the columns of all of them, then to write. What cannot be
    gone through twice is held in memory. Raises GazalError for a field whose values are of kinds that no column holds.
    """
    items = list(items) if iter(items) is items else items
    try:
        schemas = list(dict.fromkeys(pa.Table.from_pylist(rows).schema for rows in _batches(items)))
        schema = pa.unify_schemas(schemas, promote_options="permissive") if schemas else pa.schema([])
        with atomic_write(path, "wb") as handle, pq.ParquetWriter(handle, schema) as writer:
            for rows in _batches(items):
                writer.write_table(pa.Table.from_pylist(rows, schema))
    except pa.ArrowException as error:
        raise GazalError(f"{path}: the items do not fit one table ({str(error).splitlines()[0]})") from error


def _batches(items: Iterable[Item], size: int = 4096) -> Iterator[list[dict[str, Any]]]:
    """Rows as Parquet has them, a batch at a time; each has the columns of all items of its batch."""
    stream = iter(items)
    while batch := [item.model_dump(exclude_none=True) for item in itertools.islice(stream, size)]:
        names = dict.fromkeys(name for row in batch for name in row)  # of all rows: the first may lack some
        for row in batch:
            if "options" in row:
                row["options"] = json.dumps(row["options"], ensure_ascii=False)
        yield [{name: row.get(name) for name in names} for row in batch]


def write_items_jsonl(path: str | Path, items: Iterable[Item]) -> int:
    """Write items as JSON lines; returns their number."""
    count = 0
    with atomic_write(path) as handle:
        for item in items:
            handle.write(json.dumps(item.model_dump(exclude_none=True), ensure_ascii=False) + "\n")
            count += 1
    return count
