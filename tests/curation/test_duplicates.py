"""Duplicates and contamination: each way in which a question comes back is found, and each other question stays."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gazal.common.errors import GazalError
from gazal.common.paths import ROOT
from gazal.curation import digest as digesting
from gazal.curation.compare import Corpus
from gazal.curation.digest import digest
from gazal.curation.duplicates import Match, find_duplicates, find_within
from gazal.curation.minhash import FIRST, NEAREST, Ragged, band_keys, crossing, distinct, keep, pairs, shared
from gazal.curation.text import asked, computed, enumeration, normal, squeezed, words
from gazal.items.types import REASONING_TYPES
from gazal.items.writing import write_items_jsonl
from gazal.knowledge.generate import draw
from gazal.recipe.data import CurationSection

FOLDER = ROOT.parent / "shared" / "benchmarks"
SETTINGS = CurationSection()
STEM = (
    "A 45-year-old farmer comes to the clinic because of painless jaundice, dark urine and weight loss of 7 kg over 3 months. "
    "He drinks little alcohol and has never travelled. The gallbladder is palpable but not tender. Which investigation is most useful next?"
)
OPTIONS = {
    "A": "Contrast-enhanced CT of the abdomen",
    "B": "Liver biopsy",
    "C": "Hepatitis serology",
    "D": "Oral cholecystogram",
}
ABSTRACT = (
    "We followed two hundred nurses who worked rotating shifts for five years and compared their sleep with that of colleagues on fixed days. "
    "Sleep was measured by wrist actigraphy during one week each spring, and daytime alertness by a validated questionnaire. Rotating shifts shortened "
    "sleep by forty minutes on average, an effect that grew with age and was reversed within a month of return to fixed hours."
)
TEST = {"id": "t1", "question": STEM, "options": OPTIONS, "answer_idx": "A"}
SHORT = {
    "id": "t2",
    "question": "Which of the following is true?",
    "options": {
        "A": "Iron is absorbed in the duodenum",
        "B": "Zinc is stored in bone",
        "C": "Copper deficiency causes goitre",
        "D": "Iodine is lost in sweat",
    },
    "answer_idx": "A",
}
MEASURED = {
    "id": "t3",
    "question": "A labourer of 80 kg, with a temperature of 37.5, a pH of 7.40 and a pressure of 1,250 units, needs fluid: "
    "how much Ringer lactate is given before surgery, e.g. by pump?",
    "options": {"A": "0.5 L", "B": "1.5 L", "C": "2.5 L", "D": "3.0 L"},
}
ACID = {
    "id": "t4",
    "question": "Normal pH, i.e. 7.4, is",
    "options": ["Alkaline", "Neutral", "Acid", "Any of 2.5 kinds"],
}
VITAMIN = {
    "id": "t5",
    "question": "Which vitamin is lacking in a man of 17 with scurvy?",
    "options": ["Ascorbic acid", "Retinol", "Thiamine", "Folate"],
}
STUDY = {
    "id": "21645374",
    "question": "Do rotating shifts harm the sleep of nurses?",
    "context": [ABSTRACT],
    "options": {"A": "yes", "B": "no", "C": "maybe"},
    "answer_idx": "A",
}
FILLER = [
    {"id": f"f{n}", "question": question, "options": options.split(", ")}
    for n, (question, options) in enumerate(
        (
            (
                "Which vessel supplies the sinoatrial node in most people?",
                "Right coronary, Circumflex, Left anterior descending, Conus branch",
            ),
            (
                "A boy of 3 with barking cough and stridor at night should be given what?",
                "Dexamethasone, Amoxicillin, Salbutamol, Antitoxin",
            ),
            (
                "The enzyme that is deficient in phenylketonuria is",
                "Phenylalanine hydroxylase, Tyrosinase, Homogentisate oxidase, Transaminase",
            ),
            (
                "Which nerve is at risk in a fracture of the surgical neck of the humerus?",
                "Axillary, Radial, Ulnar, Median",
            ),
            ("Koplik spots are a sign of which disease?", "Measles, Rubella, Mumps, Scarlet fever"),
            (
                "The drug of choice for absence seizures in a girl of 8 is",
                "Ethosuximide, Phenytoin, Carbamazepine, Vigabatrin",
            ),
        )
    )
]


def write(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def find(tmp_path: Path) -> Callable[..., list[Match]]:
    """Matches of training rows (lists of rows, a file each) against the test items, with unrelated rows about."""
    tests = {
        "exam": write(tmp_path / "exam.jsonl", [TEST, SHORT, MEASURED, ACID, VITAMIN]),
        "studies": write(tmp_path / "studies.jsonl", [STUDY]),
    }

    def run(*files: list[dict[str, Any]], **more: Any) -> list[Match]:
        paths = [write(tmp_path / f"train{n}.jsonl", rows) for n, rows in enumerate([*files, FILLER])]
        return find_duplicates(paths, tests, SETTINGS, say=lambda line: None, **more)

    return run


def edited(text: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return text


APPENDED = f"{STEM}\n" + "\n".join(f"{key}. {text}" for key, text in OPTIONS.items())
WORDS_EDITED = edited(
    STEM,
    {
        "farmer": "labourer",
        "comes to": "attends",
        "painless jaundice": "jaundice",
        "has never": "never",
        "most useful": "useful",
    },
)
DISGUISED = (
    "  "
    + edited(
        STEM.upper(),
        {"-": "–", " OF ": "\u00a0OF\t", ",": " ;", "FARMER": "fármer", "PAINLESS": "pain\u00adless", "NOT": "ｎｏｔ"},
    )
    + " …"
)

FOUND = {
    "verbatim": ({"question": STEM, "options": OPTIONS}, "t1", "exact"),
    "options appended": ({"question": APPENDED, "reasoning": "Think.", "response": "A"}, "t1", "exact"),
    "options appended in brackets": (
        {
            "question": STEM
            + " (A) Contrast-enhanced CT of the abdomen (B) Liver biopsy (C) Hepatitis serology (D) Oral cholecystogram",
            "response": "x",
        },
        "t1",
        "exact",
    ),
    "options reordered": (
        {"question": STEM, "options": dict(zip("ABCD", reversed(OPTIONS.values()), strict=True))},
        "t1",
        "exact",
    ),
    "options as a list": ({"question": STEM, "options": list(OPTIONS.values())}, "t1", "exact"),
    "other options": ({"question": STEM, "options": ["Reassure", "Refer", "Repeat", "Rest"]}, "t1", "exact"),
    "numbered, a number next": ({"question": f"12. {STEM[2:]}", "options": OPTIONS}, "t1", "near"),
    "numbered": ({"question": f"Question 12. {STEM}", "options": OPTIONS}, "t1", "exact"),
    "disguised": ({"question": DISGUISED, "options": OPTIONS}, "t1", "exact"),
    "units written together": ({"question": STEM.replace("7 kg", "7kg"), "options": OPTIONS}, "t1", "exact"),
    "words edited": ({"question": WORDS_EDITED, "options": OPTIONS}, "t1", "near"),
    "words edited, open": ({"question": WORDS_EDITED, "reasoning": "Think.", "response": "CT."}, "t1", "near"),
    "a number changed": ({"question": STEM.replace("45", "54"), "options": OPTIONS}, "t1", "near"),
    "a number changed, options appended": (
        {"question": APPENDED.replace("7 kg", "9 kg"), "response": "A"},
        "t1",
        "near",
    ),
    "numbers swapped": ({"question": STEM.replace("7 kg over 3", "3 kg over 7"), "options": OPTIONS}, "t1", "near"),
    "a number gone, words edited": (
        {"question": WORDS_EDITED.replace("45-year-old", "young"), "options": OPTIONS},
        "t1",
        "near",
    ),
    "no punctuation": (
        {
            "question": re.sub("[,.;:]", "", MEASURED["question"]),
            "options": {letter: re.sub("[,.;:]", "", text) for letter, text in MEASURED["options"].items()},
        },
        "t3",
        "near",
    ),
    "no punctuation, words edited": (
        {
            "question": edited(MEASURED["question"], {"37.5": "375", "labourer": "farmer"}),
            "options": MEASURED["options"],
        },
        "t3",
        "near",
    ),
    "short and without punctuation": (
        {"question": "Normal pH ie 74 is", "options": ["Acid", "Alkaline", "Neutral", "Any of 25 kinds"]},
        "t4",
        "near",
    ),
    "a word of few replaced, all options the same": (
        {"question": "Which hormone is lacking in a man of 17 with scurvy?", "options": VITAMIN["options"][::-1]},
        "t5",
        "near",
    ),
    "behind an instruction": (
        {
            "question": "You are a careful doctor; answer the examination question in one line and no more than that, please. "
            + STEM
            + " Answer:",
            "response": "x",
        },
        "t1",
        "near",
    ),
    "inside the reasoning": (
        {
            "question": "Make up a case of jaundice.",
            "reasoning": f"Here is one. {STEM} That will do.",
            "response": "Done.",
        },
        "t1",
        "near",
    ),
    "short stem": (
        {
            "question": "WHICH of the following is true",
            "options": dict(zip("ABCD", reversed(SHORT["options"].values()), strict=True)),
        },
        "t2",
        "exact",
    ),
    "short stem, words added": (
        {"question": "Which one of the following statements is true?", "options": SHORT["options"]},
        "t2",
        "near",
    ),
    "abstract in a rationale": (
        {
            "question": "Summarise the evidence on shift work.",
            "reasoning": f"First recall a study. {ABSTRACT} So:",
            "response": "It harms.",
        },
        "21645374",
        "exact",
    ),
    "half of an abstract": (
        {
            "question": "Summarise the evidence on shift work.",
            "reasoning": ABSTRACT[: len(ABSTRACT) // 2],
            "response": "It harms.",
        },
        "21645374",
        "near",
    ),
    "pmid": (
        {"question": "What was seen in nurses?", "pmid": 21645374, "response": "Short sleep."},
        "21645374",
        "exact",
    ),
}
STAYS = {
    "a number changed, other options": {
        "question": STEM.replace("45", "54"),
        "options": OPTIONS | {"C": "Watchful waiting", "D": "Laparoscopy"},
    },
    "a number changed, no options": {"question": STEM.replace("45", "54"), "response": "CT."},
    "a number changed, the options are numbers": {
        "question": MEASURED["question"].replace("80 kg", "40 kg"),
        "options": MEASURED["options"],
    },
    "a number changed in a short stem": {
        "question": "Which vitamin is lacking in a man of 71 with scurvy?",
        "options": VITAMIN["options"],
    },
    "a number changed inside a text": {
        "question": "Make up a case.",
        "reasoning": f"Here is one. {STEM.replace('45', '54')} That will do.",
        "response": "Done.",
    },
    "short stem, other options": {
        "question": SHORT["question"],
        "options": [
            "Bile is made in the gallbladder",
            "The spleen stores platelets",
            "Gastrin slows emptying",
            "Secretin is acid",
        ],
    },
    "short stem, no options": {"question": SHORT["question"], "response": "It depends."},
    "same options, other stem": {
        "question": "A child with acute hepatitis A asks when to return to school. What is done first?",
        "options": OPTIONS,
    },
    "the opposite": {"question": "Which of the following is false?", "options": SHORT["options"]},
    "unrelated": {
        "question": "A 23-year-old runner has heel pain on the first steps of the day. What is the cause?",
        "options": ["Plantar fasciitis", "Gout", "Stress fracture", "Tarsal tunnel"],
    },
    "another study, yes or no": {
        "question": "Do rotating shifts harm the diet of nurses?",
        "context": ["Meals were logged."],
        "options": STUDY["options"],
    },
}


@pytest.mark.parametrize("name", FOUND)
def test_found(find: Callable[..., list[Match]], name: str) -> None:
    row, match_id, kind = FOUND[name]
    matches = [match for match in find([{"id": "planted"} | row]) if match.id == "planted"]
    assert [(match.match_id, match.kind) for match in matches] == [(match_id, kind)]
    match = matches[0]
    assert (match.file, match.row, match.against) == (0, 0, "studies" if match_id == STUDY["id"] else "exam")
    assert (
        0 < match.score <= 1
        and (match.kind == "near" or match.score == 1)
        and match.text
        and match.match_text
        and len(match.text) <= 300
    )


@pytest.mark.parametrize("name", STAYS)
def test_stays(find: Callable[..., list[Match]], name: str) -> None:
    assert find([{"id": "planted"} | STAYS[name]]) == []


def test_the_text_of_a_context_match_is_where_the_abstract_begins(find: Callable[..., list[Match]]) -> None:
    (match,) = find([{"id": "p", "question": "Q " * 200, "reasoning": ABSTRACT, "response": "x"}])
    assert (
        match.field == "context"
        and match.text.startswith("We followed two hundred nurses")
        and match.match_text.startswith("We followed")
    )


def test_each_test_set_is_named_once_and_training_rows_only_where_none_is(find: Callable[..., list[Match]]) -> None:
    both = {"id": "p", "question": STEM, "options": OPTIONS, "reasoning": ABSTRACT}
    matches = find([both, both | {"id": "q"}])
    assert [(match.id, match.against) for match in matches] == [
        ("p", "exam"),
        ("p", "studies"),
        ("q", "exam"),
        ("q", "studies"),
    ]


def test_the_first_one_wins_over_files_and_rows(find: Callable[..., list[Match]]) -> None:
    mine = {
        "question": "Sudden painless loss of vision with a cherry red spot and a pale retina in an old man with atrial fibrillation is due to what?",
        "options": ["Embolus", "Bleed", "Tear", "Drug"],
    }
    matches = find(
        [mine | {"id": "a1"}, mine | {"id": "a2"}],
        [mine | {"id": "b1", "options": ["Tear", "Drug", "Bleed", "Embolus"]}],
    )
    assert [(m.id, m.match_id, m.against, m.kind) for m in matches] == [
        ("a2", "a1", "train", "exact"),
        ("b1", "a1", "train", "exact"),
    ]
    assert [
        (m.id, m.match_id)
        for m in find(
            [mine | {"id": "a1"}, mine | {"id": "a2"}],
            [mine | {"id": "b1"}],
            skip=[np.array([0]), np.array([], int), np.array([], int)],
        )
    ] == [("b1", "a2")]


def test_inside_training_data_other_numbers_are_another_question(find: Callable[..., list[Match]]) -> None:
    """Only against tests they are not: of two training rows neither is the other's key."""
    mine = {
        "question": "Sudden painless loss of vision, with a cherry red spot and a pale retina, in a man of 71.5 years "
        "with atrial fibrillation is due to what?",
        "options": ["Embolus", "Bleed", "Tear", "Drug"],
    }
    other = mine | {"id": "b", "question": mine["question"].replace("71", "17")}
    plain = mine | {"id": "c", "question": re.sub("[,.]", "", mine["question"])}
    matches = find([mine | {"id": "a"}, other, plain])
    assert [(match.id, match.match_id, match.kind) for match in matches] == [("c", "a", "near")]


def test_of_a_generators_test_items_other_numbers_are_another_question(tmp_path: Path) -> None:
    exam = write(tmp_path / "exam.jsonl", [TEST | {"bucket": 3}])
    train = write(
        tmp_path / "train.jsonl", [{"id": "p", "question": STEM.replace("45", "54"), "options": OPTIONS}, *FILLER]
    )
    assert find_duplicates([train], {"exam": exam}, SETTINGS, say=lambda line: None) == []


def test_any_file_form_gives_the_same(find: Callable[..., list[Match]], tmp_path: Path) -> None:
    rows = [{"id": f"p{n}", "question": row["question"], "options": json.dumps(row["options"]) if isinstance(row.get("options"), dict) else None, "reasoning": row.get("reasoning"), "pmid": row.get("pmid")}
            for n, (row, _, _) in enumerate(FOUND.values())]  # fmt: skip
    tests = {"exam": tmp_path / "exam.jsonl", "studies": tmp_path / "studies.jsonl"}
    plain = write(tmp_path / "a.jsonl", rows)
    plain.write_text("\n" + plain.read_text().replace("\n", "\n\n", 3), encoding="utf-8")  # blank lines are no items
    packed, table = tmp_path / "a.jsonl.gz", tmp_path / "a.parquet"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    pq.write_table(pa.Table.from_pylist(rows), table)
    one, two, three = (
        find_duplicates([path], tests, SETTINGS, say=lambda line: None) for path in (plain, packed, table)
    )
    assert one == two == three and len(one) >= 10


def test_two_processes_find_the_same(find: Callable[..., list[Match]], monkeypatch: pytest.MonkeyPatch) -> None:
    files = (
        [{"id": f"p{n}"} | row for n, (row, _, _) in enumerate(FOUND.values())],
        [{"id": f"s{n}"} | row for n, row in enumerate(STAYS.values())],
    )
    alone = find(*files, processes=1)
    monkeypatch.setattr(digesting, "SMALL", 0)
    assert find(*files, processes=2) == alone != []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"id": "a", "question": "x"}\n{"id": ', "row 2: not JSON"),
        ("[1]\n", "row 1: expected an object, found list"),
        ('{"id": "a", "question": "x", "id": "b"}\n', "row 1: key 'id' is there twice in one object"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text(content)
    with pytest.raises(GazalError, match=message):
        find_duplicates([path], {}, SETTINGS, say=lambda line: None)
    with pytest.raises(GazalError, match="no such file"):
        find_duplicates([tmp_path / "none.jsonl"], {}, SETTINGS, say=lambda line: None)


def test_no_rows_at_all(tmp_path: Path) -> None:
    path = write(tmp_path / "none.jsonl", [])
    assert find_duplicates([path], {}, SETTINGS, say=lambda line: None) == [] == find_within(path, SETTINGS)


# ---- knowledge-derived items --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", REASONING_TYPES)
@pytest.mark.parametrize("variety", ["plain", "rich"])
def test_knowledge_derived_items_of_other_buckets_all_stay(tmp_path: Path, kind: str, variety: str) -> None:
    """Dev's and test's items are other questions than the training data's, however alike the wording."""
    train = list(draw(kind, 300, 1, range(80), variety=variety))
    paths = [tmp_path / "train.jsonl", tmp_path / "test.jsonl"]
    write_items_jsonl(paths[0], train)
    write_items_jsonl(paths[1], draw(kind, 150, 1, range(80, 100), variety=variety))
    assert [
        match
        for match in find_duplicates(paths[:1], {"test": paths[1]}, SETTINGS, say=lambda line: None)
        if match.against == "test"
    ] == []


@pytest.mark.parametrize(("one", "other", "same"), [
    ("Findings: Cataract; Seizure; Short stature.\nWhich disease explains these findings best?", "Findings: Short stature; Cataract; Seizure.\nWhat is the most likely diagnosis?", True),
    ("Findings: Cataract; Seizure; Short stature.\nWhich disease explains these findings best?", "Findings: Cataract; Seizure; Tall stature.\nWhich disease explains these findings best?", False),
    ("Wells score. Present: Malignancy; Heart rate above 100; Haemoptysis. Absent: all others.\nWhat is the score?", "Wells score. Present: Haemoptysis; Malignancy; Heart rate above 100. Absent: all others.\nWhich estimate is right?", True),
    ("Wells score. Present: Malignancy; Heart rate above 100; Haemoptysis. Absent: all others.\nWhat is the score?", "Wells score. Present: Malignancy; Heart rate above 100; Immobilisation. Absent: all others.\nWhat is the score?", False),
    ("Patient: 45-year-old woman, CrCl: 45 mL/min.\nDrug: digoxin.\nWhich dose fits?", "Patient: 45-year-old woman, CrCl: 46 mL/min.\nDrug: digoxin.\nWhich dose fits?", False),
    ("Two diagnoses are equally likely: Gout; Pseudogout.\nWhich finding separates them best?", "Two diagnoses are equally likely: Gout; Septic arthritis.\nWhich finding separates them best?", False),
])  # fmt: skip
def test_lists_are_compared_as_sets(tmp_path: Path, one: str, other: str, same: bool) -> None:
    """Without a generator's word for it: elements in another order are the same question, another element is not."""
    options = ["First answer of four", "Second", "Third", "Fourth"]
    path = write(
        tmp_path / "a.jsonl",
        [{"id": "1", "question": one, "options": options}, {"id": "2", "question": other, "options": options}],
    )
    assert [match.id for match in find_duplicates([path], {}, SETTINGS, say=lambda line: None)] == ["2"] * same


@pytest.mark.parametrize("field", ["question_key", "bucket"])
def test_a_generators_key_says_what_is_another_question(tmp_path: Path, field: str) -> None:
    row = {"question": STEM, "options": OPTIONS}
    rows = [row | {"id": "a", field: 1}, row | {"id": "b", field: 2}, row | {"id": "c", field: 1}, row | {"id": "d"}]
    matches = find_duplicates([write(tmp_path / "a.jsonl", rows)], {}, SETTINGS, say=lambda line: None)
    assert [(match.id, match.match_id) for match in matches] == [("c", "a"), ("d", "a")]


# ---- properties --------------------------------------------------------------------------------------------------------------

VOCABULARY = [
    *"fever cough rash pallor gout anaemia dyspnoea oedema jaundice tremor vertigo syncope".split(),
    "which",
    "of",
    "the",
    "is",
    "not",
    "12",
    "45",
    "7.5",
]
ROWS = st.lists(st.fixed_dictionaries({
    "question": st.lists(st.sampled_from(VOCABULARY), max_size=14).map(" ".join),
    "options": st.lists(st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=2).map(" ".join), max_size=4, unique=True),
}), max_size=25)  # fmt: skip


@given(ROWS, ROWS, st.randoms())
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_removed_only_with_a_match_that_stands(
    tmp_path: Path, train: list[dict[str, Any]], tests: list[dict[str, Any]], random: Any
) -> None:
    train = [row | {"id": f"r{n}"} for n, row in enumerate(train)]
    exam = write(tmp_path / "exam.jsonl", [row | {"id": f"t{n}"} for n, row in enumerate(tests)])
    whole = write(tmp_path / "whole.jsonl", train)
    found = find_duplicates([whole], {"exam": exam}, SETTINGS, say=lambda line: None)
    removed = {match.id for match in found}
    corpus = Corpus([digest(asked(row) for row in [*tests, *train])], SETTINGS, len(tests))
    for match in found:
        at = int(match.match_id[1:]) + (len(tests) if match.against == "train" else 0)
        judged = corpus.judge(np.array([[at, len(tests) + match.row]]))
        assert len(judged.i) == 1 and match.score == round(float(judged.score[0]), 4)
        if match.against == "train":
            assert (
                int(match.match_id[1:]) < match.row and match.match_id not in removed
            )  # the first one wins, and stays
    # In parts, the same rows go: files are read one behind the other.
    cut = random.randint(0, len(train))
    parts = [write(tmp_path / f"part{n}.jsonl", part) for n, part in enumerate((train[:cut], train[cut:]))]
    assert [match[2:] for match in find_duplicates(parts, {"exam": exam}, SETTINGS, say=lambda line: None)] == [
        match[2:] for match in found
    ]
    # What test items remove does not depend on the order of the rows.
    shuffled = random.sample(train, len(train))
    against = {
        (match.id, match.match_id, match.kind) for match in found if match.against == "exam" and match.kind == "exact"
    }
    again = find_duplicates(
        [write(tmp_path / "shuffled.jsonl", shuffled)], {"exam": exam}, SETTINGS, say=lambda line: None
    )
    assert {
        (match.id, match.match_id, match.kind) for match in again if match.against == "exam" and match.kind == "exact"
    } == against


@given(st.lists(st.integers(0, 40), min_size=1, max_size=120), st.integers(0, 120))
def test_pairs_are_those_of_equal_keys(keys: list[int], first: int) -> None:
    found = {tuple(pair) for pair in pairs(np.array(keys, np.uint64), np.arange(len(keys)) * 2, first).tolist()}
    every = {(2 * i, 2 * j) for j in range(len(keys)) for i in range(j) if keys[i] == keys[j] and 2 * j >= first}
    assert found <= every
    if max(map(keys.count, keys)) <= NEAREST:
        assert found == every


def test_pairs_of_one_huge_bucket_stay_linear() -> None:
    found = pairs(np.zeros(5000, np.uint64), np.arange(5000), 0)
    assert len(found) <= 5000 * 2 * NEAREST and {j for _, j in found.tolist()} == set(range(1, 5000))


@given(st.lists(st.integers(0, 9), max_size=40), st.lists(st.integers(0, 9), max_size=40))
def test_crossing_pairs_are_those_of_equal_keys(first: list[int], second: list[int]) -> None:
    i, j = crossing(np.array(first, np.uint64), np.array(second, np.uint64))
    found = list(zip(i.tolist(), j.tolist(), strict=True))
    assert len(found) == len(set(found)) and all(first[a] == second[b] for a, b in found)
    assert [sum(b == at for _, b in found) for at in range(len(second))] == [
        min(first.count(key), FIRST) for key in second
    ]


@given(st.lists(st.sets(st.integers(0, 50)), max_size=12), st.lists(st.sets(st.integers(0, 50)), max_size=12))
def test_shared_weighs_sets_pairwise(first: list[set[int]], second: list[set[int]]) -> None:
    n = min(len(first), len(second))

    def flat(sets: list[set[int]]) -> tuple[np.ndarray, np.ndarray]:
        return np.array([v for s in sets[:n] for v in sorted(s)], np.uint32), np.array(
            [len(s) for s in sets[:n]], np.int64
        )

    weight = np.arange(64) + 0.5
    both, one, other = shared(flat(first), flat(second), weight)
    for k in range(n):
        assert [both[k], one[k], other[k]] == [
            sum(weight[v] for v in s) for s in (first[k] & second[k], first[k], second[k])
        ]


def test_signatures_meet_as_often_as_theory_says() -> None:
    """24 bands of 5 minima: two sets of Jaccard s share a band with 1 - (1 - s^5)^24."""
    rng = np.random.default_rng(0)
    values = [rng.choice(1 << 32, 40, replace=False) for _ in range(2000)]
    for common, jaccard in ((32, 2 / 3), (20, 1 / 3)):
        rows = [
            row
            for k in range(0, 2000, 2)
            for row in (np.sort(values[k]), np.sort(np.concatenate([values[k][:common], values[k + 1][common:]])))
        ]
        sets = Ragged(np.concatenate(rows).astype(np.uint32), np.full(2000, 40))
        met = np.zeros(1000, bool)
        for keys in band_keys(sets, np.arange(2000), 24, 5, 0):
            met |= keys[::2] == keys[1::2]
        assert abs(met.mean() - (1 - (1 - jaccard**5) ** 24)) < 0.04


def test_keep_leaves_rows_whole_that_would_be_empty() -> None:
    sets = Ragged(np.arange(9, dtype=np.uint32), np.array([4, 0, 5]))
    left = keep(sets, np.array([True, True, True, False, True, False, False, False, False]))
    assert left.sizes.tolist() == [3, 0, 5] and left.values.tolist() == [0, 1, 2, 4, 5, 6, 7, 8]


@given(st.lists(st.integers(0, 9)))
def test_distinct_sorts(values: list[int]) -> None:
    assert distinct(np.array(values, np.int64)).tolist() == sorted(set(values))


@given(st.text(max_size=60))
def test_normal_is_settled(text: str) -> None:
    assert words(normal(text)) == words(text)


@pytest.mark.parametrize(
    ("options", "is_computed"),
    [
        (["5 mg", "10 mg", "15 mg", "20 mg"], True),
        (["0.5", "1/3", "-2", "$ 7"], True),
        (["Stage 1", "Stage 2"], True),
        (["5 mg/kg", "10 mg/kg", "none of the usual doses", "it depends on the weight"], True),
        (["10 mL/kg of saline by a pump", "20 mL/kg of plasma by hand"], True),
        (["Ampicillin", "Insulin"], False),
        (["Give 5 mg of haloperidol at once", "Wait for 2 hours and see"], False),
        ([], False),
    ],
)
def test_options_that_are_numbers(options: list[str], is_computed: bool) -> None:
    assert computed([words(option) for option in options]) == is_computed


@given(st.text(max_size=60))
def test_squeezed_is_the_same_without_punctuation(text: str) -> None:
    assert (
        squeezed(words("99.5 %, pH 7.40: i.e. 1,250;")) == squeezed(words("995 % pH 740 ie 1250")) == "995ph740ie1250"
    )
    assert squeezed(words(text)) == squeezed(words(text.replace(" ", "  ")))


def test_words_and_lists() -> None:
    assert words("Ten ﬁbres, 5mg/10 mL; 6,500/mm³ é 1.50") == [
        "ten",
        "fibres",
        "5",
        "mg",
        "10",
        "ml",
        "6500",
        "mm",
        "3",
        "e",
        "1.50",
    ]
    assert enumeration("Findings: B; a c.\nWhich; one?") == [["a c", "b"], ["one", "which"]]
    assert enumeration("Seen:\n- Cough\n- Fever\nNot seen: rash") and not enumeration("No list, only a sentence.")


@pytest.mark.skipif(not FOLDER.exists(), reason="benchmarks are not here")
def test_mmlu_pro_holds_95_exact_pairs() -> None:
    found = find_within([FOLDER / "mmlu_pro_health.jsonl.gz", FOLDER / "mmlu_pro_biology.jsonl.gz"], SETTINGS)
    assert sum(kind == "exact" for _, _, kind, _ in found) == 95
    assert all(first != later for first, later, _, _ in found) and len({pair[:2] for pair in found}) == len(found)
