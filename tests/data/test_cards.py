"""Dataset cards: front matter that the hub and `datasets` accept, and numbers that are the files' own."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
import yaml
from datasets.utils.metadata import known_task_ids
from datasets.utils.resources import __file__ as resources
from huggingface_hub import DatasetCard, DatasetCardData
from hypothesis import given
from hypothesis import strategies as st

from gazal import DISCLAIMER
from gazal.common.errors import GazalError
from gazal.data.cards import LICENCES, NOT_STATED, size_category, write_cards
from gazal.data.splits import make_splits
from gazal.recipe.load import load_recipe
from gazal.recipe.recipe import Recipe

SIZES = json.loads((Path(resources).parent / "size_categories.json").read_text())
STRUCTURED = [
    {
        "case": f"Case {i}: a patient of {30 + i} with chest pain since {i} days and a cough.",
        "reasoning": f"Step 1: think of cause {i}.",
        "answer": f"## Clinical Assessment\n**Primary Diagnosis** Disease number {i}.",
    }
    for i in range(12)
]
OVERRIDES = ["data.sft=40", "data.grpo=24", "data.dev=12", "data.test=16"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe]:
    """The data folder of a run: SFT examples from a local stand-in of a corpus and knowledge-derived ones; the rest knowledge-derived."""
    folder = tmp_path_factory.mktemp("cards")
    local = folder / "structured_medical.jsonl"
    local.write_text(
        "".join(json.dumps(row) + "\n" for row in [*STRUCTURED, {"case": "Empty", "reasoning": " ", "answer": "x"}])
    )
    sources = f"[{{name: {local}, use: sft, shape: structured_medical}}, {{name: synth, use: sft, shape: synth}}, {{name: synth, use: grpo, shape: synth}}]"
    recipe = load_recipe("embedded", [*OVERRIDES, f"data.sources={sources}"])
    make_splits(recipe, folder / "data", None, lambda line: None)
    write_cards(folder / "data", recipe)
    return folder / "data", recipe


def card(folder: Path, name: str) -> tuple[dict[str, Any], str]:
    text = (folder / "cards" / f"{name}.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


@pytest.mark.parametrize("name", ["sft", "grpo", "test"])
def test_front_matter_is_the_hubs(made: tuple[Path, Recipe], name: str) -> None:
    folder, recipe = made
    front, body = card(folder, name)
    assert (
        front["license"] == "other"
        and front["license_name"]
        and front["language"] == "en"
        and "medical" in front["tags"]
        and recipe.name in front["pretty_name"]
    )
    assert front["size_categories"] in SIZES and set(front["task_categories"]) <= {
        *known_task_ids,
        "reinforcement-learning",
    }
    loaded = DatasetCard.load(folder / "cards" / f"{name}.md")
    assert (
        isinstance(loaded.data, DatasetCardData)
        and loaded.data.to_dict() == front
        and DatasetCard(str(loaded)).data.to_dict() == front
    )
    files = {split["split"]: folder / split["path"] for config in front["configs"] for split in config["data_files"]}
    assert set(files) == ({"train"} if name != "test" else {"validation", "test"})
    infos = front["dataset_info"] if isinstance(front["dataset_info"], list) else [front["dataset_info"]]
    assert {s["name"]: s["num_examples"] for info in infos for s in info["splits"]} == {
        split: pq.read_metadata(path).num_rows for split, path in files.items()
    }
    for heading in ("## Sources", "## Counts", "## Curation", "## Limits", "## Disclaimer"):
        assert body.count(heading) == 1
    assert DISCLAIMER in body and str(folder) not in body and "{{" not in body and "None" not in body


@pytest.mark.parametrize("name", ["sft", "grpo", "test"])
def test_datasets_loads_what_the_card_describes(
    made: tuple[Path, Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder, _ = made
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    repo = tmp_path / name
    repo.mkdir()
    shutil.copy(folder / "cards" / f"{name}.md", repo / "README.md")
    front, _ = card(folder, name)
    for config in front["configs"]:
        for split in config["data_files"]:
            shutil.copy(folder / split["path"], repo)
    for config in front["configs"]:
        rows = datasets.load_dataset(str(repo), config["config_name"])
        assert {split: len(part) for split, part in rows.items()} == {
            split["split"]: pq.read_metadata(folder / split["path"]).num_rows for split in config["data_files"]
        }


def numbers(body: str, heading: str) -> list[list[str]]:
    """The cells of the tables under a heading."""
    section = re.search(rf"^## {heading}$(.*?)(?=^## |\Z)", body, re.M | re.S)
    assert section
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section[1].splitlines()
        if line.startswith("|") and "---" not in line
    ]


def test_numbers_are_the_files(made: tuple[Path, Recipe]) -> None:
    folder, _ = made
    report = json.loads((folder / "report.json").read_text())
    for name, split in (("sft", "sft"), ("grpo", "grpo")):
        _, body = card(folder, name)
        head, line = numbers(body, "Counts")
        assert dict(zip(head, line, strict=True)) == {
            "split": "train",
            **{kind: str(n) for kind, n in report["counts"][split].items()},
            "together": str(sum(report["counts"][split].values())),
        }
        assert sum(int(line[-1]) for line in numbers(body, "Sources")[1:]) == sum(report["counts"][split].values())
        counts = report["curation"]["counts"]
        assert f"Of {counts['read']:,} training items read" in body and f"{counts['kept']:,} were kept" in body
        assert [[reason, str(n)] for reason, n in counts["removed"].items() if n] == [
            cells for cells in numbers(body, "Curation") if cells[0] in counts["removed"]
        ]
    _, body = card(folder, "test")
    assert ["matched findings", f"{100 * report['baselines']['matched_findings']['accuracy']:.1f} %"] in numbers(
        body, "Curation"
    )
    for test, reason in report["curation"]["not_compared"].items():
        assert f"Not compared with {test}: {reason}." in body
    assert (
        report["curation"]["not_compared"]
        and "HPO" in body
        and report["release"] in body
        and "open-medicine" in body
        and "doi:10." in body
    )


def test_a_corpus_is_named_with_its_licence_or_that_none_is_known(made: tuple[Path, Recipe]) -> None:
    folder, _ = made
    _, body = card(folder, "sft")
    local = next(line for line in numbers(body, "Sources") if "structured_medical" in line[0])
    assert (
        local[:3] == ["structured_medical.jsonl, local file", NOT_STATED, NOT_STATED]
        and "no licence statement was at hand" in body
    )
    assert ["structured_medical.jsonl", "reasoning is empty or no text", "1"] in numbers(body, "Curation")
    _, body = card(folder, "grpo")
    assert "structured_medical" not in body and NOT_STATED not in body


def test_a_hub_corpus_has_its_revision_and_licence(made: tuple[Path, Recipe], tmp_path: Path) -> None:
    folder, recipe = made
    shutil.copytree(folder, tmp_path / "run")
    report = json.loads((folder / "report.json").read_text())
    report["sources"][0] |= {"name": "TIGER-Lab/MMLU-Pro", "revision": "0123abc"}
    (tmp_path / "run" / "report.json").write_text(json.dumps(report))
    write_cards(tmp_path / "run", recipe)
    front, body = card(tmp_path / "run", "sft")
    assert front["source_datasets"] == "TIGER-Lab/MMLU-Pro" or front["source_datasets"] == ["TIGER-Lab/MMLU-Pro"]
    line = next(line for line in numbers(body, "Sources") if "MMLU-Pro" in line[0])
    assert "revision 0123abc" in line[0] and line[1] == LICENCES["TIGER-Lab/MMLU-Pro"].text and "Apache-2.0" in line[1]


def test_splits_of_unlike_columns_are_two_configs(made: tuple[Path, Recipe], tmp_path: Path) -> None:
    folder, recipe = made
    shutil.copytree(folder, tmp_path / "run")
    table = pq.read_table(folder / "dev.parquet")
    pq.write_table(table.select(["id", "question", "options", "answer_idx"]), tmp_path / "run" / "dev.parquet")
    write_cards(tmp_path / "run", recipe)
    front, _ = card(tmp_path / "run", "test")
    assert [config["config_name"] for config in front["configs"]] == ["dev", "test"] and [
        len(info["features"]) for info in front["dataset_info"]
    ] == [4, len(table.column_names)]


def test_what_is_missing_is_one_line(made: tuple[Path, Recipe], tmp_path: Path) -> None:
    folder, recipe = made
    with pytest.raises(GazalError, match=r"report\.json: no such file"):
        write_cards(tmp_path, recipe)
    shutil.copytree(folder, tmp_path / "run", ignore=shutil.ignore_patterns("cards", "grpo.parquet"))
    with pytest.raises(GazalError, match=r"grpo\.parquet: no such file"):
        write_cards(tmp_path / "run", recipe)
    shutil.copy(folder / "report.json", tmp_path / "run" / "grpo.parquet")
    with pytest.raises(GazalError, match="cannot be made"):
        write_cards(tmp_path / "run", recipe)
    (tmp_path / "run" / "report.json").write_text("{}")
    with pytest.raises(GazalError, match=r"report\.json: sources: is missing"):
        write_cards(tmp_path / "run", recipe)
    assert not (tmp_path / "run" / "cards").exists()


@given(st.integers(0, 10**9))
def test_size_category_holds_the_number(rows: int) -> None:
    name = size_category(rows)
    assert name in SIZES
    units = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}
    bounds = [int(number) * units[unit] for number, unit in re.findall(r"(\d+)([KMB]?)", name)]
    low, high = (0, bounds[0]) if name.startswith("n<") else bounds
    assert low <= rows < high or rows == high == 10**9
