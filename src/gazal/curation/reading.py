"""Training and test files, a batch of rows at a time: JSON lines, gzipped ones, Parquet."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gazal.common.errors import GazalError

FIELDS = (
    "id",
    "question",
    "options",
    "context",
    "reasoning",
    "response",
    "explanation",
    "pmid",
    "pubid",
    "question_key",
    "bucket",
)
BATCH = 400


class Batch(NamedTuple):
    """Rows as read, not yet parsed: JSON lines (blank ones kept, so that lines count) or a Parquet batch."""

    path: str
    line: int  # number of its first line or row, from 1
    item: int  # number of its first item, from 0
    lines: list[bytes] | pa.RecordBatch


def batches(path: Path, size: int = BATCH) -> Iterator[Batch]:
    """The rows of a ``.jsonl``, ``.jsonl.gz`` or ``.parquet`` file, ``size`` at a time. Raises GazalError when it cannot be read."""
    try:
        if path.suffix == ".parquet":
            item = 0
            with pq.ParquetFile(path) as file:
                columns = [name for name in file.schema_arrow.names if name in FIELDS]
                for part in file.iter_batches(size, columns=columns):
                    yield Batch(str(path), item + 1, item, part)
                    item += part.num_rows
            return
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as handle:
            lines: list[bytes] = []
            first, item, count = 1, 0, 0
            for number_, line in enumerate(handle, 1):
                lines.append(line)
                count += not line.isspace()
                if len(lines) == size:
                    yield Batch(str(path), first, item, lines)
                    lines, first, item, count = [], number_ + 1, item + count, 0
            if lines:
                yield Batch(str(path), first, item, lines)
    except FileNotFoundError as error:
        raise GazalError(f"{path}: no such file") from error
    except (OSError, EOFError, zlib.error, pa.ArrowInvalid) as error:
        raise GazalError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error


def parse(batch: Batch) -> list[dict[str, Any]]:
    """The rows of a batch. Raises GazalError naming file and row."""
    if isinstance(batch.lines, pa.RecordBatch):
        rows = batch.lines.to_pylist()
    else:
        rows = []
        for number_, line in enumerate(batch.lines, batch.line):
            if line.isspace():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise GazalError(
                    f"{batch.path}: row {number_}: not JSON ({getattr(error, 'msg', 'not UTF-8, or too deep')})"
                ) from error
            if not isinstance(value, dict):
                raise GazalError(f"{batch.path}: row {number_}: expected an object, found {type(value).__name__}")
            rows.append(value)
    for row in rows:
        if isinstance(row.get("options"), str) and row["options"].lstrip()[:1] in (
            "{",
            "[",
        ):  # Parquet holds them as JSON
            try:
                row["options"] = json.loads(row["options"])
            except ValueError:
                pass  # then it is text, and is parsed as such
    return rows


def count_items(batch: Batch) -> int:
    """Items of a batch: its lines that are not blank."""
    return (
        batch.lines.num_rows
        if isinstance(batch.lines, pa.RecordBatch)
        else sum(not line.isspace() for line in batch.lines)
    )


def pick(path: Path, wanted: np.ndarray) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Read the items whose numbers are in ``wanted`` (ascending) again: ``(item, row)``; other lines are not parsed."""
    at = 0
    for batch in batches(path):
        n = count_items(batch)
        stop = int(np.searchsorted(wanted, batch.item + n))
        here = wanted[at:stop] - batch.item
        at = stop
        if len(here):
            if isinstance(batch.lines, list):
                full = [line for line in batch.lines if not line.isspace()]
                batch = batch._replace(lines=[full[i] for i in here])
                here, rows = np.arange(len(here)), parse(batch)
            else:
                rows = parse(batch)
            for number_, i in zip(wanted[stop - len(here) : stop], here, strict=True):
                yield int(number_), rows[i]
        if at == len(wanted):
            return
