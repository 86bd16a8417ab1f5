"""The plants are what they say, the 8-gram port does what is described, and the benchmark runs from end to end on few documents."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import curation as bench
import numpy as np
import plants
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gazal.common.paths import ROOT
from gazal.curation.duplicates import find_duplicates
from gazal.curation.text import POLARITY, asked, words
from gazal.recipe.data import CurationSection

FOLDER = ROOT.parent / "shared" / "benchmarks"
real = pytest.mark.skipif(not FOLDER.exists(), reason="benchmarks are not here")
STEM = "A 45-year-old man has not slept for 3 days, and fever, chills and a rash of 2 cm appear. What is the cause?"


@given(st.integers(0, 10_000))
def test_word_edits_leave_numbers_and_polarity(seed: int) -> None:
    edited = plants.edit_words(STEM, ["spleen", "vessel"], np.random.default_rng(seed))
    for kept in (lambda word: word[0].isdigit(), lambda word: word in POLARITY):
        assert Counter(filter(kept, words(edited))) == Counter(filter(kept, words(STEM)))
    assert len(Counter(words(STEM)) - Counter(words(edited))) <= round(0.1 * len(STEM.split()))


@given(st.integers(0, 10_000))
def test_disguise_leaves_the_words(seed: int) -> None:
    assert words(plants.disguise(STEM, np.random.default_rng(seed))) == words(STEM)


@given(st.integers(0, 10_000))
def test_a_changed_number_is_one_other_number(seed: int) -> None:
    one, other = words(STEM), words(plants.change_numbers(STEM, np.random.default_rng(seed)))
    changed = [(a, b) for a, b in zip(one, other, strict=True) if a != b]
    assert len(changed) == 1 and all(re.fullmatch(r"\d+", word) for word in changed[0])


@given(st.integers(0, 10_000))
def test_a_tenth_of_the_words_is_replaced(seed: int) -> None:
    edited = plants.replace_words(STEM, ["spleen", "vessel"], np.random.default_rng(seed))
    changed = sum(one != other for one, other in zip(edited.split(), STEM.split(), strict=True))
    assert changed == round(0.1 * len(STEM.split()))


@given(st.integers(0, 10_000))
def test_a_moved_number_is_still_there(seed: int) -> None:
    assert Counter(words(plants.move_number(STEM, np.random.default_rng(seed)))) == Counter(words(STEM))


@given(st.integers(0, 10_000))
def test_appended_options_are_parsed_off_again(seed: int) -> None:
    row = {"question": STEM, "options": {"A": "malaria", "B": "gout", "C": "none of them"}}
    found = asked({"question": plants.appended(row, np.random.default_rng(seed))})
    assert (found.stem, found.options) == (STEM, ["malaria", "gout", "none of them"])


def test_grams_are_as_described() -> None:
    assert list(bench.grams("One, two  THREE four five six-seven eight nine.")) == [
        "one two three four five sixseven eight nine"
    ]
    assert list(bench.grams("A question of seven words is never flagged")) == [
        "a question of seven words is never flagged"
    ]
    assert list(bench.grams("seven words are not enough for it")) == []


@real
def test_a_thousand_plants_in_stated_shares() -> None:
    made = plants.make_plants(FOLDER, 3)
    assert (
        Counter(plant.kind for plant in made) == {kind: count for kind, (count, _, _) in plants.KINDS.items()}
        and len(made) == 1000
    )
    assert made == plants.make_plants(FOLDER, 3)
    assert len({(plant.test, plant.test_id) for plant in made}) == 1000  # each of another test item
    known = {row["id"] for stem in plants.OTHERS for row in plants.rows(FOLDER, stem)}
    assert known.issuperset(plants.KNOWN)


@real
def test_hard_plants_have_streams_of_their_own() -> None:
    made = plants.make_plants(FOLDER, 3, kinds=plants.HARD)
    assert Counter(plant.kind for plant in made) == {kind: count for kind, (count, _, _) in plants.HARD.items()}
    assert made == plants.make_plants(FOLDER, 3, kinds=plants.HARD) != plants.make_plants(FOLDER, 4, kinds=plants.HARD)
    first = next(iter(plants.HARD))
    alone = plants.make_plants(FOLDER, 3, kinds={first: plants.HARD[first]})
    assert alone == [plant for plant in made if plant.kind == first]


@pytest.mark.slow
@real
def test_recall_and_false_positives(tmp_path: Path) -> None:
    """What the page states, on other plants: at least 98 % found, under 0.2 % of the real other questions flagged."""
    made = [*plants.make_plants(FOLDER, 3), *plants.make_plants(FOLDER, 3, kinds=plants.HARD)]
    others = [row for stem in plants.OTHERS for row in plants.rows(FOLDER, stem)]
    files = [tmp_path / "planted.jsonl", tmp_path / "others.jsonl"]
    for path, rows in zip(files, ([plant.row for plant in made], others), strict=True):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tests = {name: FOLDER / f"{stem}.jsonl.gz" for name, stem in plants.TESTS.items()}
    found = {
        (match.file, match.row)
        for match in find_duplicates(files, tests, CurationSection(), say=lambda line: None)
        if match.against != "train"
    }
    counted = bench.counted(made, [row["id"] for row in others], found)
    hits, planted = counted["recall"]
    assert (
        hits / planted >= 0.98 and len(counted["real_flagged"]) <= 0.002 * len(others) and counted["known_found"] >= 5
    )
    for kind in (
        "verbatim",
        "options appended",
        "options reordered",
        "disguised",
        "short stem",
        "abstract in rationale",
        "same pmid",
    ):
        assert counted["kinds"][kind][0] >= 0.99 * counted["kinds"][kind][1], kind
    for kind in plants.HARD:
        least = 0.9 if kind == "words replaced" else 0.97  # of a short stem one word may be all that it says
        assert counted["kinds"][kind][0] >= least * counted["kinds"][kind][1], kind
    assert counted["kinds"]["numbers changed"][0] <= 1


@pytest.mark.slow
@real
def test_documents_and_one_measurement(tmp_path: Path) -> None:
    path = tmp_path / "documents.jsonl"
    size = bench.Documents(FOLDER).write(path, 300, 0)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 300 == len({row["id"] for row in rows}) and 300 <= size["words"] <= 500
    for method in ("ours", "command"):
        run = bench.measured(method, FOLDER, [path], tmp_path / "out.json")
        assert run["found"] == [] and run["peak_mib"] > 50
        assert run["inside"] > 0 and (
            method == "command" or run["inside"] >= size["copies"]
        )  # a filter may have taken a copy first
