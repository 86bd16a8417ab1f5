"""One pass over a training or test file: is every row sound, are ids unique, which rows fail a quality filter."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from gazal.common.errors import GazalError
from gazal.common.files import atomic_write
from gazal.curation.quality import Finding, QualityFilter
from gazal.curation.rows import clean_row, read_rows

NEWS = 50_000  # rows between two lines of progress


class Scan(NamedTuple):
    """A file that has been read: where its items are as JSON lines, how many, and what the filters say."""

    path: Path
    count: int
    findings: list[Finding]
    not_checked: list[str]


class _NotClean(Exception):
    """A row of a JSON-lines file must be changed, so the file is copied."""


def scan_file(path: Path, copy: Path, quality: Callable[[], QualityFilter] | None, say: Callable[[str], None]) -> Scan:
    """Read a file once, through a new filter if it is a training file; it is written to ``copy`` only where its rows must be changed.

    Raises GazalError naming file, row and field, see ``clean_row``; for two items of one id; for a test item without a question.
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
