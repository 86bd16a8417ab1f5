"""The four splits from stand-ins of the paper's corpora and from knowledge-derived items, curated and written for real."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from helpers.formats import check
from helpers.shapes_samples import lettered, medical_grpo, medreason, question, structured_medical, write_rows

from gazal.common.errors import GazalError
from gazal.data.schemas import DataReport
from gazal.data.splits import TESTS, make_splits
from gazal.items.reading import read_items
from gazal.items.schema import Item
from gazal.items.writing import write_items_jsonl
from gazal.recipe.load import load_recipe
from gazal.recipe.recipe import Recipe

SMALL = [
    "data.n_diseases=60",
    "data.sft=40",
    "data.grpo=24",
    "data.dev=12",
    "data.test=12",
    "evaluation.benchmarks=[medqa]",
]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def build(
    recipe: Recipe, folder: Path, benchmarks: Path | None = None
) -> tuple[dict[str, list[Item]], dict[str, Any], list[str]]:
    said: list[str] = []
    summary = make_splits(recipe, folder, benchmarks, said.append)
    check(DataReport, summary)
    assert json.loads((folder / "report.json").read_text(encoding="utf-8")) == summary
    return (
        {
            split: read_items(folder / f"{split}.parquet", training=split == "sft")
            for split in ("sft", "grpo", "dev", "test")
        },
        summary,
        said,
    )


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of the three corpora: 60 rows each; MedReason asks one question of medical_grpo again, and medical_grpo has a row without options."""
    folder = tmp_path_factory.mktemp("corpora")
    again = medreason(1)[0] | {"question": question(2003), "options": lettered(2003)}
    return {
        "structured": write_rows(folder / "structured.json", structured_medical(60)),
        "reason": write_rows(folder / "reason.jsonl", [*medreason(59), again]),
        "grpo": write_rows(
            folder / "grpo.parquet", [*medical_grpo(59), {"question": "Which one is it?", "answer": "A"}]
        ),
    }


def mixed(stand_ins: dict[str, Path], *more: str) -> Recipe:
    names = [f"data.sources.{n}.name={stand_ins[name]}" for n, name in ((0, "structured"), (1, "reason"), (3, "grpo"))]
    return load_recipe("mixed", [*SMALL, *names, *more])


@pytest.fixture(scope="module")
def built(
    stand_ins: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, list[Item]], dict[str, Any], list[str], Path]:
    folder = tmp_path_factory.mktemp("run") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        return (*build(mixed(stand_ins), folder), folder)


def origins(items: list[Item]) -> dict[str, int]:
    names = [(item.source or "").split(",")[0] for item in items]
    return {
        name: names.count(name)
        for name in sorted(set(names) - {n for n in names if not n.startswith(("structured", "reason", "grpo"))})
    }


def test_the_mixed_recipe_from_stand_ins_shares_by_weight(built):
    splits, summary, said, _ = built
    assert {split: len(items) for split, items in splits.items()} == {"sft": 40, "grpo": 24, "dev": 12, "test": 12}
    assert (
        origins(splits["sft"]) == {"reason.jsonl": 10, "structured.json": 10}
        and sum(item.reasoning_type is not None for item in splits["sft"]) == 20
    )
    assert (
        origins(splits["grpo"]) == {"grpo.parquet": 6}
        and origins(splits["dev"]) == {"grpo.parquet": 3}
        and not origins(splits["test"])
    )
    assert [one["used"] for one in summary["sources"]] == [
        {"sft": 10},
        {"sft": 10},
        {"sft": 20},
        {"grpo": 6, "dev": 3},
        {"grpo": 18, "dev": 9},
    ]
    assert summary["shared_questions"] == 0 and summary["counts"]["sft"]["free text"] == 10 and "sft: 40 items" in said
    assert not any(str(Path(built[3]).parent) in line for line in said) and all(
        "/" not in one["name"] for one in summary["sources"]
    )


def test_what_is_removed_or_set_aside_is_in_the_report(built):
    _, summary, said, folder = built
    assert summary["sources"][3]["set_aside"] == {"options not found in the text": ["medical_grpo-60"]}
    removals = [json.loads(line) for line in (folder / "removals.jsonl").read_text(encoding="utf-8").splitlines()]
    again = next(line for line in removals if line["id"] == "medreason-60")
    assert (
        again["match_id"] == "medical_grpo-4"
        and again["against"] == "train"
        and again["file"] == "1-sft-medreason.jsonl"
    )
    counts = summary["curation"]["counts"]
    assert counts["read"] == counts["kept"] + sum(counts["removed"].values()) == 60 + 60 + 20 + 59 + 18
    assert set(summary["curation"]["tests"]) == {"dev", "test"} and set(summary["curation"]["not_compared"]) == set(
        TESTS
    )
    assert all("not in the local cache" in reason for reason in summary["curation"]["not_compared"].values())
    assert not [text for text in summary["curation"]["not_checked"] if "tokenizer" in text] and any(
        line.startswith("medqa: not compared: ") for line in said
    )


def test_the_same_recipe_gives_the_same_splits_and_another_seed_others(built, stand_ins, tmp_path):
    again, _, _ = build(mixed(stand_ins), tmp_path / "a")
    other, _, _ = build(mixed(stand_ins, "seed=2"), tmp_path / "b")
    assert again == built[0] and all(
        [i.id for i in other[split]] != [i.id for i in items] for split, items in built[0].items()
    )


def test_a_training_item_of_a_benchmark_is_removed(stand_ins, tmp_path, monkeypatch):
    from gazal.data import benchmarks

    asked = [
        Item(
            id=f"medqa-test-{i}",
            question=question(2000 + i),
            options=dict(zip("ABCD", (line[3:] for line in lettered(2000 + i).splitlines()), strict=True)),
            answer_idx="A",
        )
        for i in range(5)
    ]
    write_items_jsonl(tmp_path / "bench" / "medqa_test_4opt.jsonl", asked)
    monkeypatch.setitem(benchmarks.SOURCES, "medqa", benchmarks.SOURCES["medqa"]._replace(count=5))
    splits, summary, _ = build(mixed(stand_ins), tmp_path / "data", tmp_path / "bench")
    assert summary["curation"]["tests"]["medqa"]["items_hit"] == [item.id for item in asked]
    assert not {item.question for item in asked} & {
        item.question for split in ("sft", "grpo", "dev") for item in splits[split]
    }
    assert set(summary["curation"]["not_compared"]) == set(TESTS) - {"medqa"}


def test_dev_of_the_corpora_alone_is_held_out(stand_ins, tmp_path):
    sources = f"data.sources=[{{name: {stand_ins['structured']}, use: sft, shape: structured_medical}},{{name: {stand_ins['grpo']}, use: grpo, shape: medical_grpo}}]"
    splits, summary, said = build(load_recipe("embedded", [*SMALL, sources, "data.sft=200"]), tmp_path / "data")
    assert origins(splits["dev"]) == {"grpo.parquet": 12} and origins(splits["grpo"]) == {"grpo.parquet": 24}
    assert not {item.id for item in splits["dev"]} & {item.id for item in splits["grpo"]}
    assert (
        set(summary["curation"]["tests"]) == {"test"}
        and "data.sources.0: structured.json: 60 examples, 140 fewer than its share of sft" in said
        and "sft: 60 items, of 200 asked for" in said
    )


def test_too_few_questions_for_dev_and_grpo_are_one_line(stand_ins, tmp_path):
    few = write_rows(tmp_path / "few.jsonl", medical_grpo(1))
    sources = f"data.sources=[{{name: {stand_ins['structured']}, use: sft, shape: structured_medical}},{{name: {few}, use: grpo, shape: medical_grpo}}]"
    with pytest.raises(GazalError, match="data.dev: no item is left for it"):
        make_splits(load_recipe("embedded", [*SMALL, sources]), tmp_path / "data", None, lambda line: None)
    assert not list((tmp_path / "data").glob("*.parquet"))


def test_the_embedded_recipe_keeps_its_items_and_their_order(tmp_path):
    splits, summary, _ = build(load_recipe("embedded", SMALL), tmp_path / "data")
    for split, count in (("sft", 40), ("grpo", 24), ("dev", 12), ("test", 12)):
        name = {"sft": "0-sft-synth", "grpo": "1-grpo-synth"}.get(split, split)
        drawn = [
            json.loads(line)["id"]
            for line in (tmp_path / "data" / "sources" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        kept = [item.id for item in splits[split]]
        assert (
            len(drawn) == count
            and kept == [name for name in drawn if name in set(kept)]
            and (split in ("sft", "grpo") or len(kept) == count)
        )
    assert (
        summary["depth"].keys() == {"brief", "full"}
        and summary["baselines"]["chance"]["accuracy"] > 0.2
        and summary["attribution"]
    )
