"""The paper's benchmarks, from a folder of JSON lines or from the Hugging Face hub, and any items file.

Rows of the hub are converted by :mod:`gazal.data.shapes`. A set whose size or number of options is not the published
one is refused. PubMedQA's official test split is a list of 500 PMIDs in the authors' repository, not on the hub. It
is fetched from there and checked against its known hash. Each set has development items, which are never prompted
with: few-shot examples come from them.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np

from gazal.common.errors import GazalError
from gazal.common.hub import PROBE_SECONDS, Unreachable, hub_problem, offline, within
from gazal.data.hub_rows import load_rows
from gazal.data.shapes import SHAPES, Convert, converter, tidy
from gazal.items.reading import BY_ROW, ENDINGS, Rows, read_items, stem
from gazal.items.schema import Item, item_problem
from gazal.recipe.data import SourceSection

PUBMEDQA_LIST = (
    "https://raw.githubusercontent.com/pubmedqa/pubmedqa/3e7616d288b52edaf38f5fd5c59821c7806bde86"
    "/data/test_ground_truth.json"
)
PUBMEDQA_FILES = ("pubmedqa_test500.jsonl.gz", "pubmedqa_test500.jsonl", "test_ground_truth.json")
PUBMEDQA_SHA256 = "406e3b89eff577ed38571eca5a5819734a6f49ac0437d171b6c64e5c3cd195f8"  # of the sorted PMIDs, one a line


class Source(NamedTuple):
    """Where one set comes from.

    ``stem`` is the file in a folder. ``hub``, ``shape``, ``config`` and ``split`` say what to read on the hub.
    ``count`` and ``options`` are the published numbers of items and of options (None: they vary). ``dev_stem`` and
    ``dev_split`` are the same for development items. If the hub's files are read by name, ``revision`` is pinned and
    ``file`` is the name, with ``{split}`` left open.
    """

    stem: str
    hub: str
    shape: str
    config: str | None
    split: str
    count: int
    options: int | None
    dev_stem: str
    dev_split: str
    revision: str | None = None
    file: str | None = None


# bigbio/med_qa as Parquet, without its loading script: revision and file.
MEDQA_5 = "0aa3dcf1c2945a1be0bdc87713c1b571a890d829", "med_qa_en_source/{split}-00000-of-00001.parquet"
MEDQA_4, MEDMCQA, MMLU_PRO = "GBaker/MedQA-USMLE-4-options", "openlifescienceai/medmcqa", "TIGER-Lab/MMLU-Pro"
SOURCES = {
    "medqa": Source("medqa_test_4opt", MEDQA_4, "medqa", None, "test", 1273, 4, "medqa_dev_4opt_mediq", "train"),
    "medqa_5opt": Source(
        "medqa_test_5opt", "fzkuji/MedQA", "medqa", None, "test", 1273, 5, "medqa_dev_5opt", "validation", *MEDQA_5
    ),
    "medmcqa": Source(
        "medmcqa_validation", MEDMCQA, "medmcqa", None, "validation", 4183, 4, "medmcqa_train_selfbiorag", "train"
    ),
    "pubmedqa": Source(
        "pubmedqa_test500", "qiaojin/PubMedQA", "pubmedqa", "pqa_labeled", "train", 500, 3, "pubmedqa_train500", "train"
    ),
    "mmlu_pro_health": Source(
        "mmlu_pro_health", MMLU_PRO, "mmlu_pro", None, "test", 818, None, "mmlu_pro_health_val5", "validation"
    ),
    "mmlu_pro_biology": Source(
        "mmlu_pro_biology", MMLU_PRO, "mmlu_pro", None, "test", 717, None, "mmlu_pro_biology_val5", "validation"
    ),
}
# As some papers define it; others take health alone.
PARTS = {"mmlu_pro_medical": ("mmlu_pro_health", "mmlu_pro_biology")}
BENCHMARKS = (*SOURCES, *PARTS)
PUBLISHED = ("medmcqa", "pubmedqa", "mmlu_pro", "mmlu")  # shapes that an items file may have, known by their columns
DEVELOPMENT_ROWS = 1000  # of a large training split on the hub: enough to draw a few examples


def benchmark_name(name: str) -> str:
    """Return a benchmark's own name, or an items file's name without folder and ending."""
    return name if name in BENCHMARKS else stem(name)


def _as_published(name: str, base: int | None, rows: Rows) -> Rows:
    """Return rows in the item schema, as they are or converted.

    They are converted if the first row is not in the schema and has all columns of one of ``PUBLISHED``. ``base`` is
    what MedMCQA's keys count from, if they do not tell.
    """
    rows = list(rows)
    columns = rows[0][1].keys()
    shape = next((shape for shape in PUBLISHED if columns >= set(SHAPES[shape].columns)), None)
    if shape is None or columns >= {"options", "answer_idx"}:
        return rows
    convert, note = converter(shape, rows, name, base)
    found = []
    for number, row in rows:
        if missing := next((column for column in SHAPES[shape].columns if column not in row), None):
            raise GazalError(f"{name}: row {number}: {missing}: missing, and row {rows[0][0]} has it")
        item = _to_ask(convert, row, f"{name}: row {number}", id=f"row-{number}", source=Path(name).name)
        found.append((number, item.model_dump(exclude_none=True)))
    print(f"{name}: read as {shape} is published{note and f'; {note}'}", file=sys.stderr)
    return found


def _to_ask(convert: Convert, row: dict[str, Any], where: str, **about: str) -> Item:
    """Return the item of a published row, without its reasoning.

    Raises GazalError with ``where`` for a row that cannot be converted.
    """
    try:
        return convert(row, **about).model_copy(update={"reasoning": None})
    except ValueError as error:
        raise GazalError(f"{where}: {item_problem(error)}") from error


def items_file(path: str | Path, key_base: int | None = None) -> list[Item]:
    """Return the items of a file in our schema or as one of ``PUBLISHED``; see ``read_items``.

    ``key_base`` is what MedMCQA's keys count from, if they do not tell (see :func:`gazal.data.medmcqa_keys.key_base`).
    """
    return [tidy(item) for item in read_items(path, ids=False, reshape=partial(_as_published, str(path), key_base))]


def _own_benchmark(name: str, key_base: int | None) -> list[Item]:
    items = items_file(name, key_base)
    if BY_ROW.fullmatch(items[0].id):
        print(f"{name}: its items are named by their rows (row-1, …): keep their order", file=sys.stderr)
    # Published sets have such items too (MedMCQA: 21), so they are kept.
    same = [item.id for item in items if len(set(item.options.values())) < len(item.options)]
    other = [
        item.id
        for item in items
        if item.answer in item.options.values() and item.answer != item.options[item.answer_idx]
    ]
    for found, what, so in (
        (same, "two options of one text", "where that is the right one, one of its letters counts"),
        (other, "an answer that is another option's text", "the letter counts"),
    ):
        if found:
            number = "1 item has" if len(found) == 1 else f"{len(found)} items have"
            print(f"{name}: {number} {what} (first: {found[0]!r}); {so}", file=sys.stderr)
    return items


def load_benchmark(
    name: str,
    folder: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    key_base: int | None = None,
) -> list[Item]:
    """Return the items of a benchmark (``BENCHMARKS``; from ``folder``, else from the hub) or of an items file.

    ``limit`` takes a seeded sample, in the order of the set; for ``key_base`` see :func:`items_file`. Raises
    Unreachable, within seconds, when the set cannot be had. Raises GazalError for a missing folder, an unknown name, a
    broken file or a wrong count.
    """
    if name not in BENCHMARKS:
        if not Path(name).exists() and not name.endswith(ENDINGS):
            raise GazalError(f"benchmark {name}: unknown (known: {', '.join(BENCHMARKS)}; or give an items file)")
        items = _own_benchmark(name, key_base)
    else:
        items = [item for part in PARTS.get(name, (name,)) for item in _whole(part, folder)]
    return sample(items, limit, seed)


def sample(items: list[Item], limit: int | None, seed: int) -> list[Item]:
    """Return ``limit`` of the items (None: all), drawn by ``seed``, in their order."""
    if limit is None or limit >= len(items):
        return items
    chosen = np.random.default_rng([seed, len(items)]).choice(len(items), limit, replace=False)
    return [items[i] for i in sorted(chosen)]


def load_benchmarks(
    names: Iterable[str],
    folder: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    key_base: int | None = None,
) -> tuple[dict[str, list[Item]], dict[str, str]]:
    """Return ``({benchmark: items}, {benchmark: why it cannot be had})``; bad files and names still raise."""
    found: dict[str, list[Item]] = {}
    not_run: dict[str, str] = {}
    for name in names:
        key = benchmark_name(name)
        if not key:
            raise GazalError(f"benchmark {name}: a file without a name before its ending; rename it")
        if key in found or key in not_run:
            raise GazalError(f"benchmark {name}: {key} is asked for twice; of two files of one name, rename one")
        try:
            found[key] = load_benchmark(name, folder, limit, seed, key_base)
        except Unreachable as error:
            not_run[key] = error.reason
    return found, not_run


def _whole(name: str, folder: str | Path | None) -> list[Item]:
    source = SOURCES[name]
    items = _from_hub(name, source) if folder is None else _from_folder(name, source.stem, Path(folder).expanduser())
    if len(items) != source.count:
        raise GazalError(f"benchmark {name}: {len(items)} items found, the published set has {source.count}")
    other = next((item for item in items if source.options and len(item.options) != source.options), None)
    if other:
        raise GazalError(
            f"benchmark {name}: item {other.id!r} has {len(other.options)} options, "
            f"those of the published set have {source.options}"
        )
    return items


def development_items(name: str, folder: str | Path | None = None, seed: int = 0) -> list[Item]:
    """Return items of ``name``'s own training or development split, which are never evaluated.

    From a folder these are all of its file. Of a large split of the hub, ``DEVELOPMENT_ROWS`` are drawn by ``seed``. A
    benchmark of parts has what its parts have. Raises Unreachable when there are none, GazalError for a broken file.
    """
    found: list[Item] = []
    missing: list[Unreachable] = []
    for part in PARTS.get(name, (name,)):
        try:
            found += _development_part(part, folder, seed)
        except Unreachable as error:
            missing.append(error)
    if missing and not found:
        raise missing[0]
    return found


def _development_part(name: str, folder: str | Path | None, seed: int) -> list[Item]:
    source = SOURCES[name]
    if folder is not None:
        return _from_folder(name, source.dev_stem, Path(folder).expanduser(), ids=False)
    return _from_hub(name, source._replace(split=source.dev_split), seed)


def _from_folder(name: str, stem: str, folder: Path, ids: bool = True) -> list[Item]:
    if not folder.is_dir():
        raise GazalError(f"benchmarks folder {folder}: no such folder")
    path = next((p for end in (".jsonl.gz", ".jsonl") if (p := folder / f"{stem}{end}").exists()), None)
    if path is None:
        raise Unreachable(name, f"{stem}.jsonl.gz is not in the benchmarks folder")
    items = []
    for item in read_items(path, ids=ids):
        if item.subject is None and isinstance(getattr(item, "category", None), str):
            item = item.model_copy(update={"subject": item.category})
        items.append(tidy(item if name != "pubmedqa" else item.model_copy(update={"pmid": item.id})))
    return items


def _from_hub(name: str, source: Source, seed: int | None = None) -> list[Item]:
    """Return the set's items; with ``seed`` development items, at most ``DEVELOPMENT_ROWS`` of them."""
    file = source.file.format(split=source.split) if source.file else None
    about = {field: getattr(source, field) for field in ("shape", "config", "split", "revision")}
    section = SourceSection(name=source.hub, use="grpo", file=file, **about)
    try:
        rows = load_rows(section, f"benchmark {name}")
    except Unreachable as error:
        raise Unreachable(name, f"{source.hub}: {error.reason}, and no benchmarks folder is given") from error
    convert, _ = converter(source.shape, rows.numbered(), f"benchmark {name}")
    tested = official_pubmedqa() if name == "pubmedqa" else set()
    draw = seed is not None and rows.count > DEVELOPMENT_ROWS
    numbers = np.sort(np.random.default_rng(seed).choice(rows.count, DEVELOPMENT_ROWS, replace=False)) if draw else None
    items = []
    for number, row in rows.read(numbers):
        if name.startswith("mmlu_pro_") and row["category"] != name.removeprefix("mmlu_pro_"):
            continue
        if tested and (str(row["pubid"]) in tested) == (seed is not None):
            continue
        where = f"benchmark {name}: {source.hub}: row {number + 1}"
        items.append(_to_ask(convert, row, where, id=f"{source.shape}-{source.split}-{number}", source=source.hub))
    return items


def official_pubmedqa(folder: str | Path | None = None) -> set[str]:
    """Return the 500 PMIDs of PubMedQA's test split.

    They come from ``folder`` (``pubmedqa_test500.jsonl.gz`` or the authors' ``test_ground_truth.json``), else from the
    authors' repository. Raises Unreachable.
    """
    here = Path(folder or "").expanduser()
    found = next((here / name for name in PUBMEDQA_FILES if folder and (here / name).exists()), None)
    try:
        if found is not None:
            text = found.read_text(encoding="utf-8") if found.suffix == ".json" else None
            pmids = set(json.loads(text) if text is not None else (item.id for item in read_items(found)))
        elif offline() or hub_problem():
            raise OSError("no network")
        else:
            fetch = partial(httpx.get, PUBMEDQA_LIST, timeout=PROBE_SECONDS, follow_redirects=True)
            pmids = set(within(PROBE_SECONDS + 0.5, lambda: fetch().raise_for_status().json()))
    except (httpx.HTTPError, OSError, ValueError) as error:
        files = f"{PUBMEDQA_FILES[0]} or {PUBMEDQA_FILES[-1]}"
        why = f"the official list of test PMIDs cannot be had (give a folder that holds {files})"
        raise Unreachable("pubmedqa", why) from error
    if hashlib.sha256("\n".join(sorted(pmids)).encode()).hexdigest() != PUBMEDQA_SHA256:
        raise Unreachable("pubmedqa", "the official list of test PMIDs is not the one known")
    return pmids
