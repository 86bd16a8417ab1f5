"""One pass over a training or test file: rows must be sound and ids unique, and quality filters judge the rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator, InstanceOf, ValidationError

from gazal.common.errors import GazalError
from gazal.common.files import atomic_write, not_json
from gazal.common.json_text import load_json
from gazal.curation.quality import Finding, QualityFilter
from gazal.items.options import parse_options
from gazal.items.reading import read_rows, stem
from gazal.items.schema import LETTERS, item_problem

NEWS = 50_000  # rows between two lines of progress


class Scan(NamedTuple):
    """A file that has been read: its items as JSON lines, their number, and what the filters found."""

    path: Path
    count: int
    findings: list[Finding]
    not_checked: list[str]


class _NotClean(Exception):
    """A row of a JSON-lines file must be changed, so the file is copied."""


def scan_file(path: Path, copy: Path, quality: Callable[[], QualityFilter] | None, say: Callable[[str], None]) -> Scan:
    """Read a file once, through a new filter if it is a training file; write ``copy`` only if rows must be changed.

    Raises GazalError naming file, row and field for what ``clean_row`` refuses, for two items of one id, and for a
    test item without a question.
    """
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        try:
            return _read(path, None, quality and quality(), say)
        except _NotClean:
            pass
    with atomic_write(copy) as handle:
        return _read(path, handle.write, quality and quality(), say)._replace(path=copy)


def _read(
    path: Path, write: Callable[[str], Any] | None, quality: QualityFilter | None, say: Callable[[str], None]
) -> Scan:
    seen: set[int] = set()
    count = 0
    for count, (number, row) in enumerate(read_rows(path), 1):
        clean = clean_row(path, number, row)
        if write:
            write(json.dumps(clean, ensure_ascii=False) + "\n")
        elif clean is not row:
            raise _NotClean
        if (name := hash(clean["id"])) in seen:  # 64 bits: a set of all the ids would take ten times the memory
            first = next(n for n, other in read_rows(path) if clean_row(path, n, other)["id"] == clean["id"])
            raise GazalError(f"{path}: row {number}: id: {clean['id']!r} is also row {first}")
        seen.add(name)
        if quality:
            quality.check(clean)
        elif not clean["question"].strip():
            raise GazalError(f"{path}: row {number}: question: empty")
        if count % NEWS == 0:
            say(f"{path.name}: {count:,} rows read")
    findings = quality.finish() if quality else []
    say(f"{path.name}: {count:,} items" + (f", {len(findings):,} set aside by quality filters" if quality else ""))
    return Scan(path, count, findings, quality.no_habit() if quality else [])


def _options(value: Any) -> Any:
    """Return options as an object of letters: also from a list, either as JSON text, and lettered lines."""
    if isinstance(value, str):
        if value.strip()[:1] in ("{", "["):
            try:
                value = load_json(value)
            except (ValueError, RecursionError) as error:
                raise ValueError(not_json(error)) from error
        else:
            parsed = parse_options(value) if value.strip() else ("", {})
            value = parsed[1] if parsed else value
    if isinstance(value, list) and len(value) <= len(LETTERS):
        value = dict(zip(LETTERS, value, strict=False))
    if isinstance(value, dict):
        return {letter: "" if text is None else str(text) for letter, text in value.items()}
    return value


def _context(value: Any) -> Any:
    """Return a context as a list of texts: also from one text, and from PubMedQA's object."""
    value = value.get("contexts") if isinstance(value, dict) else value
    return [value] if isinstance(value, str) else value


Text = InstanceOf[str]  # unlike str it takes half a surrogate pair too


class CleanRow(BaseModel):
    """The fields that the curation reads, in the item schema's types."""

    id: Annotated[Text | None, BeforeValidator(lambda name: str(name) if type(name) is int else name)] = None
    question: Text
    options: Annotated[dict[Text, Text] | None, BeforeValidator(_options)] = None
    context: Annotated[list[Text] | None, BeforeValidator(_context)] = None
    reasoning: Text | None = None
    response: Text | None = None
    answer_idx: Text | None = None


def clean_row(path: Path, number: int, row: dict[str, Any]) -> dict[str, Any]:
    """Return ``row`` itself if it has the item schema's types, else a copy that has them and is otherwise the same.

    A missing id becomes ``<file stem>-<row>``; an id that is a number becomes text. Raises GazalError naming file, row
    and field if there is no question or a field has a type that cannot be converted (see ``CleanRow``).
    """
    try:
        clean = CleanRow.model_validate(row)
    except ValidationError as error:
        raise GazalError(f"{path}: row {number}: {item_problem(error)}") from error
    clean.id = clean.id or f"{stem(path)}-{number}"
    fields = {field: getattr(clean, field) for field in clean.model_fields_set}
    changes = {field: value for field, value in fields.items() if value != row.get(field)}
    return {"id": "", **row, **changes} if changes else row
