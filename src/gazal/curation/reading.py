"""Training and test files, a batch of rows at a time: JSON lines, gzipped ones, Parquet."""

from __future__ import annotations

import gzip
import itertools
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gazal.common.errors import GazalError
from gazal.common.files import parse_object
from gazal.common.json_text import load_json

FIELDS = "id question options context reasoning response explanation pmid pubid question_key bucket".split()
BATCH = 400


class Batch(NamedTuple):
    """Rows as read, not yet parsed: JSON lines (blank ones kept, so that lines count) or a Parquet batch."""

    path: str
    line: int  # number of its first line or row, from 1
    item: int  # number of its first item, from 0
    lines: list[bytes] | pa.RecordBatch


def batches(path: Path, size: int = BATCH) -> Iterator[Batch]:
    """Yield the rows of a ``.jsonl``, ``.jsonl.gz`` or ``.parquet`` file, ``size`` at a time.

    Raises GazalError if it cannot be read.
    """
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
            first = item = 0
            while lines := list(itertools.islice(handle, size)):
                yield (batch := Batch(str(path), first + 1, item, lines))
                first, item = first + len(lines), item + count_items(batch)
    except FileNotFoundError as error:
        raise GazalError(f"{path}: no such file") from error
    except (OSError, EOFError, zlib.error, pa.ArrowInvalid) as error:
        raise GazalError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error


def parse(batch: Batch) -> list[dict[str, Any]]:
    """Return the rows of a batch. Raises GazalError naming file and row."""
    if isinstance(batch.lines, pa.RecordBatch):
        rows = batch.lines.to_pylist()
    else:
        numbered = enumerate(batch.lines, batch.line)
        rows = [parse_object(line, f"{batch.path}: row {row}") for row, line in numbered if not line.isspace()]
    for row in rows:
        if isinstance(row.get("options"), str) and row["options"].lstrip()[:1] in ("{", "["):  # as Parquet holds them
            with suppress(ValueError):  # then it is text, and is parsed as such
                row["options"] = load_json(row["options"])
    return rows


def count_items(batch: Batch) -> int:
    """Return the number of a batch's items: its lines that are not blank."""
    if isinstance(batch.lines, pa.RecordBatch):
        return batch.lines.num_rows
    return sum(not line.isspace() for line in batch.lines)


def pick(path: Path, wanted: np.ndarray) -> Iterator[Batch]:
    """Yield batches of only the items whose numbers are in ``wanted`` (ascending).

    Their ``line`` and ``item`` say nothing.
    """
    at = 0
    for batch in batches(path):
        stop = int(np.searchsorted(wanted, batch.item + count_items(batch)))
        here, at = wanted[at:stop] - batch.item, stop
        if isinstance(batch.lines, pa.RecordBatch):
            yield batch._replace(lines=batch.lines.take(pa.array(here)))
        else:
            full = [line for line in batch.lines if not line.isspace()]
            yield batch._replace(lines=[full[i] for i in here])
        if at == len(wanted):
            return
