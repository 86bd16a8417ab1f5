"""Curation of training files: quality filters, then duplicates within them and with every test set (`gazal curate`)."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gazal.common.errors import GazalError
from gazal.common.files import atomic_write, sha256, write_json
from gazal.common.peak import peak_bytes
from gazal.curation.duplicates import Match, find_duplicates, find_within
from gazal.curation.quality import REASONS, CountTokens, Finding, QualityFilter
from gazal.curation.reading import pick
from gazal.curation.scan import scan_file
from gazal.curation.schemas import CurationFile, CurationReport
from gazal.items.prompts import build_messages, encode_chats
from gazal.items.reading import check_file, stem
from gazal.items.schema import TrainingExample
from gazal.recipe.data import CurationSection
from gazal.recipe.recipe import Recipe


class Removal(NamedTuple):
    """A removed item: the training file, the item number (from 0) and all that was found against it."""

    file: int
    row: int
    found: list[Match] | Finding

    def reasons(self) -> list[str]:
        if isinstance(self.found, Finding):
            return [f"quality:{self.found.reason}"]
        return [
            f"duplicate:{m.kind}" if m.against == "train" else f"contamination:{m.against}:{m.kind}" for m in self.found
        ]

    def line(self, name: str) -> dict[str, Any]:
        """Return the line of ``removals.jsonl`` for the file called ``name``.

        ``row`` counts the file's items from 1; ``also`` holds the matches after the first.
        """
        first = self.found if isinstance(self.found, Finding) else self.found[0]
        about: dict[str, Any] = {"id": first.id, "file": name, "row": self.row + 1, "reason": self.reasons()[0]}
        if isinstance(self.found, Finding):
            return {**about, "field": self.found.field, "text": self.found.text}
        fields = ("field", "against", "match_id", "score", "text", "match_text")
        matches = [{field: getattr(m, field) for field in fields} for m in self.found]
        also = [{"reason": reason, **match} for reason, match in zip(self.reasons()[1:], matches[1:], strict=True)]
        return {**about, **matches[0], **({"also": also} if also else {})}


class Curated(NamedTuple):
    """What ``curate`` found.

    ``kept`` has, for each training file, the item numbers (from 0) that stay: ascending, int64. ``removals`` are in
    order of file and row. ``names`` are the files' names. ``paths`` hold the same items as JSON lines; those in the
    ``work`` folder last as long as it does.
    """

    kept: list[np.ndarray]
    report: CurationReport
    removals: list[Removal]
    names: list[str]
    paths: list[Path]

    def write_removals(self, path: Path) -> None:
        """Write each removal in full, one JSON line each."""
        with atomic_write(path) as handle:
            for removal in self.removals:
                handle.write(json.dumps(removal.line(self.names[removal.file]), ensure_ascii=False) + "\n")


def curate(
    train: Sequence[Path],
    tests: Mapping[str, Path],
    settings: CurationSection,
    count_tokens: CountTokens | None = None,
    max_tokens: int | None = None,
    say: Callable[[str], None] = print,
    work: Path | None = None,
) -> Curated:
    """Find what to remove from ``train`` files: faulty rows, repeats (an earlier file wins), and items of ``tests``.

    Files are JSON lines, a JSON array or Parquet (``gazal.items.reading``), and they are streamed. A file is copied
    into ``work`` as JSON lines only if it is in another format or its rows must change. If ``work`` is None, a
    temporary folder takes its place. ``count_tokens`` maps texts to their numbers of tokens. ``max_tokens``
    is the most that a prompt and its completion may have together: see ``token_counter``. Raises GazalError naming
    file, row and field.
    """
    began = time.time()
    with ExitStack() as stack:
        folder = work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gazal-")))
        scans = [
            scan_file(path, folder / f"{n}.jsonl", lambda: QualityFilter(settings, count_tokens, max_tokens), say)
            for n, path in enumerate(train, 1)
        ]
        sets = {
            name: scan_file(path, folder / f"test-{n}.jsonl", None, say)
            for n, (name, path) in enumerate(tests.items(), 1)
        }
        skip = [np.array([found.row for found in scan.findings], np.int64) for scan in scans]
        matches = find_duplicates(
            [scan.path for scan in scans], {name: scan.path for name, scan in sets.items()}, settings, skip, say
        )
        within = {name: len(find_within(scan.path, settings)) for name, scan in sets.items()}
    by_row: dict[tuple[int, int], list[Match]] = {}
    for match in matches:
        by_row.setdefault((match.file, match.row), []).append(match)
    order = {name: n for n, name in enumerate([*tests, "train"])}
    for found in by_row.values():
        found.sort(key=lambda m: (m.against == "train", m.kind != "exact", -m.score, order[m.against]))
    removals = [Removal(file, finding.row, finding) for file, scan in enumerate(scans) for finding in scan.findings]
    removals += [Removal(file, row, found) for (file, row), found in by_row.items()]
    removals.sort(key=lambda removal: removal[:2])
    kept = []
    for file, scan in enumerate(scans):
        stays = np.ones(scan.count, bool)
        stays[[removal.row for removal in removals if removal.file == file]] = False
        kept.append(np.flatnonzero(stays))
    names = [path.name for path in train]
    not_checked = [f"{names[n]}: {text}" for n, scan in enumerate(scans) for text in scan.not_checked]
    if count_tokens is None:
        not_checked.append("context length: no tokenizer at hand")
    elif max_tokens is None:
        not_checked.append("context length: no limit given")
    if not tests:
        not_checked.append("contamination: no test set given")
    counts = Counter(removal.reasons()[0] for removal in removals)
    kinds = ("exact", "near")
    compared = ["duplicate", *(f"contamination:{name}" for name in tests)]
    reasons = [f"{what}:{kind}" for what in compared for kind in kinds] + [f"quality:{reason}" for reason in REASONS]
    report: CurationReport = {
        "settings": {**settings.model_dump(mode="json"), "max_tokens": max_tokens},
        "counts": {
            "read": sum(scan.count for scan in scans),
            "kept": sum(map(len, kept)),
            "removed": {reason: counts[reason] for reason in reasons},
        },
        "files": [
            {"name": name, "read": scan.count, "kept": len(rows)}
            for name, scan, rows in zip(names, scans, kept, strict=True)
        ],
        "tests": {
            name: {
                "items": scan.count,
                **{
                    f"removed_{kind}": len({(m.file, m.row) for m in matches if m.against == name and m.kind == kind})
                    for kind in kinds
                },
                "items_hit": sorted({m.match_id for m in matches if m.against == name}),
                "within_pairs": within[name],
            }
            for name, scan in sets.items()
        },
        "not_compared": {},
        "quality": {reason: counts[f"quality:{reason}"] for reason in REASONS},
        "not_checked": not_checked,
        "seconds": round(time.time() - began, 1),
        "peak_memory_mib": (peak_bytes() + peak_bytes(children=True)) >> 20,
    }
    return Curated(kept, report, removals, names, [scan.path for scan in scans])


def token_counter(recipe: Recipe) -> tuple[CountTokens | None, int | None, str]:
    """Return ``(count, limit, "")`` for ``curate``; without the tokenizer ``(None, None, why)``.

    ``count`` maps texts to their numbers of tokens. ``limit`` is the most that a prompt and its completion may have:
    ``sft.max_length`` less what the chat template and the system prompt take. So exactly those examples pass that SFT
    would not set aside.
    """
    from gazal.models.loading import base_path, load_tokenizer  # imports torch

    base = base_path(recipe.model)
    try:
        tokenizer = load_tokenizer(base, recipe.model.revision)
    except GazalError:
        return None, None, f"the tokenizer of {Path(base).name if Path(base).exists() else base} is not at hand"
    nothing = [
        *build_messages(TrainingExample.model_construct(question="", options={}, context=None), recipe.model.system),
        {"role": "assistant", "content": ""},
    ]
    frame = len(encode_chats(tokenizer, [nothing])[0])

    def count(texts: list[str]) -> list[int]:
        tokens = tokenizer(texts, add_special_tokens=False, return_attention_mask=False)
        return list(map(len, tokens["input_ids"]))

    return count, recipe.sft.max_length - frame, ""


def curate_command(
    train: Sequence[Path],
    test: Sequence[Path],
    out: Path,
    settings: CurationSection,
    recipe: Recipe | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Write ``out/train.jsonl``, ``removals.jsonl`` and, last, ``report.json``: the command `gazal curate`.

    ``train.jsonl`` holds what is kept of all files, in order. Rows stay as they were read, except that a missing id is
    filled in. Lengths are counted in the tokens of ``recipe``'s model. A second call with the same inputs and settings
    only says that all is done. Raises GazalError, before anything is written, for bad input and for a folder that
    holds another curation.
    """
    _check_inputs(train, test, out)
    inputs = {
        "train": {path.name: sha256(path) for path in train},
        "tests": {stem(path): sha256(path) for path in test},
    }
    no_counter = None, None, "no recipe given, so no tokenizer"
    counter, limit, reason = token_counter(recipe) if recipe else no_counter
    wanted = {
        "inputs": inputs,
        "settings": {**settings.model_dump(mode="json"), "max_tokens": limit},
        "tokenizer": recipe.model.base if recipe and counter else None,
    }
    if _done(out, wanted):
        say(f"{os.path.relpath(out)}: done already, with these inputs and settings")
        return out
    work = out / f".work.{os.getpid()}"
    for old in out.glob(".*.tmp"):
        old.unlink(missing_ok=True)
    for old in out.glob(".work.*"):  # of a run that was killed
        shutil.rmtree(old, ignore_errors=True)
    try:
        work.mkdir(parents=True)
        curated = curate(train, {stem(path): path for path in test}, settings, counter, limit, say, work)
        with atomic_write(out / "train.jsonl", "wb") as handle:
            for path, kept in zip(curated.paths, curated.kept, strict=True):
                lines = (line for batch in pick(path, kept) for line in batch.lines)
                handle.writelines(line if line.endswith(b"\n") else line + b"\n" for line in lines)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    curated.write_removals(out / "removals.jsonl")
    report = curated.report
    report["not_checked"] = [
        f"context length: {reason}" if text.startswith("context length: no tokenizer") else text
        for text in report["not_checked"]
    ]
    outputs = {name: sha256(out / name) for name in ("train.jsonl", "removals.jsonl")}
    whole: CurationFile = {**report, **wanted, "outputs": outputs}
    write_json(out / "report.json", whole)
    for line in summary(report):
        say(line)
    return out


def summary(report: CurationReport) -> list[str]:
    """Return the report as a few lines for people."""
    counts = report["counts"]
    lines = [f"kept {counts['kept']:,} of {counts['read']:,} items"]
    lines += [f"  removed {n:,}: {reason}" for reason, n in counts["removed"].items() if n]
    lines += [
        f"  {name}: {len(test['items_hit']):,} of its {test['items']:,} items are in the training data; "
        f"{test['within_pairs']} duplicate pairs inside it"
        for name, test in report["tests"].items()
    ]
    return [*lines, *(f"  not checked: {text}" for text in report["not_checked"])]


def _check_inputs(train: Sequence[Path], test: Sequence[Path], out: Path) -> None:
    if not train:
        raise GazalError("--train: give at least one file")
    seen: dict[tuple[int, int], str] = {}
    names: dict[tuple[str, str], Path] = {}
    for option, paths in (("--train", train), ("--test", test)):
        for path in paths:
            check_file(path, f"{option} ")
            about = path.stat()
            if other := seen.get((about.st_dev, about.st_ino)):
                raise GazalError(f"{option} {path}: is the same file as {other}")
            seen[about.st_dev, about.st_ino] = f"{option} {path}"
            if other := names.get((option, stem(path))):
                raise GazalError(f"{option} {path}: has the same name as {other}; rename one")
            names[option, stem(path)] = path
            if (option, stem(path)) == ("--test", "train"):
                raise GazalError(f"{option} {path}: a test set cannot be called train; rename it")
    if out.exists() and not out.is_dir():
        raise GazalError(f"--out {out}: is a file, give a folder")
    for name in ("train.jsonl", "removals.jsonl", "report.json"):
        if (out / name).exists() and (about := (out / name).stat()) and (about.st_dev, about.st_ino) in seen:
            raise GazalError(f"--out {out}: its {name} is one of the inputs; give another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise GazalError(f"--out {out}: cannot be written ({error.strerror})") from error


def _done(out: Path, wanted: dict[str, Any]) -> bool:
    """Return whether ``out`` holds this curation, complete. Raises GazalError if it holds another one."""
    path = out / "report.json"
    if not path.exists():
        return False
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        outputs = report["outputs"]
        differs = next((key for key, value in wanted.items() if report[key] != value), None)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GazalError(f"{path}: is no report of a curation; give another --out, or remove it") from error
    if differs:
        raise GazalError(f"--out {out}: holds a curation of other {differs}; give another folder, or remove it")
    return all((out / name).exists() and sha256(out / name) == digest for name, digest in outputs.items())
