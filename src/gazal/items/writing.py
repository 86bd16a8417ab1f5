"""Write items as Parquet or JSON lines."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gazal.common.errors import GazalError
from gazal.common.files import atomic_write
from gazal.items.schema import Item


def write_items_parquet(path: str | Path, items: Iterable[Item]) -> None:
    """Write items as Parquet; ``options`` is a JSON string, so that 2 to 10 options fit one column.

    ``items`` is read twice, in batches: first for the columns of all of them, then to write. An iterator, which cannot
    be read twice, is held in memory. Raise GazalError for a field whose values are of kinds that no column holds.
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
    """Yield rows for Parquet, a batch at a time; each has the columns of all items of its batch."""
    stream = iter(items)
    while batch := [item.model_dump(exclude_none=True) for item in itertools.islice(stream, size)]:
        names = dict.fromkeys(name for row in batch for name in row)  # of all rows: the first may lack some
        for row in batch:
            if "options" in row:
                row["options"] = json.dumps(row["options"], ensure_ascii=False)
        yield [{name: row.get(name) for name in names} for row in batch]


def write_items_jsonl(path: str | Path, items: Iterable[Item]) -> int:
    """Write items as JSON lines; return their number."""
    count = 0
    with atomic_write(path) as handle:
        for item in items:
            handle.write(json.dumps(item.model_dump(exclude_none=True), ensure_ascii=False) + "\n")
            count += 1
    return count
