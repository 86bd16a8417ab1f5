"""Benchmarks from a folder, from hub-shaped files, and from anybody's items file; and what cannot be had."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import shapes_samples
from helpers.items import make_item
from helpers.shapes_samples import write_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from gazal.common import hub
from gazal.common.errors import GazalError
from gazal.common.hub import Unreachable
from gazal.common.paths import ROOT
from gazal.data import benchmarks
from gazal.data.benchmarks import (
    BENCHMARKS,
    SOURCES,
    benchmark_name,
    development_items,
    load_benchmark,
    load_benchmarks,
    official_pubmedqa,
)
from gazal.data.repeats import asking, repeats
from gazal.items.writing import write_items_jsonl

FOLDER = ROOT.parent / "shared" / "benchmarks"
here = pytest.mark.skipif(not FOLDER.is_dir(), reason="the benchmarks folder is not here")


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@here
def test_the_published_counts_and_their_fields():
    found, not_run = load_benchmarks([name for name in BENCHMARKS if name != "medqa_5opt"], FOLDER)
    assert {name: len(items) for name, items in found.items()} == {
        "medqa": 1273,
        "medmcqa": 4183,
        "pubmedqa": 500,
        "mmlu_pro_health": 818,
        "mmlu_pro_biology": 717,
        "mmlu_pro_medical": 1535,
    }
    assert not not_run
    assert all(
        len(item.options) == SOURCES[name].options for name in ("medqa", "medmcqa", "pubmedqa") for item in found[name]
    )
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
    found, _ = load_benchmarks(SOURCES, FOLDER)
    assert not [
        item.id
        for items in found.values()
        for item in items
        for text in item.options.values()
        if text != " ".join(text.split())
    ]
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


def test_medqa_with_five_options_has_a_key_of_its_own(tmp_path):
    found, not_run = load_benchmarks(["medqa_5opt"], tmp_path)
    assert not found and not_run == {"medqa_5opt": "medqa_test_5opt.jsonl.gz is not in the benchmarks folder"}
    for options, message in (
        (5, None),
        (4, "benchmark medqa_5opt: item 'item-0' has 4 options, those of the published set have 5"),
    ):
        write_items_jsonl(tmp_path / "medqa_test_5opt.jsonl", [make_item(n, options) for n in range(1273)])
        if message:
            with pytest.raises(GazalError, match=message):
                load_benchmark("medqa_5opt", tmp_path)
        else:
            assert {len(item.options) for item in load_benchmark("medqa_5opt", tmp_path)} == {5}


@here
def test_development_items_are_there_and_none_is_asked():
    for name, count in {
        "medqa": 1272,
        "medmcqa": 1000,
        "pubmedqa": 500,
        "mmlu_pro_health": 5,
        "mmlu_pro_medical": 5,
    }.items():
        shown, asked = development_items(name, FOLDER), load_benchmark(name, FOLDER)
        assert len(shown) == count and not {item.id for item in shown} & {item.id for item in asked}
        overlap = {asking(item) for item in asked} & {asking(item) for item in shown}
        assert len(overlap) == (name == "medmcqa"), name  # it is left out by its text: test_prompting
    with pytest.raises(
        Unreachable, match="mmlu_pro_biology: mmlu_pro_biology_val5.jsonl.gz is not in the benchmarks folder"
    ):
        development_items("mmlu_pro_biology", FOLDER)


@here
def test_the_repeats_of_the_published_sets():
    found = {
        name: repeats(load_benchmark(name, FOLDER))
        for name in ("medqa", "medmcqa", "pubmedqa", "mmlu_pro_health", "mmlu_pro_biology", "mmlu_pro_medical")
    }
    assert {name: len(ids) for name, ids in found.items()} == {
        "medqa": 0,
        "medmcqa": 6,
        "pubmedqa": 0,
        "mmlu_pro_health": 95,
        "mmlu_pro_biology": 0,
        "mmlu_pro_medical": 95,
    }


@pytest.mark.parametrize(
    ("change", "is_one"),
    [
        ({}, True),
        ({"answer_idx": "D"}, True),
        ({"question": "  QUESTION 1 "}, True),
        ({"question": "Question 1:"}, True),
        ({"question": "Quéstion 1?"}, True),
        (
            {"options": {"A": "option b of 1.", "B": "Option A of 1", "C": "option d  of 1", "D": "“option c” of 1"}},
            True,
        ),
        ({"subject": "x"}, True),
        ({"question": "Question 2?"}, False),
        ({"options": {"A": "option a of 1", "B": "option b of 1"}}, False),
        ({"context": ["Another study."]}, False),
        ({"options": {"A": "option -a of 1", "B": "option b of 1", "C": "option c of 1", "D": "option d of 1"}}, False),
    ],
)
def test_what_repeats_an_earlier_item(change, is_one):
    first, again = make_item(1), make_item(1).model_copy(update={"id": "again", **change})
    assert repeats([first, make_item(7), again]) == ({"again"} if is_one else set())
    assert repeats([again, make_item(7), first]) == ({"item-1"} if is_one else set())


@settings(max_examples=50)
@given(data=st.data())
def test_repeats_are_counted_once_each(data):
    numbers = data.draw(st.lists(st.integers(0, 5), max_size=20))
    items = [make_item(number, id=f"{place}") for place, number in enumerate(numbers)]
    assert len(items) - len(repeats(items)) == len(set(numbers))
    assert repeats(items) == {str(place) for place, number in enumerate(numbers) if number in numbers[:place]}


@pytest.mark.parametrize(
    ("name", "sample", "ids"),
    [
        ("medqa", shapes_samples.medqa(4), [f"medqa-test-{n}" for n in range(4)]),
        ("medmcqa", shapes_samples.medmcqa(4), [f"row-{n}" for n in range(4)]),
        ("pubmedqa", shapes_samples.pubmedqa(4), ["101", "103"]),
        ("mmlu_pro_health", shapes_samples.mmlu_pro(6), ["mmlupro-0", "mmlupro-2", "mmlupro-4"]),
    ],
)
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


def test_five_options_and_development_items_by_the_hub_path(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for split in ("test", "validation"):
        write_rows(
            tmp_path / "five" / "med_qa_en_source" / f"{split}-00000-of-00001.parquet",
            shapes_samples.medqa_listed(6, 10 if split == "validation" else 0),
        )
    monkeypatch.setitem(SOURCES, "medqa_5opt", SOURCES["medqa_5opt"]._replace(hub=str(tmp_path / "five"), count=6))
    items, shown = load_benchmark("medqa_5opt"), development_items("medqa_5opt")
    assert [item.id for item in items] == [f"medqa-test-{n}" for n in range(6)] and {
        len(item.options) for item in items
    } == {5}
    assert {item.answer_idx for item in items} == {"B"} and items[0].options["E"] == "none of these"
    assert [item.id for item in shown] == [f"medqa-validation-{n}" for n in range(6)] and not set(
        map(asking, items)
    ) & set(map(asking, shown))


def test_pubmedqas_development_items_are_what_is_not_tested(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks, "official_pubmedqa", lambda: {"101", "103"})
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_rows(tmp_path / "set" / "train.parquet", shapes_samples.pubmedqa(6))
    monkeypatch.setitem(SOURCES, "pubmedqa", SOURCES["pubmedqa"]._replace(hub=str(tmp_path / "set"), count=2))
    assert [item.id for item in load_benchmark("pubmedqa")] == ["101", "103"]
    assert [item.id for item in development_items("pubmedqa")] == ["100", "102", "104", "105"]


def test_of_a_large_training_split_a_seeded_draw_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(benchmarks, "DEVELOPMENT_ROWS", 20)
    write_rows(tmp_path / "set" / "train.parquet", shapes_samples.medmcqa(200))
    monkeypatch.setitem(SOURCES, "medmcqa", SOURCES["medmcqa"]._replace(hub=str(tmp_path / "set")))
    one, same, other = ([item.id for item in development_items("medmcqa", seed=seed)] for seed in (1, 1, 2))
    assert one == same != other and len(one) == 20 == len(set(one))


def test_a_row_of_the_hub_that_is_no_item_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_rows(
        tmp_path / "set" / "test.jsonl", [*shapes_samples.medqa(2), shapes_samples.medqa(1)[0] | {"answer_idx": "E"}]
    )
    monkeypatch.setitem(SOURCES, "medqa", SOURCES["medqa"]._replace(hub=str(tmp_path / "set"), count=3))
    with pytest.raises(GazalError, match="benchmark medqa: .*row 3: answer 'E' is no letter of the options"):
        load_benchmark("medqa")


def test_offline_is_said_at_once():
    assert hub.offline()  # see conftest.py
    with pytest.raises(
        Unreachable,
        match="medqa: GBaker/MedQA.* HF_HUB_OFFLINE is set and it is not in the local cache., and no benchmarks folder is given",
    ):
        load_benchmark("medqa")


def test_bad_folders_and_names(tmp_path):
    with pytest.raises(GazalError, match="no such folder"):
        load_benchmark("medqa", tmp_path / "absent")
    _, not_run = load_benchmarks(["pubmedqa"], tmp_path)
    assert not_run == {"pubmedqa": "pubmedqa_test500.jsonl.gz is not in the benchmarks folder"}
    with pytest.raises(GazalError, match="benchmark medquad: unknown .known: medqa, medqa_5opt, "):
        load_benchmark("medquad")
    write_items_jsonl(tmp_path / "medqa_test_4opt.jsonl", [make_item(1)])
    with pytest.raises(GazalError, match="1 items found, the published set has 1273"):
        load_benchmark("medqa", tmp_path)
    for folder in ("one", "two"):
        write_items_jsonl(tmp_path / folder / "a.jsonl", [make_item(1)])
    with pytest.raises(GazalError, match="two/a.jsonl: a is asked for twice; of two files of one name, rename one"):
        load_benchmarks([str(tmp_path / "one" / "a.jsonl"), str(tmp_path / "two" / "a.jsonl")])
    (tmp_path / "table.csv").write_text("id,question\n")
    with pytest.raises(GazalError, match="table.csv: expected a file of items that ends in .jsonl, "):
        load_benchmark(str(tmp_path / "table.csv"))
    with pytest.raises(GazalError, match="absent.jsonl: no such file"):
        load_benchmark(str(tmp_path / "absent.jsonl"))


def test_a_file_without_ids_or_without_a_name(tmp_path, capsys):
    bare = make_item(1).model_dump(exclude_none=True, exclude={"id"})
    write(tmp_path / "bare.jsonl", [json.dumps(bare), "", json.dumps(bare)])
    assert [item.id for item in load_benchmark(str(tmp_path / "bare.jsonl"))] == ["row-1", "row-3"]
    assert capsys.readouterr().err.endswith(
        "bare.jsonl: its items are named by their rows (row-1, …): keep their order\n"
    )
    write_items_jsonl(tmp_path / ".jsonl", [make_item(1)])
    with pytest.raises(GazalError, match="/.jsonl: a file without a name"):
        load_benchmarks([str(tmp_path / ".jsonl")])


@pytest.mark.parametrize("ending", [".jsonl", ".json.gz", ".parquet"])
@pytest.mark.parametrize(
    ("shape", "ids", "key"),
    [("medmcqa", None, "A"), ("pubmedqa", "100", "B"), ("mmlu_pro", "mmlupro-0", "B"), ("mmlu", "row-1", "B")],
)
def test_a_file_as_its_set_is_published(tmp_path, capsys, shape, ids, key, ending):
    rows = shapes_samples.SAMPLES[shape](4)
    path = write_rows(tmp_path / f"theirs{ending}", rows)
    items = load_benchmark(str(path))
    assert f"theirs{ending}: read as {shape} is published" in capsys.readouterr().err
    assert (
        len(items) == 4
        and items[0].answer_idx == key
        and items[0].id == (ids or rows[0]["id"])
        and all(item.reasoning is None for item in items)
    )
    assert items[0].question == rows[0]["question"] and items[0].source == f"theirs{ending}"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "Q?", "choices": ["a", "b"], "answer": 2}, "answer 'C' is no letter of the options"),
        ({"question": "Q?", "choices": ["a", "b"], "answer": True}, "answer True is no letter"),
        ({"question": "Q?", "choices": "ab", "answer": 1}, "choices: expected a list"),
        ({"question": "Q?", "choices": ["a", ""], "answer": 0}, "option B is empty"),
        ({"question": "Q?", "answer": 0}, "choices: missing, and row 1 has it"),
        ({"question": " ", "choices": ["a", "b"], "answer": 0}, "question is empty"),
        ({"question": "Q?", "choices": ["a", "b"], "answer": -1}, "answer -1 is no letter"),
    ],
)
def test_a_bad_row_of_a_published_file_is_named(tmp_path, row, message):
    path = write_rows(tmp_path / "theirs.jsonl", [*shapes_samples.mmlu(2), row])
    with pytest.raises(GazalError) as error:
        load_benchmark(str(path))
    assert str(error.value).startswith(f"{path}: row 3: {message}") and "\n" not in str(error.value)


def test_a_field_of_a_published_row_that_is_no_text_is_named(tmp_path):
    path = write_rows(tmp_path / "pro.jsonl", [row | {"category": 3} for row in shapes_samples.mmlu_pro(1)])
    with pytest.raises(GazalError, match="row 1: subject: expected text, found int 3"):
        load_benchmark(str(path))


def test_two_options_of_one_text_are_asked_and_said(tmp_path, capsys):
    write_items_jsonl(
        tmp_path / "a.jsonl",
        [make_item(1), make_item(2).model_copy(update={"options": {"A": "x", "B": "y", "C": "x"}})],
    )
    assert len(load_benchmark(str(tmp_path / "a.jsonl"))) == 2
    assert capsys.readouterr().err.endswith(
        "a.jsonl: 1 item has two options of one text (first: 'item-2'); where that is the right one, one of its letters counts\n"
    )


def test_an_answer_that_is_another_options_text_is_said(tmp_path, capsys):
    answers = ["option b of 1", " option  a of 2", "option c of 3, because", None]
    write_items_jsonl(tmp_path / "a.jsonl", [make_item(n, answer=answer) for n, answer in enumerate(answers, 1)])
    assert len(load_benchmark(str(tmp_path / "a.jsonl"))) == 4
    assert capsys.readouterr().err.endswith(
        "a.jsonl: 1 item has an answer that is another option's text (first: 'item-2'); the letter counts\n"
    )


GOOD = json.dumps(make_item(0).model_dump(exclude_none=True))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (GOOD.replace("item-0", "item-9")[:-20], "row 2: not JSON"),
        (
            json.dumps({"id": "k", "question": "?", "options": {"A": "a", "B": "b"}, "answer_idx": "C"}),
            "row 2: answer_idx: 'C' is not among",
        ),
        (
            json.dumps({"id": "k", "question": "?", "options": {"A": "a"}, "answer_idx": "A"}),
            "row 2: options: expected 2 to 10, found 1",
        ),
        (GOOD, "row 2: id: 'item-0' is also row 1"),
    ],
)
def test_bad_lines_name_file_row_and_field(tmp_path, line, message):
    path = write(tmp_path / "items.jsonl", [GOOD, line])
    with pytest.raises(GazalError) as error:
        load_benchmark(str(path))
    assert str(error.value).startswith(f"{path}: {message}")
    assert "\n" not in str(error.value)


def test_a_parquet_file_may_hold_published_options_as_json_text(tmp_path):
    row = {"question_id": 7, "question": "Which?", "options": '["a", "b", "c"]', "answer": "B", "answer_index": 1}
    pq.write_table(pa.Table.from_pylist([row | {"category": "health", "src": "x"}]), tmp_path / "mine.parquet")
    (item,) = benchmarks.items_file(tmp_path / "mine.parquet")
    assert item.options == {"A": "a", "B": "b", "C": "c"} and item.answer_idx == "B"
