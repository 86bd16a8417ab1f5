"""The paper's benchmarks, from a folder of JSON lines or from the Hugging Face hub, and any items file.

From the hub they come by the converters of :mod:`gazal.data.shapes`; a set whose size is not the published one is
refused. PubMedQA's official test split is a list of 500 PMIDs that lies not on the hub but in the
authors' repository: it is fetched from there and checked against its known hash.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np

from gazal.data.hub import load_rows
from gazal.data.shapes import converter, tidy
from gazal.errors import GazalError
from gazal.hub import PROBE_SECONDS, Unreachable, hub_problem, offline, within
from gazal.items import Item, read_items
from gazal.recipe_data import SourceSection

PUBMEDQA_LIST = "https://raw.githubusercontent.com/pubmedqa/pubmedqa/3e7616d288b52edaf38f5fd5c59821c7806bde86/data/test_ground_truth.json"
PUBMEDQA_FILES = ("pubmedqa_test500.jsonl.gz", "pubmedqa_test500.jsonl", "test_ground_truth.json")
PUBMEDQA_SHA256 = "406e3b89eff577ed38571eca5a5819734a6f49ac0437d171b6c64e5c3cd195f8"  # of the sorted PMIDs, one a line


class Source(NamedTuple):
    """Where one set comes from: file stem in a folder; hub id, shape, config and split; published number of items."""

    stem: str
    hub: str
    shape: str
    config: str | None
    split: str
    count: int


SOURCES = {
    "medqa": Source("medqa_test_4opt", "GBaker/MedQA-USMLE-4-options", "medqa", None, "test", 1273),
    "medmcqa": Source("medmcqa_validation", "openlifescienceai/medmcqa", "medmcqa", None, "validation", 4183),
    "pubmedqa": Source("pubmedqa_test500", "qiaojin/PubMedQA", "pubmedqa", "pqa_labeled", "train", 500),
    "mmlu_pro_health": Source("mmlu_pro_health", "TIGER-Lab/MMLU-Pro", "mmlu_pro", None, "test", 818),
    "mmlu_pro_biology": Source("mmlu_pro_biology", "TIGER-Lab/MMLU-Pro", "mmlu_pro", None, "test", 717),
}
PARTS = {"mmlu_pro_medical": ("mmlu_pro_health", "mmlu_pro_biology")}  # as some papers define it; others take health alone
BENCHMARKS = (*SOURCES, *PARTS)


def benchmark_name(name: str) -> str:
    """A benchmark's own name, or an items file's name without folder and ending."""
    return name if name in BENCHMARKS else re.sub(r"(\.jsonl|\.json|\.parquet)?(\.gz)?$", "", Path(name).name)


def load_benchmark(name: str, folder: str | Path | None = None, limit: int | None = None, seed: int = 0) -> list[Item]:
    """Items of a benchmark (``BENCHMARKS``; from ``folder``, else from the hub) or of an items file.

    ``limit`` takes a seeded sample, in the order of the set. Raises Unreachable, within seconds, when the
    set cannot be had; GazalError for a missing folder, a name that is none, a broken file or a wrong count.
    """
    if name not in BENCHMARKS:
        if not Path(name).exists() and Path(name).suffix not in (".jsonl", ".gz", ".parquet"):
            raise GazalError(f"benchmark {name}: unknown (known: {', '.join(BENCHMARKS)}; or give an items file)")
        items = [tidy(item) for item in read_items(name)]
    else:
        items = [item for part in PARTS.get(name, (name,)) for item in _whole(part, folder)]
    return sample(items, limit, seed)


def sample(items: list[Item], limit: int | None, seed: int) -> list[Item]:
    """``limit`` of the items (None: all), drawn by ``seed``, in their order."""
    if limit is None or limit >= len(items):
        return items
    chosen = np.random.default_rng([seed, len(items)]).choice(len(items), limit, replace=False)
    return [items[i] for i in sorted(chosen)]


def load_benchmarks(
    names: Iterable[str], folder: str | Path | None = None, limit: int | None = None, seed: int = 0
) -> tuple[dict[str, list[Item]], dict[str, str]]:
    """``({benchmark: items}, {benchmark: why it cannot be had})``; bad files and names still raise."""
    found: dict[str, list[Item]] = {}
    not_run: dict[str, str] = {}
    for name in names:
        key = benchmark_name(name)
        if key in found or key in not_run:
            raise GazalError(f"benchmark {name}: {key} is asked for twice")
        try:
            found[key] = load_benchmark(name, folder, limit, seed)
        except Unreachable as error:
            not_run[key] = error.reason
    return found, not_run


def _whole(name: str, folder: str | Path | None) -> list[Item]:
    source = SOURCES[name]
    items = _from_hub(name, source) if folder is None else _from_folder(name, source, Path(folder).expanduser())
    if len(items) != source.count:
        raise GazalError(f"benchmark {name}: {len(items)} items found, the published set has {source.count}")
    return items


def _from_folder(name: str, source: Source, folder: Path) -> list[Item]:
    if not folder.is_dir():
        raise GazalError(f"benchmarks folder {folder}: no such folder")
    path = next((p for end in (".jsonl.gz", ".jsonl") if (p := folder / f"{source.stem}{end}").exists()), None)
    if path is None:
        raise Unreachable(name, f"{source.stem}.jsonl.gz is not in the benchmarks folder")
    items = []
    for item in read_items(path):
        if item.subject is None and isinstance(getattr(item, "category", None), str):
            item = item.model_copy(update={"subject": item.category})
        items.append(tidy(item if name != "pubmedqa" else item.model_copy(update={"pmid": item.id})))
    return items


def _from_hub(name: str, source: Source) -> list[Item]:
    try:
        rows = load_rows(SourceSection(name=source.hub, use="grpo", shape=source.shape, config=source.config, split=source.split), f"benchmark {name}")
    except Unreachable as error:
        raise Unreachable(name, f"{source.hub}: {error.reason}, and no benchmarks folder is given") from error
    convert, _ = converter(source.shape, rows.distinct, f"benchmark {name}")
    wanted = official_pubmedqa() if name == "pubmedqa" else set()
    items = []
    for number, row in rows.read(None):
        if name.startswith("mmlu_pro_") and row["category"] != name.removeprefix("mmlu_pro_") or wanted and str(row["pubid"]) not in wanted:
            continue
        try:
            items.append(convert(row, id=f"{source.shape}-{source.split}-{number}", source=source.hub).model_copy(update={"reasoning": None}))
        except ValueError as error:
            raise GazalError(f"benchmark {name}: {source.hub}: row {number + 1}: {str(error).splitlines()[0]}") from error
    return items


def official_pubmedqa(folder: str | Path | None = None) -> set[str]:
    """The 500 PMIDs of PubMedQA's test split: from ``folder`` (``pubmedqa_test500.jsonl.gz`` or the authors'
    ``test_ground_truth.json``), else from the authors' repository. Raises Unreachable."""
    here = Path(folder or "").expanduser()
    found = next((here / name for name in PUBMEDQA_FILES if folder and (here / name).exists()), None)
    try:
        if found is not None:
            pmids = set(json.loads(found.read_text(encoding="utf-8")) if found.suffix == ".json" else (item.id for item in read_items(found)))
        elif offline() or hub_problem():
            raise OSError("no network")
        else:
            pmids = set(within(PROBE_SECONDS + 0.5, lambda: httpx.get(PUBMEDQA_LIST, timeout=PROBE_SECONDS, follow_redirects=True).raise_for_status().json()))
    except (httpx.HTTPError, OSError, ValueError) as error:
        raise Unreachable("pubmedqa", f"the official list of test PMIDs cannot be had (give a folder that holds {PUBMEDQA_FILES[0]} or {PUBMEDQA_FILES[-1]})") from error
    if hashlib.sha256("\n".join(sorted(pmids)).encode()).hexdigest() != PUBMEDQA_SHA256:
        raise Unreachable("pubmedqa", "the official list of test PMIDs is not the one known")
    return pmids
