"""Rows of a training or test file, one at a time, in a form that the curation can rely on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gazal.common.errors import GazalError
from gazal.common.files import read_jsonl
from gazal.items.options import parse_options
from gazal.items.schema import LETTERS

ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".parquet")
BATCH = 1000
CHUNK = 1 << 20


def stem(path: Path) -> str:
    """The file's name without its ending."""
    return next((path.name.removesuffix(end) for end in (".jsonl.gz", *ENDINGS) if path.name.endswith(end)), path.name)


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ``(row, object)``, rows from 1, of JSON lines, a JSON array or Parquet; never the whole file at once.

    Raises GazalError naming file and row for a missing, broken or empty file, a folder, or another ending.
    """
    if path.is_dir():
        raise GazalError(f"{path}: is a folder, give a file")
    if not path.exists():
        raise GazalError(f"{path}: no such file")
    if not path.name.endswith(ENDINGS):
        raise GazalError(f"{path}: expected a file that ends in {', '.join(ENDINGS)}")
    rows = _parquet(path) if path.suffix == ".parquet" else _array(path) if path.suffix == ".json" else read_jsonl(path)
    number = 0
    for number, row in rows:
        yield number, row
    if not number:
        raise GazalError(f"{path}: no items")


def _parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with pq.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield number, {key: value for key, value in row.items() if value is not None}
    except (OSError, pa.ArrowException) as error:
        raise GazalError(f"{path}: not a Parquet file ({str(error).splitlines()[0]})") from error


def _array(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of one JSON array, or objects one after another, decoded as the text arrives."""
    decoder, number, buffer, at, wanted = json.JSONDecoder(), 0, "", 0, CHUNK
    try:
        with open(path, encoding="utf-8-sig") as handle:
            while True:
                more = handle.read(wanted)
                buffer, at = buffer[at:] + more, 0
                while True:
                    while at < len(buffer) and buffer[at] in " \t\r\n,[]":
                        at += 1
                    if at == len(buffer):
                        break
                    try:
                        value, at = decoder.raw_decode(buffer, at)
                    except json.JSONDecodeError as error:
                        if more:
                            break  # perhaps cut by the end of the buffer: read on
                        raise GazalError(f"{path}: row {number + 1}: not JSON ({error.msg})") from error
                    number += 1
                    if not isinstance(value, dict):
                        raise GazalError(f"{path}: row {number}: expected an object, found {type(value).__name__}")
                    yield number, value
                if not more:
                    return
                wanted = max(CHUNK, len(buffer) - at)  # doubles for an object larger than a chunk: no work twice over
    except (OSError, UnicodeDecodeError) as error:
        raise GazalError(f"{path}: cannot be read ({error})") from error


def clean_row(path: Path, number: int, row: dict[str, Any]) -> dict[str, Any]:
    """``row`` itself when it has the item schema's types, else a copy that has them; nothing else is changed.

    A missing id becomes ``<file stem>-<row>``, an id that is a number its text; options may be an object, a list, either
    as JSON text, or lettered lines; a context may be one text, or PubMedQA's object. Raises GazalError naming file, row
    and field for what cannot be understood: no question, or a text field that is no text.
    """

    def bad(field: str, what: str) -> GazalError:
        return GazalError(f"{path}: row {number}: {field}: {what}")

    def kind(value: Any) -> str:
        return type(value).__name__

    if not isinstance(row.get("question"), str):
        found = kind(row["question"]) if row.get("question") is not None else None
        raise bad(
            "question",
            f"expected text, found {found}"
            if found
            else f"is missing (found: {', '.join(map(str, row)) or 'nothing'})",
        )
    for field in ("reasoning", "response", "answer_idx"):
        if not isinstance(row.get(field), str | None):
            raise bad(field, f"expected text, found {kind(row[field])}")
    changes: dict[str, Any] = {}
    name = row.get("id")
    if name is None or name == "":
        changes["id"] = f"{stem(path)}-{number}"
    elif not isinstance(name, str):
        if not isinstance(name, int) or isinstance(name, bool):
            raise bad("id", f"expected text, found {kind(name)}")
        changes["id"] = str(name)
    context = row.get("context")
    if isinstance(context, dict):
        context = changes["context"] = context.get("contexts")
    if isinstance(context, str):
        changes["context"] = [context]
    elif context is not None and not (isinstance(context, list) and all(isinstance(part, str) for part in context)):
        raise bad("context", f"expected a list of texts, found {kind(context)}")
    options = row.get("options")
    if isinstance(options, str) and options.strip()[:1] in ("{", "["):
        try:
            options = json.loads(options)
        except json.JSONDecodeError as error:
            raise bad("options", f"not JSON ({error.msg})") from error
    elif isinstance(options, str):
        parsed = parse_options(options) if options.strip() else ("", {})
        options = parsed[1] if parsed else options
    if isinstance(options, list) and len(options) <= len(LETTERS):
        options = dict(zip(LETTERS, options, strict=False))
    if not isinstance(options, dict | None):
        raise bad(
            "options",
            f"expected letters and texts, found {f'a list of {len(options)}' if isinstance(options, list) else kind(options)}",
        )
    if any(not isinstance(text, str) for text in (options or {}).values()):
        options = {key: "" if text is None else str(text) for key, text in options.items()}
    if options is not row.get("options"):
        changes["options"] = options
    return {"id": "", **row, **changes} if changes else row
