"""Training data of every shape from small local files; how it is shared out, and what a recipe would download."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from helpers import shapes_samples
from helpers.shapes_samples import SAMPLES, write_rows
from hypothesis import given
from hypothesis import strategies as st

from gazal.common.errors import GazalError
from gazal.common.paths import ROOT
from gazal.data import sources
from gazal.data.hub_rows import load_rows
from gazal.data.listing import list_sources
from gazal.data.shapes import SHAPES, converter, tidy
from gazal.data.sources import BUCKETS, gather, planned_items, synthetic_lines, weighted_shares
from gazal.items.options import parse_options
from gazal.items.prompts import build_messages, completion_text
from gazal.items.reading import read_items
from gazal.items.schema import Item, TrainingExample
from gazal.items.types import REASONING_TYPES
from gazal.items.writing import write_items_parquet
from gazal.knowledge.generate import draw
from gazal.recipe.data import DataSection, SourceSection
from gazal.training.sft import sft_dataset

FOUR = {"A": "aspirin", "B": "heparin", "C": "warfarin", "D": "none of these"}
SYNTH = [{"name": "synth", "use": "sft", "shape": "synth"}, {"name": "synth", "use": "grpo", "shape": "synth"}]
FOLDER = ROOT.parent / "shared" / "benchmarks"
here = pytest.mark.skipif(not FOLDER.is_dir(), reason="the benchmarks folder is not here")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def source(path: Path | str, shape: str, use: str = "sft", **values: Any) -> dict[str, Any]:
    return {"name": str(path), "shape": shape, "use": use, **values}


def section(*listed: dict[str, Any], **values: Any) -> DataSection:
    """These sources, and knowledge-derived ones for the stage that has none."""
    missing = [one for one in SYNTH if one["use"] not in {other["use"] for other in listed}]
    return DataSection.model_validate(
        {"sft": 8, "grpo": 4, "dev": 4, "test": 4, "variety": "plain", "sources": [*listed, *missing]} | values
    )


def gathered(
    tmp_path: Path, *listed: dict[str, Any], say: Any = lambda line: None, **values: Any
) -> list[sources.Gathered]:
    return gather(section(*listed, **values), 1, tmp_path / "work", say)


def read(one: sources.Gathered) -> list[Item]:
    return read_items(one.path, training=True)


@pytest.mark.parametrize(
    "text",
    [
        "Which drug?\nA. aspirin\nB. heparin\nC. warfarin\nD. none of these",
        "Which drug?\n\nOptions:\nA) aspirin\nB) heparin\nC) warfarin\nD) none of these\n\n",
        "Which drug?\n(A) aspirin\n(B) heparin\n(C) warfarin\n(D) none of these\nAnswer:",
        "Which drug? A. aspirin B. heparin C. warfarin D. none of these",
        "Which drug? A) aspirin, B) heparin, C) warfarin, D) none of these",
        "Which drug? (A) aspirin (B) heparin (C) warfarin (D) none of these",
        "Which drug? Answer choices: A. aspirin; B. heparin; C. warfarin; D. none of these",
        "Which drug?\nA. aspirin B. heparin\nC. warfarin D. none of these",
    ],
)
def test_options_in_every_written_form(text):
    assert parse_options(text) == ("Which drug?", FOUR)


def test_letters_that_are_words_are_no_options():
    assert parse_options("He has hepatitis A. Which vaccine?\nA. hepatitis B. vaccine\nB. none") == (
        "He has hepatitis A. Which vaccine?",
        {"A": "hepatitis B. vaccine", "B": "none"},
    )
    assert parse_options("After C. difficile: which? A. S. aureus B. E. coli C. K. pneumoniae D. H. influenzae")[1] == {
        "A": "S. aureus",
        "B": "E. coli",
        "C": "K. pneumoniae",
        "D": "H. influenzae",
    }
    assert parse_options("Which?\nA. x\nB. y\n\nGive one letter.") == ("Which?\nGive one letter.", {"A": "x", "B": "y"})


@pytest.mark.parametrize(
    "text",
    [
        "No options here.",
        "He has hepatitis A. Which vaccine?",
        "Which?\nA. only one",
        "Which?\nA. x\nB. y\nD. z",
        "Which?\nA.\nB. y",
        "Which? A. vitamin B. deficiency B. none C. all",
        "Which? A. Salmonella B. Shigella C. Vibrio D. Enterotoxigenic E. coli",
        "",
    ],
)
def test_uncertain_options_are_not_guessed(text):
    assert parse_options(text) is None


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_from_files_and_folders(tmp_path, shape, monkeypatch):
    monkeypatch.setattr(sources, "official_pubmedqa", lambda folder: {"101"})
    use = "sft" if shape in ("structured_medical", "items") else "grpo"
    found = {}
    for ending in (".parquet", ".json", ".jsonl", ".jsonl.gz"):
        path = write_rows(tmp_path / ending / f"train{ending}", SAMPLES[shape](6))
        for name in (path, path.parent):
            rows = load_rows(SourceSection.model_validate(source(name, shape, use)), "data.sources.0")
            convert, _ = converter(shape, rows.numbered(), "here", 0)
            found[ending, name.is_dir()] = [
                convert(row, id=f"{shape}-{number + 1}", source="here") for number, row in rows.read(None)
            ]
            assert rows.count == 6 and rows.revision is None
            assert [number for number, _ in rows.read(np.array([1, 4]))] == [1, 4]
    one = gathered(tmp_path, source(path, shape, use))[0]
    for items in found.values():
        assert [item.model_dump(exclude={"source"}) for item in items if item.id != "101"] == [
            item.model_dump(exclude={"source"}) for item in read(one)
        ]
    assert len(read(one)) == (5 if shape == "pubmedqa" else 6) and one.report["rows"] == one.report["read"] == 6
    assert one.report["set_aside"] == (
        {"a PMID of the official test list": ["pubmedqa-2"]} if shape == "pubmedqa" else {}
    )
    if use == "grpo":
        assert all(item.options[item.answer_idx] for item in read(one)) and not any(
            isinstance(item, TrainingExample) for item in read(one)
        )


def converted(shape: str, row: dict[str, Any]) -> Item:
    convert, _ = converter(shape, [(1, row)], "here", 0)
    return convert(row, id="x-1", source="here")


def test_what_the_shapes_become():
    item = converted("structured_medical", shapes_samples.structured_medical(1)[0])
    assert (
        isinstance(item, TrainingExample)
        and item.response.startswith("## Clinical Assessment")
        and item.reasoning.startswith("Step 1")
    )
    item = converted("medreason", shapes_samples.medreason(1)[0])
    assert (item.answer_idx, item.options["A"], item.source) == (
        "A",
        shapes_samples.drugs(1000)[0],
        "here, medmcqa 1000",
    )
    item = converted("ultramedical", shapes_samples.ultramedical(1)[0])
    assert (item.answer_idx, item.question, item.source) == (
        "A",
        shapes_samples.question(3000),
        "here, TextBookQA,3000",
    ) and item.reasoning.endswith("answer is A.")
    stored = {"from": ["human", "gpt"], "value": [turn["value"] for turn in ULTRA["conversations"]]}
    assert converted("ultramedical", ULTRA | {"conversations": stored}) == item
    item = converted("pubmedqa", shapes_samples.pubmedqa(1)[0])
    assert (item.id, item.pmid, item.context, item.answer) == ("100", "100", ["BACKGROUND one.", "RESULTS two."], "no")
    item = converted("mmlu_pro", shapes_samples.mmlu_pro(1)[0])
    assert (item.id, item.answer_idx, item.subject, len(item.options)) == (
        "mmlupro-0",
        "B",
        "health",
        3,
    ) and item.reasoning is None
    item = converted("medmcqa", shapes_samples.medmcqa(2)[1])
    assert (item.id, item.answer_idx, item.subject) == ("row-1", "B", "Pharmacology") and item.reasoning


@pytest.mark.parametrize(
    "answer",
    ["B", " b ", "(B)", "B.", 1, shapes_samples.drugs(0)[1], shapes_samples.drugs(0)[1].upper(), None, "", " "],
)
def test_an_answer_beside_the_index_may_be_written_in_any_way(answer):
    assert converted("mmlu_pro", shapes_samples.mmlu_pro(1)[0] | {"answer": answer}).answer_idx == "B"


MEDREASON = shapes_samples.medreason(1)[0]
ULTRA = shapes_samples.ultramedical(1)[0]


def spoken(text: str, reply: str = "because") -> list[dict[str, str]]:
    return [{"from": "human", "value": text}, {"from": "gpt", "value": reply}]


@pytest.mark.parametrize(
    ("shape", "row", "response"),
    [
        ("medreason", MEDREASON | {"options": "", "answer": "It is so."}, "It is so."),
        ("medreason", MEDREASON | {"options": "A. x\nB. y", "answer": "Neither."}, "Neither."),
        ("medreason", MEDREASON | {"options": "A. x\nB. X", "answer": "x"}, "x"),
        ("ultramedical", ULTRA | {"conversations": spoken("Does it help?"), "answer": "yes"}, "yes"),
    ],
)
def test_what_names_no_option_is_free_text(shape, row, response):
    item = converted(shape, row)
    assert isinstance(item, TrainingExample) and item.response == response


@pytest.mark.parametrize(
    ("shape", "row", "reason"),
    [
        ("structured_medical", {"case": "c", "reasoning": " ", "answer": "a"}, "reasoning is empty or no text"),
        ("structured_medical", {"case": None, "reasoning": "r", "answer": "a"}, "case is empty or no text"),
        ("medreason", MEDREASON | {"reasoning": "<think></think>"}, "reasoning is empty"),
        ("medical_grpo", {"question": "No options here.", "answer": "A"}, "options not found in the text"),
        ("medical_grpo", {"question": "A. x\nB. y", "answer": "A"}, "options not found in the text"),
        ("medical_grpo", {"question": "Q?\nA. x\nB. y", "answer": "C"}, "answer is no letter of the options"),
        (
            "medical_grpo",
            {"question": "Q?\nA. x\nB. difficile\nC. y", "answer": "C. difficile"},
            "answer is no letter of the options",
        ),
        ("ultramedical", ULTRA | {"conversations": []}, "no human turn with a reply"),
        ("ultramedical", ULTRA | {"conversations": spoken("Q?")[:1]}, "no human turn with a reply"),
        ("ultramedical", ULTRA | {"conversations": spoken("Q?"), "answer": "C"}, "options not found in the text"),
        ("ultramedical", ULTRA | {"conversations": spoken("Q?"), "answer": ""}, "no answer beside the reply"),
        (
            "medqa",
            {"question": "Q?", "options": {"A": "x", "C": "y"}, "answer_idx": "A"},
            "expected letters from A on, found A, C",
        ),
        ("medqa", {"question": "Q?", "options": {"A": "x", "B": "y"}, "answer_idx": "E"}, "answer 'E' is no letter"),
        ("medqa", {"question": "Q?", "options": {"A": "x", "B": " "}, "answer_idx": "A"}, "option B is empty"),
        ("medmcqa", shapes_samples.medmcqa(1)[0] | {"cop": -1}, "cop: no key"),
        ("medmcqa", shapes_samples.medmcqa(1)[0] | {"cop": None}, "cop: no key"),
        ("pubmedqa", shapes_samples.pubmedqa(1)[0] | {"final_decision": "perhaps"}, "answer 'perhaps' is no letter"),
        ("pubmedqa", shapes_samples.pubmedqa(1)[0] | {"context": {"contexts": []}}, "context: no contexts"),
        ("mmlu_pro", shapes_samples.mmlu_pro(1)[0] | {"answer_index": 7}, "answer 'H' is no letter"),
        ("mmlu_pro", shapes_samples.mmlu_pro(1)[0] | {"options": ["one"]}, "1 options, expected 2 to 10"),
        (
            "mmlu_pro",
            shapes_samples.mmlu_pro(1)[0] | {"answer": "A"},
            r"answer 'A' and answer_index 1 \(B\) disagree",
        ),
        ("mmlu_pro", shapes_samples.mmlu_pro(1)[0] | {"answer": "(C)"}, r"answer '\(C\)' and answer_index 1"),
        ("mmlu_pro", shapes_samples.mmlu_pro(1)[0] | {"answer": "c"}, "answer 'c' and answer_index 1"),
        ("mmlu_pro", shapes_samples.mmlu_pro(1)[0] | {"answer": 0}, "answer 0 and answer_index 1"),
        ("mmlu_pro", shapes_samples.mmlu_pro(1)[0] | {"answer": "J"}, "answer 'J' and answer_index 1"),
        ("mmlu_pro", shapes_samples.mmlu_pro(1)[0] | {"answer": shapes_samples.drugs(0)[0]}, "and answer_index 1"),
        ("items", {"id": "1", "question": "Q?", "options": '{"A": "x"', "answer_idx": "A"}, "options: not JSON"),
        ("items", {"id": "1", "question": "Q?", "options": '{"A": "x", "A": "y"}'}, "options: key 'A' is there twice"),
        ("items", {"id": "1", "question": "Q?"}, "options"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(shape, row, reason):
    with pytest.raises(ValueError, match=reason):
        converted(shape, row)


@pytest.mark.parametrize(
    ("answer", "key"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("B.", "B"),
        ("Heparin", "B"),
        ("heparin.", "B"),
        ("B. heparin", "B"),
        ("B) Heparin, at once", "B"),
    ],
)
def test_an_answer_is_a_letter_or_a_text(answer, key):
    assert (
        converted("medical_grpo", {"question": "Q?\nA. aspirin\nB. heparin\nC. warfarin", "answer": answer}).answer_idx
        == key
    )


@pytest.mark.parametrize("values", [[0, 4], [5], ["a"], [1.5]])
def test_keys_that_make_no_sense_are_refused(values):
    with pytest.raises(GazalError, match="here: row [12]: cop: expected 0 to 3 or 1 to 4"):
        converter("medmcqa", enumerate(({"cop": value} for value in values), 1), "here")


def test_a_source_whose_keys_do_not_tell_is_asked_about(tmp_path):
    path = write_rows(tmp_path / "medmcqa.jsonl", shapes_samples.medmcqa(12)[1:4])
    with pytest.raises(GazalError, match=r"data.sources.0: .*: row 1: cop: keys 1, 2, 3 fit .*data.key_base"):
        gathered(tmp_path, source(path, "medmcqa"))
    for base, letters in ((1, "ABC"), (0, "BCD")):  # another base is another file
        one = gathered(tmp_path, source(path, "medmcqa"), key_base=base)[0]
        assert "".join(sorted(item.answer_idx for item in read(one))) == letters


@pytest.mark.parametrize("base", [0, 1])
def test_both_countings_of_medmcqa_give_the_same_items(tmp_path, base):
    lost = shapes_samples.medmcqa(1)[0] | {"id": "lost", "cop": -1}
    path = write_rows(tmp_path / "medmcqa.jsonl", [*shapes_samples.medmcqa(8, base), lost])
    one = gathered(tmp_path, source(path, "medmcqa", limit=6))[0]
    assert {item.id: item.answer_idx for item in read(one)}.items() <= {
        f"row-{i}": "ABCD"[i % 4] for i in range(8)
    }.items()
    assert one.report["items"] == 6 and one.report["note"].startswith(f"cop counts from {base} ")


@pytest.mark.parametrize("name", ["medqa.jsonl", "medqa.json", "medqa.json.gz", "folder/train.json"])
def test_a_source_with_a_key_twice_in_an_object_is_refused(tmp_path, name):
    first, second = (json.dumps(row) for row in shapes_samples.medqa(2))
    assert '"B": "' in second
    text = [first, second.replace('"B": "', '"B": "one", "B": "')]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    whole = "\n".join(text) if name.endswith(".jsonl") else f"[{', '.join(text)}]"
    path.write_bytes(gzip.compress(whole.encode()) if name.endswith(".gz") else whole.encode())
    with pytest.raises(GazalError, match=r"(medqa|train)\S*: row 2: key 'B' is there twice in one object$"):
        gathered(tmp_path, source(path.parent if "/" in name else path, "medqa", "grpo"))


def test_white_space_in_options_is_collapsed():
    item = Item(
        id="1", question="Q?", options={"A": "two\nlines ", "B": "one  line"}, answer_idx="A", answer="two\nlines "
    )
    assert tidy(item).options == {"A": "two lines", "B": "one line"} and tidy(item).answer == "two lines"
    assert tidy(tidy(item)) is not item and tidy(tidy(item)) == tidy(item)
    plain = Item(id="1", question="Q?", options=FOUR, answer_idx="A")
    assert tidy(plain) is plain


def test_what_is_set_aside_is_counted_and_listed(tmp_path):
    lost = [{"question": "Question with no options?", "answer": "A"}, {"question": "Q?\nA. x\nB. y", "answer": "C"}] * 4
    said: list[str] = []
    one = gathered(
        tmp_path,
        source(write_rows(tmp_path / "grpo.jsonl", shapes_samples.medical_grpo(20) + lost), "medical_grpo", "grpo"),
        say=said.append,
    )[0]
    assert one.report["set_aside"] == {
        "options not found in the text": ["medical_grpo-21", "medical_grpo-23", "medical_grpo-25", "medical_grpo-27"],
        "answer is no letter of the options": [
            "medical_grpo-22",
            "medical_grpo-24",
            "medical_grpo-26",
            "medical_grpo-28",
        ],
    }
    assert one.report["items"] == 20 and "data.sources.0: grpo.jsonl: 20 items of 28 rows read" in said
    assert any(
        line.startswith("data.sources.0: set aside 4: options not found in the text (medical_grpo-21, ")
        for line in said
    )


def test_a_stage_takes_only_what_it_can_train_on(tmp_path):
    bare = {"id": "bare", "question": "Q?", "options": FOUR, "answer_idx": "A"}
    sft = source(write_rows(tmp_path / "a.jsonl", [*SAMPLES["items"](4), bare]), "items")
    grpo = source(
        write_rows(
            tmp_path / "b.jsonl", [{"id": "text", "question": "Why?", "reasoning": "so", "response": "It is so."}, bare]
        ),
        "items",
        "grpo",
    )
    found = gathered(tmp_path, sft, grpo)
    assert found[0].report["set_aside"] == {"no reasoning, which SFT trains on": ["bare"]} and [
        item.id for item in read(found[0])
    ] == ["own-0", "own-1", "own-2", "own-text"]
    assert found[1].report["set_aside"] == {"free text: GRPO needs options and a key": ["text"]} and [
        item.id for item in read(found[1])
    ] == ["bare"]


def test_ids_are_unique_over_all_sources(tmp_path):
    own = SAMPLES["items"](6)
    first = source(write_rows(tmp_path / "a.jsonl", own), "items")
    second = source(write_rows(tmp_path / "b.jsonl", [*own[:2], own[3] | {"id": "fresh"}]), "items")
    found = gathered(tmp_path, first, second)
    ids = [item.id for one in found for item in read(one)]
    assert len(ids) == len(set(ids)) and found[1].report["set_aside"] == {
        "its id is that of another item of data.sources.0": ["own-0", "own-1"]
    }


def test_a_limit_is_a_seeded_sample_that_is_filled_up(tmp_path):
    rows = [
        row if i % 3 else {"question": "none", "answer": "A"} for i, row in enumerate(shapes_samples.medical_grpo(60))
    ]
    listed = source(write_rows(tmp_path / "grpo.jsonl", rows), "medical_grpo", "grpo", limit=25)
    runs = [
        [item.id for item in read(gather(section(listed), seed, tmp_path / f"w{n}", lambda line: None)[0])]
        for n, seed in enumerate((1, 1, 2))
    ]
    assert runs[0] == runs[1] != runs[2] and all(len(run) == len(set(run)) == 25 for run in runs)
    assert max(int(name.split("-")[1]) for name in runs[0]) > 40  # not the first rows
    assert gathered(tmp_path, listed | {"limit": 59})[0].report["items"] == 40  # all that there are


def test_a_finished_source_is_not_converted_again(tmp_path, monkeypatch):
    path = write_rows(tmp_path / "grpo.jsonl", shapes_samples.medical_grpo(20))
    other = write_rows(tmp_path / "sft.jsonl", shapes_samples.structured_medical(9))
    listed = [source(path, "medical_grpo", "grpo"), source(other, "structured_medical")]
    first = gathered(tmp_path, *listed)
    before = {one.path: (one.path.read_bytes(), one.path.stat().st_mtime_ns) for one in first}
    real, loads = sources.load_rows, []
    monkeypatch.setattr(sources, "load_rows", lambda one, key: loads.append(key) or real(one, key))
    again = gathered(tmp_path, *listed)
    assert (
        not loads
        and again == first
        and {one.path: (one.path.read_bytes(), one.path.stat().st_mtime_ns) for one in again} == before
    )
    write_rows(other, shapes_samples.structured_medical(7))
    assert [one.report["items"] for one in gathered(tmp_path, *listed)] == [20, 7] and loads == ["data.sources.1"]
    gathered(tmp_path, *[one | {"limit": 5} for one in listed])
    assert loads == ["data.sources.1", "data.sources.0", "data.sources.1"]
    assert sorted(p.name for p in (tmp_path / "work").iterdir()) == [
        "0-grpo-medical_grpo.json",
        "0-grpo-medical_grpo.jsonl",
        "1-sft-structured_medical.json",
        "1-sft-structured_medical.jsonl",
    ]


def test_an_interrupted_source_leaves_nothing_behind(tmp_path, monkeypatch):
    path = write_rows(tmp_path / "grpo.jsonl", shapes_samples.medical_grpo(20))
    monkeypatch.setattr(sources, "PROGRESS", 10)

    def killed(line: str) -> None:
        if "10 of 20 rows" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gathered(tmp_path, source(path, "medical_grpo", "grpo"), say=killed)
    assert not list((tmp_path / "work").iterdir())
    assert gathered(tmp_path, source(path, "medical_grpo", "grpo"))[0].report["items"] == 20


def test_knowledge_derived_items_come_as_they_are_drawn():
    data = section(n_diseases=60, brief_share=0.5, sft=30)
    drawn = [
        item
        for kind, n in zip(REASONING_TYPES, (8, 8, 7, 7), strict=True)
        for item in draw(kind, n, 1, BUCKETS["sft"], 60, variety="plain")
    ]
    found = [Item.model_validate(json.loads(line)) for line in synthetic_lines(data, "sft", 30, 1)]
    assert [item.id for item in found] == [drawn[i].id for i in np.random.default_rng([1, 3]).permutation(30)]
    brief = np.random.default_rng([1, 3]).random(30) < 0.5
    assert [item.depth for item in found] == [("full", "brief")[int(flag)] for flag in brief]
    assert all((item.reasoning == item.reasoning_brief) == (item.depth == "brief") for item in found)


@given(st.integers(0, 500), st.lists(st.tuples(st.floats(0.01, 1e6), st.integers(0, 400)), min_size=1, max_size=6))
def test_shares_add_up_and_stay_within_what_there_is(total, parts):
    weights, available = zip(*parts, strict=True)
    counts = weighted_shares(total, weights, available)
    assert sum(counts) == min(total, sum(available)) and all(
        0 <= count <= most for count, most in zip(counts, available, strict=True)
    )
    if all(total <= most for most in available):
        assert all(
            abs(count - total * weight / sum(weights)) <= 1 for count, weight in zip(counts, weights, strict=True)
        )


def test_what_a_short_source_lacks_goes_to_the_others_in_order():
    assert weighted_shares(100, [1, 1, 2], [10, 100, 100]) == [10, 40, 50]
    assert weighted_shares(100, [1, 1, 2], [10, 30, 100]) == [10, 30, 60]
    assert weighted_shares(139_715, [107_033, 32_682], [107_033, 32_682]) == [107_033, 32_682]


def test_dev_is_held_out_of_grpo_sources_and_drawn_apart_of_synth():
    corpus, synth = source("a/b", "medical_grpo", "grpo"), SYNTH[1]
    data = section(corpus, synth, grpo=300, dev=100)
    assert planned_items(data, [1000, None, None]) == {"sft": [0, 0, 8], "grpo": [150, 150, 0], "dev": [50, 50, 0]}
    assert planned_items(data, [40, None, None]) == {"sft": [0, 0, 8], "grpo": [30, 270, 0], "dev": [10, 90, 0]}
    assert planned_items(section(corpus, grpo=32_000, dev=1000), [32_000, None]) == {
        "sft": [0, 8],
        "grpo": [31_000, 0],
        "dev": [1000, 0],
    }
    assert planned_items(section(corpus, grpo=12, dev=6), [20, None])["dev"] == [6, 0]


def test_training_examples_are_trained_on(tmp_path):
    found = read(
        gathered(
            tmp_path,
            source(write_rows(tmp_path / "s.jsonl", shapes_samples.structured_medical(3)), "structured_medical"),
        )[0]
    )
    assert set(found[0].model_dump(exclude_none=True)) == {"id", "question", "reasoning", "response", "source"}
    assert build_messages(found[0], "")[-1]["content"] == shapes_samples.structured_medical(1)[0]["case"]
    assert (
        completion_text(found[0], found[0].reasoning).startswith("<think>\nStep 1: chest pain")
        and len(sft_dataset(found, "system")) == 3
    )
    with pytest.raises(GazalError, match="row 1: options: missing"):
        read_items(tmp_path / "work" / "0-sft-structured_medical.jsonl")  # no benchmark is made of free text


def test_parquet_keeps_columns_that_the_first_item_lacks(tmp_path):
    items = [
        Item(id="1", question="q", options=FOUR, answer_idx="A"),
        Item(id="2", question="q", options=FOUR, answer_idx="A", subject="s", weight=2),
    ]
    write_items_parquet(tmp_path / "items.parquet", items)
    assert read_items(tmp_path / "items.parquet") == items


def test_parquet_of_many_batches_has_the_columns_of_all(tmp_path):
    items = [
        Item(id=str(n), question="q", options=FOUR, answer_idx="A", **({"late": {"A": n}} if n > 5000 else {}))
        for n in range(9000)
    ]
    write_items_parquet(tmp_path / "items.parquet", iter(items))
    assert read_items(tmp_path / "items.parquet") == items
    with pytest.raises(GazalError, match="items.parquet: the items do not fit one table"):
        write_items_parquet(tmp_path / "items.parquet", [items[0].model_copy(update={"late": "text"}), *items])


@pytest.mark.parametrize(
    ("shape", "name", "text", "message"),
    [
        (
            "medical_grpo",
            "x.jsonl",
            '{"prompt": "q", "answer": "A"}\n',
            r"data.sources.0: .*no column question \(found: prompt, answer; expected: question, answer\)",
        ),
        ("medical_grpo", "x.jsonl", '{"question": "q", "answer": "A"}\n{"question": \n', r"x.jsonl: row 2: not JSON"),
        ("medical_grpo", "x.json", "[{", r"data.sources.0: .*x.json: cannot be read"),
        ("medical_grpo", "x.parquet", "PAR", r"data.sources.0: .*x.parquet: cannot be read"),
        ("medical_grpo", "x.csv", "question,answer\n", r"expected a .parquet, .json or .jsonl file"),
        (
            "medical_grpo",
            "x.jsonl",
            '{"question": "q", "answer": "A"}\n',
            r"no usable row \(1 options not found in the text\)",
        ),
        ("items", "x.jsonl", '{"id": "1", "question": "q"}\n{"question": \n', r"x.jsonl: row 2: not JSON"),
        ("items", "x.json", "[{", r"x.json: row 1: not JSON"),
        ("items", "x.parquet", "PAR", r"x.parquet: not a Parquet file"),
        ("items", "x.txt", "", r"expected a file of items that ends in"),
        ("items", "x.jsonl", '{"id": "1", "question": "q"}\n', r"no usable row \(1 options: "),
    ],
)
def test_bad_files_are_one_clear_line(tmp_path, shape, name, text, message):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(GazalError, match=message) as caught:
        gathered(tmp_path, source(tmp_path / name, shape, "grpo"))
    assert "\n" not in str(caught.value) and not list((tmp_path / "work").glob("0-*"))


def test_an_item_without_an_id_gets_one_and_a_number_becomes_text(tmp_path):
    rows = [
        {key: value for key, value in row.items() if key != "id"} | ({"id": 7} if i else {})
        for i, row in enumerate(SAMPLES["items"](3)[:2])
    ]
    assert [
        item.id for item in read(gathered(tmp_path, source(write_rows(tmp_path / "x.jsonl", rows), "items"))[0])
    ] == ["items-1", "7"]


def test_a_folder_is_read_by_split_or_file(tmp_path):
    for split, n in (("train", 6), ("test", 3)):
        write_rows(tmp_path / "set" / f"{split}.jsonl", shapes_samples.medical_grpo(n))
        write_rows(tmp_path / "own" / f"{split}.parquet", SAMPLES["items"](n))
    count = lambda **values: (
        load_rows(SourceSection(name=str(tmp_path / "set"), use="grpo", shape="medical_grpo", **values), "k").count
    )
    assert (count(), count(split="test"), count(file="test.jsonl")) == (6, 3, 3)
    assert load_rows(SourceSection(name=str(tmp_path / "own"), use="sft", shape="items", split="test"), "k").count == 3
    with pytest.raises(GazalError, match="k: .*Unknown split"):
        count(split="dev")
    (tmp_path / "empty").mkdir()
    with pytest.raises(GazalError, match="no .parquet, .json or .jsonl file in that folder"):
        load_rows(SourceSection(name=str(tmp_path / "empty"), use="sft", shape="items"), "k")


@pytest.mark.parametrize("name", ["missing/file.jsonl", "nowhere", "/no/such/folder", "a/b/c"])
def test_what_is_neither_file_nor_hub_id_is_named(tmp_path, name):
    with pytest.raises(GazalError, match=f"data.sources.0: {name}: no such file or folder, and no hub id"):
        gathered(tmp_path, source(name, "medical_grpo", "grpo"))


def test_pubmedqa_is_not_trained_on_without_the_official_list(tmp_path):
    with pytest.raises(GazalError, match="pubmedqa: the official list of test PMIDs cannot be had"):
        gathered(tmp_path, source(write_rows(tmp_path / "p.jsonl", shapes_samples.pubmedqa(3)), "pubmedqa"))


@here
def test_pubmedqa_leaves_out_the_official_test_pmids(tmp_path):
    tested = read_items(FOLDER / "pubmedqa_test500.jsonl.gz")[0]
    rows = [*shapes_samples.pubmedqa(3), shapes_samples.pubmedqa(1)[0] | {"pubid": int(tested.id)}]
    one = gather(
        section(source(write_rows(tmp_path / "p.jsonl", rows), "pubmedqa")),
        1,
        tmp_path / "work",
        lambda line: None,
        FOLDER,
    )[0]
    assert [item.pmid for item in read(one)] == ["100", "101", "102"] and one.report["set_aside"] == {
        "a PMID of the official test list": ["pubmedqa-4"]
    }


def test_local_sources_are_listed_with_rows_and_bytes(tmp_path):
    path = write_rows(tmp_path / "grpo.jsonl", shapes_samples.medical_grpo(20))
    said: list[str] = []
    assert list_sources(section(source(path, "medical_grpo", "grpo", limit=1500)), said.append) == 0
    assert said == [
        f"data.sources.0 (grpo, weight 1, at most 1,500): {path}: local: 20 rows, {path.stat().st_size:,} bytes, nothing to download",
        "data.sources.1 (sft, weight 1): synth: made here, nothing to download",
        "to download: 0 bytes",
    ]


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ([SYNTH[0]], "sources: none for grpo"),
        ([*SYNTH, SYNTH[0]], "sources.2: synth is there twice for sft"),
        ([*SYNTH, source("synth", "items")], "sources.2: name and shape must both be synth"),
        ([*SYNTH, source("a/b", "synth")], "must both be synth"),
        ([], "at least 1 item"),
    ],
)
def test_impossible_sources_are_refused(listed, message):
    with pytest.raises(ValueError, match=message):
        DataSection.model_validate({"sources": listed})


def test_data_made_by_other_code_is_made_again(tmp_path, monkeypatch):
    for room in ("items", "knowledge", "data", "scoring"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "code.py").write_text("one")
    monkeypatch.setattr(sources, "PACKAGE", tmp_path)
    before = sources._code_key()
    (tmp_path / "scoring" / "code.py").write_text("two")
    assert sources._code_key() == before
    for room in ("items", "knowledge", "data"):
        (tmp_path / room / "code.py").write_text("two")
        assert sources._code_key() != before, room
        before = sources._code_key()
