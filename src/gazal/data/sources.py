"""Training data of every source, as JSON lines in the item schema; converted as it is read, never held whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gazal.common.errors import GazalError
from gazal.common.files import atomic_write, read_jsonl, write_json
from gazal.common.paths import PACKAGE
from gazal.common.streams import Stream, generator
from gazal.data.benchmarks import official_pubmedqa
from gazal.data.hub_rows import Rows, load_rows, local_path
from gazal.data.schemas import SourceReport
from gazal.data.shapes import Convert, converter
from gazal.items.schema import Item, TrainingExample, item_problem
from gazal.items.types import REASONING_TYPES
from gazal.knowledge.generate import draw, equal_shares
from gazal.recipe.data import DataSection, SourceSection

# Hash buckets of each split of knowledge-derived items (the embedded base reads whole questions from 65-99 only).
BUCKETS = {"test": range(15), "dev": range(15, 25), "grpo": range(25, 45), "sft": range(45, 65)}
ROOMS = ("items", "knowledge", "data")  # whose code decides what an item says
PROGRESS = 20_000
SHOWN = 5


class Gathered(NamedTuple):
    """One source's items: its number in ``data.sources``, the source, the JSON-lines file and the report."""

    number: int
    source: SourceSection
    path: Path
    report: SourceReport


def _code_key() -> str:
    """Return a digest of the code that makes items, so that a file made by other code is not taken for this one's."""
    files = [path for room in ROOMS for path in sorted((PACKAGE / room).glob("*.py"))]
    return _digest([hashlib.sha256(path.read_bytes()).hexdigest() for path in files])


def gather(
    section: DataSection, seed: int, folder: Path, say: Callable[[str], None] = print, benchmarks: Path | None = None
) -> list[Gathered]:
    """Convert every source to ``folder/<number>-<use>-<shape>.jsonl``, ids unique over all of them.

    A file is written completely or not at all, with a note of its inputs beside it. A file whose note names the same
    inputs is not made again. ``benchmarks`` is a folder that may hold PubMedQA's official test list, whose PMIDs are
    never trained on. Raises GazalError, see ``load_rows``, when a source has no usable row. It is also raised when that
    list is needed and cannot be had.
    """
    taken: dict[str, int] = {}
    done: dict[int, Gathered] = {}
    key = _code_key()
    corpora = [i for i, source in enumerate(section.sources) if source.shape != "synth"]
    for number in [*corpora, *(i for i in range(len(section.sources)) if i not in corpora)]:
        source = section.sources[number]
        where, path = f"data.sources.{number}", folder / f"{number}-{source.use}-{source.shape}.jsonl"
        if number in corpora:
            wanted, made_from = 0, [_files(source, where), section.key_base]
        else:
            known = [done[i].report["items"] if i in done else None for i in range(len(section.sources))]
            wanted = planned_items(section, known)[source.use][number]
            made_from = section.model_dump(include={"n_diseases", "brief_share", "variety"})
        # The key before is part of it: ids depend on the sources before.
        key = _digest([key, source.model_dump(exclude={"weight"}), made_from, wanted, seed])
        report = _finished(path, key)
        if report is None:
            if number in corpora:
                report = _corpus(source, number, path, taken, seed, say, benchmarks, section.key_base)
            else:
                items = synthetic_lines(section, source.use, wanted, seed)
                report = _report(source, "synth", len(items), len(items), {}, "made here")
                _write(path, items)
            write_json(_note(path), {"key": key, "report": report})
        for _, row in read_jsonl(path):
            taken[row["id"]] = number
        done[number] = Gathered(number, source, path, report)
        _tell(report, where, say)
    keep = {name for one in done.values() for name in (one.path.name, _note(one.path).name)}
    for stale in folder.glob("*-*-*.json*"):
        if stale.name not in keep:
            stale.unlink()
    return [done[number] for number in sorted(done)]


def _tell(report: SourceReport, where: str, say: Callable[[str], None]) -> None:
    revision = f" at {report['revision'][:12]}" if report["revision"] else ""
    say(
        f"{where}: {report['name']}{revision}: {report['items']:,} items"
        + (f" of {report['read']:,} rows read" if report["rows"] is not None else "")
        + (f"; {report['note']}" if report["note"] else "")
    )
    for reason, ids in report["set_aside"].items():
        say(f"{where}: set aside {len(ids):,}: {reason} ({', '.join(ids[:SHOWN])}{', …' if len(ids) > SHOWN else ''})")


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _note(path: Path) -> Path:
    return path.with_suffix(".json")


def _finished(path: Path, key: str) -> SourceReport | None:
    """Return the report of a source that was converted from the same inputs before."""
    if not path.exists() or not _note(path).exists():
        return None
    try:
        note = json.loads(_note(path).read_text(encoding="utf-8"))
    except ValueError:
        return None
    return note["report"] if note.get("key") == key else None


def _files(source: SourceSection, where: str) -> list[Any]:
    """Return names, sizes and times of a local source's files, which tell whether it has changed."""
    path = local_path(source, where)
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path and path.is_dir() else [path] if path else []
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _write(path: Path, lines: Sequence[str]) -> None:
    with atomic_write(path) as handle:
        handle.writelines(line + "\n" for line in lines)


def _report(
    source: SourceSection,
    name: str,
    read: int,
    items: int,
    set_aside: dict[str, list[str]],
    note: str,
    rows: Rows | None = None,
) -> SourceReport:
    return {
        "name": name,
        "use": source.use,
        "shape": source.shape,
        "revision": rows.revision if rows else None,
        "rows": rows.count if rows else None,
        "read": read,
        "items": items,
        "set_aside": set_aside,
        "note": note,
    }


def _corpus(
    source: SourceSection,
    number: int,
    path: Path,
    taken: dict[str, int],
    seed: int,
    say: Callable[[str], None],
    benchmarks: Path | None,
    base: int | None,
) -> SourceReport:
    """Convert the rows of one source to ``path``; return its report."""
    where = f"data.sources.{number}"
    rows = load_rows(source, where)
    convert, note = converter(source.shape, rows.numbered(), f"{where}: {source.name}", base)
    if source.shape == "pubmedqa":
        tested = official_pubmedqa(benchmarks)
        convert, note = _untested(convert, tested), f"training leaves out the official {len(tested)} test PMIDs"
    origin = source.name if local_path(source, where) is None else Path(source.name).name
    limit = source.limit or rows.count
    set_aside: dict[str, list[str]] = {}
    read = written = 0
    own = set()
    rng = generator(seed, Stream.SOURCE_SAMPLE, number)
    with atomic_write(path) as handle:
        for index, row in _chosen(rows, limit, rng, lambda: limit - written):  # noqa: B023 - read as it is then
            read += 1
            name = f"{source.shape}-{index + 1}"
            try:
                item = convert(row, id=name, source=origin)
                name = item.id
                _check_usable(item, source.use)
                if name in taken or name in own:
                    raise ValueError(f"its id is that of another item of data.sources.{taken.get(name, number)}")
            except ValueError as error:
                set_aside.setdefault(item_problem(error), []).append(name)
            else:
                own.add(name)
                handle.write(json.dumps(item.model_dump(exclude_none=True), ensure_ascii=False) + "\n")
                written += 1
            if read % PROGRESS == 0:
                say(f"{where}: {read:,} of {rows.count:,} rows")
        if not written:
            reasons = "; ".join(f"{len(ids)} {reason}" for reason, ids in set_aside.items()) or "it is empty"
            raise GazalError(f"{where}: {source.name}: no usable row ({reasons})")
    return _report(source, origin, read, written, set_aside, note, rows)


def _chosen(
    rows: Rows, limit: int, rng: np.random.Generator, missing: Callable[[], int]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield all rows, or a seeded sample of ``limit``.

    More rows follow, in growing parts, for as long as some are still ``missing()``.
    """
    if limit >= rows.count:
        yield from rows.read(None)
        return
    order, start, part = rng.permutation(rows.count), 0, 1
    while missing() > 0 and start < rows.count:
        numbers = np.sort(order[start : start + part * missing()])
        start, part = start + len(numbers), part * 2
        for found in rows.read(numbers):
            if missing() > 0:
                yield found


def _untested(convert: Convert, tested: set[str]) -> Convert:
    def untested(row: dict[str, Any], **about: str) -> Item:
        if str(row["pubid"]) in tested:
            raise ValueError("a PMID of the official test list")
        return convert(row, **about)

    return untested


def _check_usable(item: Item, use: str) -> None:
    """Raise ValueError if the stage cannot train on the item."""
    if use == "grpo" and isinstance(item, TrainingExample):
        raise ValueError("free text: GRPO needs options and a key")
    if use == "sft" and not (item.reasoning or "").strip():
        raise ValueError("no reasoning, which SFT trains on")


def synthetic_lines(section: DataSection, split: str, n: int, seed: int) -> list[str]:
    """Return ``n`` knowledge-derived items of ``split`` as JSON lines, shuffled, in equal parts by reasoning type.

    The same seed gives the same items. An SFT example keeps one trace: the one that weighs all the evidence, or (with
    probability ``brief_share``) the one of conclusions only.
    """
    drawn = (
        item
        for kind, count in zip(REASONING_TYPES, equal_shares(n, REASONING_TYPES), strict=True)
        for item in draw(kind, count, seed, BUCKETS[split], section.n_diseases, variety=section.variety)
    )
    brief = generator(seed, Stream.BRIEF).random(n) < section.brief_share
    places = np.argsort(np.random.default_rng([seed, len(split)]).permutation(n))
    lines = [""] * n
    for place, item in zip(places.tolist(), drawn, strict=True):
        if split == "sft":
            trace, depth = (item.reasoning_brief, "brief") if brief[place] else (item.reasoning, "full")
            item = item.model_copy(update={"reasoning": trace, "depth": depth})
        lines[place] = json.dumps(item.model_dump(exclude_none=True), ensure_ascii=False)
    return lines


def weighted_shares(total: int, weights: Sequence[float], available: Sequence[int]) -> list[int]:
    """Return ``total`` split by ``weights``; what a part has not ``available`` goes to the others, in their order."""
    exact = [total * weight / sum(weights) for weight in weights]
    counts = [int(part) for part in exact]
    for i in sorted(range(len(exact)), key=lambda i: counts[i] - exact[i])[: total - sum(counts)]:
        counts[i] += 1
    counts = [min(count, most) for count, most in zip(counts, available, strict=True)]
    for i, most in enumerate(available):
        counts[i] += min(total - sum(counts), most - counts[i])
    return counts


def planned_items(
    section: DataSection, items: Sequence[int | None], drawn: Sequence[int] | None = None
) -> dict[str, list[int]]:
    """Return how many examples of each source go to ``sft``, ``grpo`` and ``dev``, by its weight.

    ``items`` are the usable items of each source, None for knowledge-derived ones that are not drawn yet. Dev items of
    these are drawn apart (``drawn``: how many were). Dev items of other GRPO sources are held out. They are at most a
    quarter of the source, or the share that dev has of dev and GRPO if that is more.
    """
    n = len(section.sources)
    result = {use: [0] * n for use in ("sft", "grpo", "dev")}

    def fill(split: str, available: dict[int, int]) -> None:
        if available:
            weights = [section.sources[i].weight for i in available]
            counts = weighted_shares(getattr(section, split), weights, list(available.values()))
            for i, count in zip(available, counts, strict=True):
                result[split][i] = count

    def most(i: int, total: int) -> int:
        count = items[i]
        return count if count is not None else min(total, section.sources[i].limit or total)

    grpo = [i for i in range(n) if section.sources[i].use == "grpo"]
    fill("sft", {i: most(i, section.sft) for i in range(n) if i not in grpo})
    synthetic = [i for i in grpo if section.sources[i].shape == "synth"]

    def dev(i: int) -> int:
        if i in synthetic:
            return section.dev if drawn is None else drawn[i]
        return max(most(i, 0) * section.dev // (section.dev + section.grpo), most(i, 0) // 4)

    fill("dev", {i: dev(i) for i in grpo})
    fill("grpo", {i: most(i, section.grpo) - (0 if i in synthetic else result["dev"][i]) for i in grpo})
    return result
