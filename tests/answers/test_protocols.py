"""Other people's protocols: what each is known to do, where all agree with ours, and where they are fooled."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from helpers import predictions
from helpers.items import make_item
from helpers.predictions import rows, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from gazal.answers.protocols import OURS, PROTOCOLS, SEEDS, grade
from gazal.common.errors import GazalError
from gazal.rewards.red_team import read_cases
from gazal.scoring.protocol_comparison import compare_protocols, honest_forms, red_team
from gazal.scoring.report import results_table
from gazal.scoring.score import score_folder

OPTIONS = {"A": "Aspirin", "B": "Warfarin", "C": "Heparin", "D": "Metformin"}
OTHERS = [name for name in PROTOCOLS if name != OURS]
THINKING = "<think>\nStep 1: A. Aspirin fits; the answer is A.\nStep 2: no, C.\n</think>\n\n## Clinical Assessment\n"


def read(name: str, *completions: str, options: dict = OPTIONS, key: str = "C"):
    return grade(name, completions, [options] * len(completions), [key] * len(completions))


def letters(name: str, completion: str, options: dict = OPTIONS) -> list[str | None]:
    """The different letters that one completion is given, in order."""
    return list(dict.fromkeys(read(name, completion, options=options).readings[0]))


def test_an_unknown_protocol_names_the_known_ones() -> None:
    with pytest.raises(
        GazalError,
        match="--protocol ours_: expected one of ours, best_of_first_and_last, last_letter, mmlu_pro, default_a",
    ):
        read("ours_", "C")


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize(
    "form",
    [
        "**Answer:** C",
        "Answer: C",
        "The answer is (C).",
        "The correct answer is C",
        "\\boxed{C}",
        "\\boxed{\\text{C}}",
        "<answer>C</answer>",
        '{"answer": "C"}',
        "Final answer: C. Heparin",
        "Option C",
        "C",
        "(C)",
        "**C. Heparin**",
    ],
)
@pytest.mark.parametrize("before", ["", THINKING])
def test_all_agree_on_plain_answers(name: str, form: str, before: str) -> None:
    found = read(name, before + form)
    assert set(found.readings[0]) == {"C"} and found.how == ["read"] and found.correct[0] == 1


# Each as the scorers' own users report it, or as their descriptions have it.
@pytest.mark.parametrize(
    ("name", "completion", "expected"),
    [
        ("best_of_first_and_last", "heparin, not aspirin", ["C", "A"]),
        ("best_of_first_and_last", "The answer is A. No, the answer is C.", ["A", "C"]),
        ("best_of_first_and_last", "The answer is heparin", ["C"]),
        ("best_of_first_and_last", "The answer is Because", ["B"]),
        ("best_of_first_and_last", "A patient with B or C", ["B", "C"]),
        ("best_of_first_and_last", "Reasoning: B\n## Final Response\n\nD it is", ["D"]),
        ("best_of_first_and_last", "heparine infusion", ["C"]),
        ("best_of_first_and_last", "metfromin", ["D"]),
        ("last_letter", "Answer: C. I am sure", ["I"]),
        ("last_letter", "the answer is c", [None]),
        ("last_letter", "<think>A or B</think>", ["B"]),
        ("last_letter", "BC vitamin-D", ["D"]),
        ("mmlu_pro", "the answer is (B), or the answer is C", ["B"]),
        ("mmlu_pro", "The answer is Definitely C", ["D"]),
        ("mmlu_pro", "Answer: B, answer: A\nAnswer: D", ["A"]),
        ("mmlu_pro", "Answer: B", ["B"]),
        ("mmlu_pro", "A, B, or rather C", ["C"]),
        ("default_a", "", ["A"]),
        ("default_a", "I cannot determine this.", ["A"]),
        ("default_a", "heparin", ["A"]),
        ("default_a", "C or D", ["C"]),
        ("default_a", "C/D", ["C"]),
        ("default_a", "Option D is better.\nThat is all.", ["D"]),
    ],
)
def test_what_each_is_known_to_read(name: str, completion: str, expected: list[str | None]) -> None:
    assert letters(name, completion) == expected
    assert read(OURS, "I cannot determine this.", "heparin, not aspirin", "").letters == [None] * 3


def test_i_cannot_determine_this_is_an_option_to_those_who_guess() -> None:
    for name in ("best_of_first_and_last", "mmlu_pro", "default_a"):
        found = read(name, "we cannot determine this.")
        assert found.how == ["guessed"] and set(found.readings[0]) <= set(OPTIONS), name
    assert read("last_letter", "we cannot determine this.").how == ["no_letter"]
    ten = {letter: f"drug {letter.lower()}" for letter in "ABCDEFGHIJ"}
    assert (
        letters("last_letter", "I cannot determine this.", ten)
        == letters("best_of_first_and_last", "I cannot determine this.", ten)
        == ["I"]
    )


def test_first_and_last_are_weighed_over_the_whole_data_set() -> None:
    both = read("best_of_first_and_last", "C, not A", "C, not A", "A, not C")
    assert both.correct.tolist() == [1, 1, 0] and both.letters == ["C", "C", "A"]  # first: 2 of 3; last: 1 of 3
    assert read("best_of_first_and_last", "A, not C", "A, not C", "C, not A").letters == ["C", "C", "A"]  # last


def test_empty_completions_leave_the_denominator_of_one_protocol_only() -> None:
    found = read("best_of_first_and_last", "C", "", " \n")
    assert found.how == ["read", "dropped", "dropped"] and found.counted.tolist() == [True, False, False]
    assert all(read(name, "C", "", " \n").counted.all() for name in PROTOCOLS if name != "best_of_first_and_last")


def test_the_random_letter_is_seeded_and_near_chance() -> None:
    for k in (2, 4, 10):
        options = {letter: f"drug {letter.lower()}" for letter in "ABCDEFGHIJ"[:k]}
        texts = ["no idea"] * 600
        one, two = (read("mmlu_pro", *texts, options=options, key="B") for _ in range(2))
        assert (one.readings == two.readings).all() and one.readings.shape == (600, SEEDS)
        assert set(one.readings.ravel()) == set(options)
        assert one.correct.mean() == pytest.approx(1 / k, abs=4 * (1 / k * (1 - 1 / k) / (600 * SEEDS)) ** 0.5)
        assert len({tuple(column) for column in one.readings.T}) == SEEDS
    mixed = read("mmlu_pro", *["no idea", "Answer: C"] * 300)
    alone = read("mmlu_pro", *["no idea"] * 600)
    assert (mixed.readings[::2] == alone.readings[::2]).all()  # a draw does not depend on what others answer
    assert mixed.how[:2] == ["guessed", "read"] and (mixed.correct[1::2] == 1).all()


@settings(max_examples=60)
@given(
    st.lists(st.text(st.sampled_from("ABCI answeri s:()\n.*é"), max_size=60), min_size=1, max_size=6),
    st.sampled_from("ABCD"),
)
def test_any_text_is_graded(texts: list[str], key: str) -> None:
    for name, rule in PROTOCOLS.items():
        found = read(name, *texts, key=key)
        assert found.readings.shape == (len(texts), rule.readings) and len(found.how) == len(found.letters) == len(
            texts
        )
        assert ((found.correct >= 0) & (found.correct <= 1)).all()
        assert all(letter is None or letter in "ABCDEFGHIJKLMN" for letter in found.readings.ravel())
        for how, row in zip(found.how, found.readings, strict=True):
            assert (how in ("no_letter", "dropped")) == all(letter is None for letter in row)
            assert how != "guessed" or set(row) <= set(OPTIONS)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_many_and_long_texts_are_read(name: str) -> None:
    text = (
        "<think>\n"
        + "a finding and Another one. " * 40
        + "\n</think>\n"
        + "it fits the course " * 30
        + "\n**Answer:** C"
    )
    assert read(name, *[text] * 10_000).correct.mean() == 1
    read(name, "answer: " * 60_000, "answer is" + " " * 500_000, "A " * 250_000, ": " * 250_000, "a" * 500_000)


def test_honest_forms_agree_and_the_red_team_does_not() -> None:
    forms = honest_forms()
    assert forms["completions"] >= 8 and forms["agreement"][OURS] == 1
    assert all(forms["agreement"][name] == 1 for name in ("best_of_first_and_last", "mmlu_pro", "default_a")), forms
    cases = read_cases()
    found = red_team()
    assert found["cases"] == len(cases) and found["families"] == len({case.family for case in cases})
    assert found["null"] == sum(case.letter is None for case in cases) > 0.5 * len(cases)
    rows = found["protocols"]
    assert rows[OURS] == {"letter": 0, "key": 0}
    for name in OTHERS:
        assert 0 < rows[name]["key"] <= rows[name]["letter"] <= 1, name
        assert 0 < rows[name]["family_key"] <= 1 and rows[name]["family"] in {case.family for case in cases}
    assert min(rows[name]["letter"] for name in ("mmlu_pro", "default_a")) == 1  # these two always answer
    assert max(rows[name]["key"] for name in OTHERS) > 0.2


ITEMS = [make_item(n, reasoning_type="diagnosis") for n in range(12)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return predictions.folder(tmp_path, ITEMS, base=rows("rrrcccuuuuee", ITEMS), grpo=rows("rrrrrrrrrrww", ITEMS))


def test_scoring_by_another_protocol_stands_beside_ours(folder: Path) -> None:
    ours = score_folder(folder)
    kept = (folder / "scores.json").read_bytes()
    base = {}
    for name in OTHERS:
        scores = score_folder(folder, name)
        assert json.loads((folder / f"scores.{name}.json").read_text()) == scores and scores["protocol"] == name
        assert scores["paired"] == [] and scores["baselines"] == ours["baselines"]
        assert (
            scores["models"]["grpo"]["benchmarks"]["test"]["accuracy"]
            == ours["models"]["grpo"]["benchmarks"]["test"]["accuracy"]
        )
        base[name] = scores["models"]["base"]["benchmarks"]["test"]
        assert base[name]["ci95"][0] <= base[name]["accuracy"] <= base[name]["ci95"][1]
        assert f"Scored by the protocol {name}, not by ours" in results_table(scores)
    assert (folder / "scores.json").read_bytes() == kept and "not by ours" not in results_table(ours)
    assert ours["models"]["base"]["benchmarks"]["test"]["accuracy"] == 0.25
    assert base["best_of_first_and_last"]["n"] == 10 and base["best_of_first_and_last"]["reasons"] == {
        "guessed": 4,
        "read": 6,
    }
    assert base["best_of_first_and_last"]["accuracy"] >= 0.6 and base["best_of_first_and_last"]["unparsed"] == 0
    assert base["last_letter"]["accuracy"] == 0.25 and base["last_letter"]["reasons"] == {"no_letter": 6, "read": 6}
    guessed_right = base["mmlu_pro"]["accuracy"] * 12 - 6  # of six answers that are drawn
    assert 0.5 < guessed_right < 3 and base["mmlu_pro"]["unparsed"] == 0
    keys = [item.answer_idx for item in ITEMS]
    assert base["default_a"]["accuracy"] == pytest.approx((3 + keys[6:].count("A")) / 12, abs=1e-6)


def test_a_protocol_that_counts_nothing_gives_nothing(folder: Path) -> None:
    write_rows(folder / "base" / "test.parquet", rows("e" * 12, ITEMS))
    cell = score_folder(folder, "best_of_first_and_last")["models"]["base"]["benchmarks"]["test"]
    assert cell["n"] == 12 and cell["accuracy"] == 0 and cell["reasons"] == {"dropped": 12}


def test_without_the_options_no_other_protocol_can_score(folder: Path) -> None:
    (folder / "items/test.jsonl").unlink()
    with pytest.raises(
        GazalError, match="test cannot be scored by last_letter: no items/test.jsonl beside the predictions"
    ):
        score_folder(folder, "last_letter")
    assert not (folder / "scores.last_letter.json").exists()
    assert compare_protocols(folder) == {} and not (folder / "protocols.json").exists()


def test_the_comparison_holds_the_scores_and_is_the_same_bytes_twice(folder: Path) -> None:
    report = compare_protocols(folder)
    first = (folder / "protocols.json").read_bytes()
    assert json.loads(first) == report and list(report["benchmarks"]["test"]) == ["base", "grpo"]
    for name in PROTOCOLS:
        scores = score_folder(folder, name)
        for model, cells in report["benchmarks"]["test"].items():
            assert cells[name] == scores["models"][model]["benchmarks"]["test"]["accuracy"]
    assert report["honest"] == {"completions": 15, "agreement": dict.fromkeys(PROTOCOLS, 1.0)}
    red_team.cache_clear()
    honest_forms.cache_clear()
    compare_protocols(folder)
    assert (folder / "protocols.json").read_bytes() == first


def test_a_run_without_honest_completions_has_no_agreement(folder: Path) -> None:
    for model in ("base", "grpo"):
        write_rows(folder / model / "test.parquet", rows("u" * 12, ITEMS))
    assert compare_protocols(folder)["honest"] == {"completions": 0, "agreement": {}}


def test_command_line(folder: Path, gazal: Callable[..., CompletedProcess[str]]) -> None:
    ours = gazal("score", folder)
    assert ours.returncode == 0 and (folder / "scores.json").exists() and (folder / "protocols.json").exists()
    other = gazal("score", folder, "--protocol", "default_a")
    assert other.returncode == 0 and (folder / "scores.default_a.json").exists()
    assert other.stdout.splitlines()[0].startswith("| accuracy, %") and "not by ours" in other.stdout.splitlines()[-1]
    unknown = gazal("score", folder, "--protocol", "last")
    assert (
        unknown.returncode == 1
        and unknown.stderr
        == "gazal: --protocol last: expected one of ours, best_of_first_and_last, last_letter, mmlu_pro, default_a\n"
    )


def test_reading_is_of_the_prompt_that_opened_the_block() -> None:
    text = "Step 1: weigh A.\n</think>\n\n**Answer:** C"
    assert all(set(grade(name, [text], [OPTIONS], ["C"], True).readings[0]) == {"C"} for name in PROTOCOLS)
    assert np.array_equal(grade(OURS, [text] * 2, [OPTIONS] * 2, ["C"] * 2, [True, False]).correct, [1, 1])
