"""What curation's ``report.json`` holds."""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict

from gazal.common.formats import Count, Digest, Format


class Counts(TypedDict):
    """Items of all training files."""

    read: Count
    kept: Count
    removed: dict[str, Count]
    """By reason: ``duplicate:KIND``, ``contamination:TEST:KIND`` or ``quality:REASON``. An item counts once."""


class TrainingFile(TypedDict):
    """A training file."""

    name: str
    read: Count
    """Items."""
    kept: Count


class ComparedSet(TypedDict):
    """A test set that the training files are compared with."""

    items: Count
    removed_exact: Count
    """Training items that repeat one of its items; an item may count for several test sets."""
    removed_near: Count
    items_hit: list[str]
    """Ids of its items that a training item repeats, sorted."""
    within_pairs: Count
    """Pairs of duplicates inside the set."""


class CurationReport(Format):
    """What was compared and removed; ``curation`` in ``data/report.json``."""

    settings: dict[str, Any]
    """The recipe's ``data.curation``, and ``max_tokens``: of a prompt with its completion, null if not limited."""
    counts: Counts
    files: list[TrainingFile]
    """In the order in which an earlier file wins over a later one."""
    tests: dict[str, ComparedSet]
    not_compared: dict[str, str]
    """By benchmark: why it could not be compared."""
    quality: dict[str, Count]
    """Removed items by quality filter."""
    not_checked: list[str]
    """What no filter looked at, and why."""
    seconds: float
    """Wall time."""
    peak_memory_mib: Count
    """Of this process and its children, MiB."""


class Inputs(TypedDict):
    """By file or test set: sha256."""

    train: dict[str, Digest]
    tests: dict[str, Digest]


class CurationFile(CurationReport):
    """``report.json`` of `gazal curate`."""

    inputs: Inputs
    tokenizer: str | None
    """The model whose tokens were counted; null if none was at hand."""
    outputs: dict[str, Digest]
    """By file beside this one: sha256."""
