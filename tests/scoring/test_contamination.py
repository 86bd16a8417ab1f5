"""The clean subset: what was trained on against the test sets, and scores with and without what matches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.items import make_item
from helpers.predictions import ITEMS, folder, rows

from gazal.common.errors import GazalError
from gazal.common.files import write_json
from gazal.items.schema import Item
from gazal.items.writing import write_items_parquet
from gazal.recipe.data import CurationSection
from gazal.scoring.contamination import FILE, measure_contamination, read_unclean, unclean
from gazal.scoring.score import score_folder

STEM = "A 45-year-old man with sarcoidosis presents to the clinic with a painful red eye, photophobia and blurred vision for three days"


def vignette(name: str, stem: str = STEM, **fields: object) -> Item:
    options = {"A": "anterior uveitis", "B": "acute glaucoma", "C": "bacterial keratitis", "D": "episcleritis"}
    return Item(
        id=name, question=f"{stem}. What is the most likely diagnosis?", options=options, answer_idx="A", **fields
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    write_items_parquet(folder / "sft.parquet", [make_item(i, reasoning="because") for i in range(20)])
    write_items_parquet(folder / "grpo.parquet", [*(make_item(i) for i in range(30, 40)), vignette("leaked")])
    write_json(
        folder / "report.json",
        {
            "counts": {"sft": {"multiple choice": 20}, "grpo": {"multiple choice": 11}},
            "curation": {"tests": {"other": {"removed_exact": 2, "removed_near": 1}}},
        },
    )
    return folder


def test_matches_and_pairs_are_found_and_written(data: Path, tmp_path: Path) -> None:
    other = "A 61-year-old woman has had progressive shortness of breath, orthopnoea and ankle swelling since an inferior myocardial infarction last year"
    tests = {
        "eyes": [vignette("t1", STEM.upper() + " "), vignette("t2", other)],
        "other": [vignette("o1", other), vignette("o2", other.replace(",", ""))],
    }
    found = measure_contamination(data, tests, CurationSection(), tmp_path / "eval", lambda line: None)
    assert found == json.loads((tmp_path / "eval" / FILE).read_text())["tests"]
    assert list(found["eyes"]["matched"]) == ["t1"] and found["eyes"]["matched"]["t1"]["train_id"] == "leaked"
    assert found["other"]["matched"] == {} and [pair[:2] for pair in found["other"]["pairs"]] == [["o1", "o2"]]
    assert (found["eyes"]["removed_exact"], found["other"]["removed_exact"], found["other"]["removed_near"]) == (
        None,
        2,
        1,
    )
    assert {entry["training_documents"] for entry in found.values()} == {31}
    assert read_unclean(tmp_path / "eval") == {"eyes": {"t1"}, "other": {"o2"}}


def test_clean_scores_leave_out_what_matches(tmp_path: Path) -> None:
    folder(tmp_path, sft=rows("rrrrwwwwwwww"))
    assert score_folder(tmp_path)["models"]["sft"]["benchmarks"]["test"]["clean"] is None
    entry = {
        "items": len(ITEMS),
        "training_documents": 3,
        "removed_exact": None,
        "removed_near": None,
        "matched": {"item-0": {}},
        "pairs": [["item-5", "item-1", "exact", 1.0]],
    }
    write_json(tmp_path / FILE, {"tests": {"test": entry}})
    score = score_folder(tmp_path)["models"]["sft"]["benchmarks"]["test"]
    assert (score["n"], score["accuracy"]) == (12, round(4 / 12, 6))
    assert (score["clean"]["n"], score["clean"]["accuracy"]) == (10, 0.2) and score["clean"]["ci95"][0] < 0.2 < score[
        "clean"
    ]["ci95"][1]


def test_duplicates_of_a_matched_item_are_unclean_too() -> None:
    pairs = [["a", "b", "exact", 1.0], ["b", "c", "near", 0.8], ["d", "e", "exact", 1.0]]
    assert unclean({"matched": {"c": {}}, "pairs": pairs}) == {"a", "b", "c", "e"}
    assert unclean({"matched": {}, "pairs": pairs}) == {"b", "c", "e"}


@pytest.mark.parametrize("text", ["{", "[]", '{"tests": {"test": {}}}'])
def test_a_broken_report_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(GazalError, match="not a contamination report"):
        read_unclean(tmp_path)
