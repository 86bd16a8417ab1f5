"""What ``data/report.json`` holds."""

from __future__ import annotations

from typing_extensions import TypedDict

from gazal.common.formats import Count, Format, Share
from gazal.curation.schemas import CurationReport


class Baseline(TypedDict):
    """A shortcut on the test split (``gazal.items.shortcuts``)."""

    accuracy: Share
    n: Count
    """Items."""
    by: dict[str, Share]
    """By reasoning type: accuracy."""


class SourceReport(TypedDict):
    """What was read of a source."""

    name: str
    """``synth``, a hub id, or the name of a local file or folder."""
    use: str
    """The stage that trains on it: ``sft`` or ``grpo``."""
    shape: str
    revision: str | None
    """Hub commit; null of what is no hub dataset."""
    rows: Count | None
    """Of the source; null of items made here."""
    read: Count
    """Rows read."""
    items: Count
    """Items written."""
    set_aside: dict[str, list[str]]
    """By reason: ids of the rows."""
    note: str
    """What was found out about the source, a sentence; may be empty."""


class UsedSource(SourceReport):
    """A source and what became of it."""

    used: dict[str, Count]
    """By split: its items after curation; splits without any are absent."""


class SplitsReport(Format):
    """Counts and attribution of the four splits."""

    counts: dict[str, dict[str, Count]]
    """By split, then by reasoning type, else ``multiple choice`` or ``free text``: items."""
    letters: dict[str, dict[str, Count]]
    """By split and letter: items with that key."""
    depth: dict[str, Count]
    """Items of the SFT split by depth of their trace: ``full`` or ``brief``."""
    baselines: dict[str, Baseline]
    """By shortcut, on the test split; the fitted ones learn from sft and grpo."""
    shared_questions: Count
    """Questions that two splits share: 0, or the build is wrong."""
    release: str
    """Of the HPO annotations."""
    attribution: dict[str, str]
    """Whom to name, by source of knowledge."""


class DataReport(SplitsReport):
    """``data/report.json``: where the splits of a run come from."""

    sources: list[UsedSource]
    """In the recipe's order."""
    curation: CurationReport
