"""Which test items a model of this run may have seen: ``contamination.json``, and with it the clean subset.

Training data is curated before training (:mod:`gazal.curation`). Here the data that was in fact trained on is compared
with the whole benchmarks. So the result also holds for benchmarks that were not at hand when the data was made.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gazal.common.errors import GazalError
from gazal.common.files import write_json
from gazal.curation.duplicates import find_duplicates, find_within
from gazal.items.schema import Item
from gazal.items.writing import write_items_jsonl
from gazal.recipe.data import CurationSection

FILE = "contamination.json"


def measure_contamination(
    data: Path,
    tests: Mapping[str, list[Item]],
    settings: CurationSection,
    out: Path,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Compare ``sft.parquet`` and ``grpo.parquet`` of ``data`` with each test set; write ``out/contamination.json``.

    It holds, and this returns, for each test set:

    * ``items`` and ``training_documents``: counts.
    * ``removed_exact`` and ``removed_near``: training documents that curation removed for it, None if it was not
      compared then.
    * ``matched``: by id, the test items that a training document still matches, each with that match.
    * ``pairs``: duplicates inside the set, each as first, later, kind and score.
    """
    train = [path for name in ("sft", "grpo") if (path := data / f"{name}.parquet").exists()]
    made = data / "report.json"
    report = json.loads(made.read_text(encoding="utf-8")) if made.exists() else {}
    before = report.get("curation", {}).get("tests", {})
    documents = sum(sum(report.get("counts", {}).get(path.stem, {}).values()) for path in train)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{name}.jsonl" for name in tests}
        for name, items in tests.items():
            write_items_jsonl(files[name], items)
        matched: dict[str, dict[str, Any]] = {name: {} for name in tests}
        for match in find_duplicates(train, files, settings, say=lambda line: None):
            if match.against in matched:
                matched[match.against][match.match_id] = {
                    "train_id": match.id,
                    "kind": match.kind,
                    "field": match.field,
                    "score": round(match.score, 4),
                }
        for name, items in tests.items():
            pairs = [[a, b, kind, round(score, 4)] for a, b, kind, score in find_within(files[name], settings)]
            found[name] = {
                "items": len(items),
                "training_documents": documents,
                **{key: before.get(name, {}).get(key) for key in ("removed_exact", "removed_near")},
                "matched": matched[name],
                "pairs": pairs,
            }
            matching = f"{len(matched[name])} of {len(items)} items match a training document"
            say(f"{name}: {matching}, {len(pairs)} duplicate pairs inside")
    write_json(out / FILE, {"tests": found})
    return found


def unclean(entry: dict[str, Any]) -> set[str]:
    """Return the ids that the clean subset of one test set leaves out.

    These are the matched items with all their duplicates, as a match only names the nearest test item. Of each other
    pair of duplicates it is the later item.
    """
    out, before = set(entry["matched"]), -1
    while len(out) > before:
        before = len(out)
        out.update(*({first, later} for first, later, *_ in entry["pairs"] if first in out or later in out))
    return out | {later for _, later, *_ in entry["pairs"]}


def read_unclean(eval_dir: Path) -> dict[str, set[str]]:
    """Return :func:`unclean` of each test set of ``contamination.json``; empty if there is no such file.

    Raises GazalError for a file that is no such report.
    """
    path = eval_dir / FILE
    if not path.exists():
        return {}
    try:
        return {name: unclean(entry) for name, entry in json.loads(path.read_text(encoding="utf-8"))["tests"].items()}
    except (ValueError, KeyError, TypeError) as error:
        raise GazalError(f"{path}: not a contamination report; evaluate the run again") from error
