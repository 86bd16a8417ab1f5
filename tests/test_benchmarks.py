"""Benchmarks from a folder, from hub-shaped files, and from anybody's items file; and what cannot be had."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path

import datasets
import pytest
import shapes_samples
from conftest import make_item
from shapes_samples import write_rows

from gazal import hub
from gazal.errors import GazalError
from gazal.evaluation import benchmarks
from gazal.evaluation.benchmarks import BENCHMARKS, SOURCES, Unreachable, benchmark_name, load_benchmark, load_benchmarks, official_pubmedqa
from gazal.items import write_items_jsonl

FOLDER = Path(__file__).resolve().parent.parent.parent / "shared" / "benchmarks"
here = pytest.mark.skipif(not FOLDER.is_dir(), reason="the benchmarks folder is not here")


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@here
def test_the_published_counts_and_their_fields():
    found, not_run = load_benchmarks(BENCHMARKS, FOLDER)
    assert {name: len(items) for name, items in found.items()} == {
        "medqa": 1273, "medmcqa": 4183, "pubmedqa": 500, "mmlu_pro_health": 818, "mmlu_pro_biology": 717, "mmlu_pro_medical": 1535,
    }
    assert not not_run
    assert all(item.context for item in found["pubmedqa"])
    assert all(list(item.options.values()) == ["yes", "no", "maybe"] for item in found["pubmedqa"])
    assert {item.subject for item in found["mmlu_pro_medical"]} == {"health", "biology"}
    assert len({item.subject for item in found["medmcqa"]}) > 10


@here
def test_a_sample_is_seeded_and_in_order():
    whole = [item.id for item in load_benchmark("medqa", FOLDER)]
    first, again, other = ([i.id for i in load_benchmark("medqa", FOLDER, 50, seed)] for seed in (1, 1, 2))
    assert first == again != other
    assert [whole.index(name) for name in first] == sorted(whole.index(name) for name in first)


@here
def test_option_texts_are_one_line_and_pubmedqa_has_its_pmids():
    found, _ = load_benchmarks(BENCHMARKS, FOLDER)
    assert not [item.id for items in found.values() for item in items for text in item.options.values() if text != " ".join(text.split())]
    assert all(item.pmid == item.id for item in found["pubmedqa"])


@here
def test_the_official_pubmedqa_list_is_that_of_the_folder(tmp_path, monkeypatch):
    import httpx

    pmids = {item.id: "yes" for item in load_benchmark("pubmedqa", FOLDER)}
    assert official_pubmedqa(FOLDER) == set(pmids)
    (tmp_path / "test_ground_truth.json").write_text(json.dumps(pmids))
    assert official_pubmedqa(tmp_path) == set(pmids)
    monkeypatch.setattr(benchmarks, "offline", lambda: False)
    monkeypatch.setattr(benchmarks, "hub_problem", lambda: None)
    answer = httpx.Response(200, json=pmids, request=httpx.Request("GET", benchmarks.PUBMEDQA_LIST))
    monkeypatch.setattr(httpx, "get", lambda *_, **__: answer)
    assert official_pubmedqa() == set(pmids)


@pytest.mark.parametrize("text", ['{"1": "yes"}', "{"])
def test_another_pubmedqa_list_is_refused(tmp_path, text):
    (tmp_path / "test_ground_truth.json").write_text(text)
    with pytest.raises(Unreachable, match="pubmedqa: the official list of test PMIDs"):
        official_pubmedqa(tmp_path)


def test_any_items_file_is_a_benchmark(tmp_path):
    path = tmp_path / "my.quiz.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as handle:
        handle.writelines(json.dumps(make_item(n).model_dump(exclude_none=True)) + "\n" for n in range(7))
    assert benchmark_name(str(path)) == "my.quiz"
    assert len(load_benchmark(str(path))) == 7
    assert [i.id for i in load_benchmark(str(path), limit=3)] == [i.id for i in load_benchmark(str(path), limit=3)]


@pytest.mark.parametrize(("name", "sample", "ids"), [
    ("medqa", shapes_samples.medqa(4), [f"medqa-test-{n}" for n in range(4)]), ("medmcqa", shapes_samples.medmcqa(4), [f"row-{n}" for n in range(4)]),
    ("pubmedqa", shapes_samples.pubmedqa(4), ["101", "103"]), ("mmlu_pro_health", shapes_samples.mmlu_pro(6), ["mmlupro-0", "mmlupro-2", "mmlupro-4"]),
])
def test_the_hub_path_on_a_local_folder_of_the_same_shape(tmp_path, monkeypatch, name, sample, ids):
    monkeypatch.setattr(benchmarks, "official_pubmedqa", lambda: {"101", "103"})
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_rows(tmp_path / "set" / f"{SOURCES[name].split}.parquet", sample)
    monkeypatch.setitem(SOURCES, name, SOURCES[name]._replace(hub=str(tmp_path / "set"), count=len(ids)))
    items = load_benchmark(name)
    assert [item.id for item in items] == ids and all(item.reasoning is None for item in items)
    monkeypatch.setitem(SOURCES, name, SOURCES[name]._replace(count=818))
    with pytest.raises(GazalError, match=f"{len(ids)} items found, the published set has 818"):
        load_benchmark(name)


def test_a_row_of_the_hub_that_is_no_item_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_rows(tmp_path / "set" / "test.jsonl", [*shapes_samples.medqa(2), shapes_samples.medqa(1)[0] | {"answer_idx": "E"}])
    monkeypatch.setitem(SOURCES, "medqa", SOURCES["medqa"]._replace(hub=str(tmp_path / "set"), count=3))
    with pytest.raises(GazalError, match="benchmark medqa: .*row 3: answer 'E' is no letter of the options"):
        load_benchmark("medqa")


def test_offline_is_said_at_once():
    assert hub.offline()  # see conftest.py
    began = time.monotonic()
    with pytest.raises(Unreachable, match="medqa: GBaker/MedQA.* HF_HUB_OFFLINE is set and it is not in the local cache., and no benchmarks folder is given"):
        load_benchmark("medqa")
    assert time.monotonic() - began < 10


def test_bad_folders_and_names(tmp_path):
    with pytest.raises(GazalError, match="no such folder"):
        load_benchmark("medqa", tmp_path / "absent")
    found, not_run = load_benchmarks(["pubmedqa"], tmp_path)
    assert not_run == {"pubmedqa": "pubmedqa_test500.jsonl.gz is not in the benchmarks folder"}
    with pytest.raises(GazalError, match="benchmark medquad: unknown .known: medqa, "):
        load_benchmark("medquad")
    write_items_jsonl(tmp_path / "medqa_test_4opt.jsonl", [make_item(1)])
    with pytest.raises(GazalError, match="1 items found, the published set has 1273"):
        load_benchmark("medqa", tmp_path)
    write_items_jsonl(tmp_path / "a.jsonl", [make_item(1)])
    with pytest.raises(GazalError, match="a is asked for twice"):
        load_benchmarks([str(tmp_path / "a.jsonl")] * 2)


GOOD = json.dumps(make_item(0).model_dump(exclude_none=True))


@pytest.mark.parametrize(("line", "message"), [
    (GOOD.replace("item-0", "item-9")[:-20], "row 2: not JSON"),
    (json.dumps({"id": "k", "question": "?", "options": {"A": "a", "B": "b"}, "answer_idx": "C"}), "row 2: answer_idx: 'C' is not among"),
    (json.dumps({"id": "k", "question": "?", "options": {"A": "a"}, "answer_idx": "A"}), "row 2: options: expected 2 to 10, found 1"),
    (GOOD, "row 2: id: 'item-0' is also row 1"),
])
def test_bad_lines_name_file_row_and_field(tmp_path, line, message):
    path = write(tmp_path / "items.jsonl", [GOOD, line])
    with pytest.raises(GazalError) as error:
        load_benchmark(str(path))
    assert str(error.value).startswith(f"{path}: {message}")
    assert "\n" not in str(error.value)
