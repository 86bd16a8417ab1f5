"""What MedMCQA's keys count from: told by the keys, by the user, and never guessed."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from helpers import shapes_samples
from helpers.shapes_samples import write_rows

from gazal.common.errors import GazalError
from gazal.common.paths import ROOT
from gazal.data.benchmarks import items_file, load_benchmark, load_benchmarks
from gazal.data.medmcqa_keys import key_base, named_letter
from gazal.recipe.command_line import with_key_base
from gazal.recipe.load import load_recipe

CASES = ROOT.parent / "shared" / "cases" / "data"
FOLDER = ROOT.parent / "shared" / "benchmarks"


def numbered(*keys: Any, exp: tuple[str | None, ...] = ()) -> list[tuple[int, dict[str, Any]]]:
    said = [*exp, *[None] * len(keys)]
    return [(n, {"cop": key, "exp": said[n - 1]}) for n, key in enumerate(keys, 1)]


def rows(*keys: Any, exp: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    samples = shapes_samples.medmcqa(len(keys))
    said = [*exp, *["Because."] * len(keys)]
    return [row | {"cop": key, "exp": said[n]} for n, (row, key) in enumerate(zip(samples, keys, strict=True))]


@pytest.mark.parametrize(
    ("keys", "base"),
    [
        ([0, 1, 2, 3], 0),
        ([1, 2, 3, 4], 1),
        ([0, 2], 0),
        ([3, -1, 4], 1),
        ([None, 0, -1], 0),
        ([4], 1),
        ([0], 0),
        ([], None),
        ([-1, -1], None),
        ([None, -1], None),
    ],
)
@pytest.mark.parametrize("given", [None, 0, 1])
def test_keys_that_tell_decide_whatever_is_given(keys: list[Any], base: int | None, given: int | None) -> None:
    assert key_base(numbered(*keys), given) == base


@pytest.mark.parametrize("keys", [[1, 2, 3], [2], [3, 1], [1, -1, None]])
def test_keys_that_do_not_tell_are_asked_about(keys: list[Any]) -> None:
    with pytest.raises(
        ValueError, match="^row 1: cop: keys [123, ]+ fit counting from 0 and from 1; say which by "
    ) as error:
        key_base(numbered(*keys))
    assert str(error.value).endswith("--key-base 0 or --key-base 1 (recipe: data.key_base)")
    assert [key_base(numbered(*keys), base) for base in (0, 1)] == [0, 1]


@pytest.mark.parametrize(
    ("exp", "said"),
    [
        (
            ("Ans. is 'b' i.e., Heparin", "Ans. is 'c'", "Ans. is 'd'"),
            "the explanations fit --key-base 0 (3 of 3 that name a letter)",
        ),
        (("Ans: A", "(b) Heparin", "It is so."), "the explanations fit --key-base 1 (2 of 2 that name a letter)"),
        (("Ans: A", "Ans: B", "Ans: D"), "the explanations fit --key-base 1 (2 of 3 that name a letter)"),
        (("Ans: D", "Ans: C", "Ans: D"), "the explanations fit --key-base 0 (2 of 3 that name a letter)"),
        (("Ans: A", "Ans: C", "No letter."), "(recipe: data.key_base)"),
        (("Ans: D", "Ans: A", "Ans: A"), "(recipe: data.key_base)"),
    ],
)
def test_what_the_explanations_fit_is_said(exp: tuple[str, ...], said: str) -> None:
    with pytest.raises(ValueError, match="--key-base") as error:
        key_base(numbered(1, 2, 3, exp=exp))
    assert str(error.value).endswith(said)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ([1, 0, 2, 4], "row 4: cop: expected 0 to 3 or 1 to 4 in one file, found 0 in row 2 and 4 in row 4"),
        ([4, 0], "row 2: cop: expected 0 to 3 or 1 to 4 in one file, found 0 in row 2 and 4 in row 1"),
        ([1, 5], "row 2: cop: expected 0 to 3 or 1 to 4, found 5"),
        ([1, -2], "row 2: cop: expected 0 to 3 or 1 to 4, found -2"),
        (["a"], "row 1: cop: expected 0 to 3 or 1 to 4, found 'a'"),
        ([1, 1.5], "row 2: cop: expected 0 to 3 or 1 to 4, found 1.5"),
        ([True], "row 1: cop: expected 0 to 3 or 1 to 4, found True"),
        ([[1]], "row 1: cop: expected 0 to 3 or 1 to 4, found [1]"),
    ],
)
@pytest.mark.parametrize("given", [None, 1])
def test_keys_that_make_no_sense_are_refused_by_row(keys: list[Any], said: str, given: int | None) -> None:
    with pytest.raises(ValueError, match="^row [0-9]: cop: expected ") as error:
        key_base(numbered(*keys), given)
    assert str(error.value) == said


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("Ans. is 'b' i.e., Heparin", "B"),
        ("Ans: B", "B"),
        ("Ans:B", "B"),
        ("Ans. B: Heparin", "B"),
        ("Ans. b. Heparin", "B"),
        ("Ans-b", "B"),
        ("Ans. (b) Heparin (Ref: Harrison)", "B"),
        ("ANSWER: (B)", "B"),
        ("Answer is B", "B"),
        ("Answer- C", "C"),
        ("The correct answer is option B.", "B"),
        ("So the right option is (d).", "D"),
        ("The correct answer is A.", "A"),
        ("Hence option C is correct.", "C"),
        ("(b) Heparin acts at once.", "B"),
        ("b) Heparin acts at once.", "B"),
        ("B. Heparin acts at once.", "B"),
        ("Ans. is 'a' i.e., Aspirin; option b is wrong.", "A"),
        ("(a) is wrong, (b) is right, (c) is wrong", None),
        ("The answer is a drug that acts at once.", None),
        ("The answer is bleeding.", None),
        ("Ans. D's sign", None),
        ("Heparin acts at once.", None),
        ("", None),
        (None, None),
        (3, None),
    ],
)
def test_letters_that_explanations_name(text: Any, letter: str | None) -> None:
    assert named_letter(text) == letter


@pytest.mark.skipif(not FOLDER.is_dir(), reason="the benchmarks folder is not here")
def test_letters_that_real_explanations_name_are_nearly_all_the_key() -> None:
    with gzip.open(FOLDER / "medmcqa_validation.jsonl.gz", "rt", encoding="utf-8") as handle:
        read = [json.loads(line) for line in handle]
    named = [(letter, row["answer_idx"]) for row in read if (letter := named_letter(row.get("explanation")))]
    assert len(named) > 500 and sum(one == other for one, other in named) > 0.9 * len(named)


@pytest.mark.parametrize("ending", [".jsonl", ".json.gz", ".parquet"])
def test_a_file_whose_keys_do_not_tell_is_read_if_the_base_is_given(tmp_path: Path, capsys: Any, ending: str) -> None:
    path = write_rows(tmp_path / f"mine{ending}", rows(1, 2, 3))
    with pytest.raises(GazalError) as error:
        load_benchmark(str(path))
    assert str(error.value).startswith(f"{path}: row 1: cop: keys 1, 2, 3 fit") and "\n" not in str(error.value)
    assert capsys.readouterr().err == ""
    for base, letters in ((0, "BCD"), (1, "ABC")):
        found, _ = load_benchmarks([str(path)], key_base=base)
        assert "".join(item.answer_idx for item in found["mine"]) == letters
        assert f"read as medmcqa is published; cop counts from {base} " in capsys.readouterr().err
        assert [item.answer_idx for item in items_file(path, base)] == list(letters)


def test_a_file_without_any_key_is_not_asked_about(tmp_path: Path, capsys: Any) -> None:
    path = write_rows(tmp_path / "mine.jsonl", rows(-1, -1))
    with pytest.raises(GazalError) as error:
        load_benchmark(str(path))
    assert str(error.value) == f"{path}: row 1: cop: no key" and capsys.readouterr().err == ""


def test_the_option_is_short_for_the_recipe_value() -> None:
    assert with_key_base(["seed=2"], None) == ["seed=2"]
    assert [load_recipe("embedded", with_key_base([], base)).data.key_base for base in (None, 0, 1)] == [None, 0, 1]
    with pytest.raises(GazalError, match="data.key_base"):
        load_recipe("embedded", ["data.key_base=2"])


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not here")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("medmcqa_zero_based_without_0", "--key-base 1 (recipe: data.key_base)"),
        ("medmcqa_exp_says", "the explanations fit --key-base 0 (3 of 3 that name a letter)"),
        ("medmcqa_minus1", "row 1: cop: no key"),
        ("mmlupro_disagree", "row 1: answer 'A' and answer_index 1 (B) disagree"),
        ("dup_option_letters", "row 1: key 'B' is there twice in one object"),
    ],
)
def test_files_of_the_shared_cases(name: str, said: str) -> None:
    with pytest.raises(GazalError) as error:
        load_benchmark(str(CASES / f"{name}.jsonl"))
    assert str(error.value).startswith(f"{CASES / name}.jsonl: row 1: ") and str(error.value).endswith(said)
