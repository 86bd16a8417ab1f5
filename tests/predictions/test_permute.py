"""Other orders of the options: what moves, what follows, what stays, and that they are asked and scored."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.items import make_item
from helpers.scripted_engine import Scripted
from hypothesis import given
from hypothesis import strategies as st

from gazal.answers.extract import Extraction, Reason
from gazal.common.errors import GazalError
from gazal.engines.reply import Reply
from gazal.evaluation.command import evaluate_model
from gazal.evaluation.progress import Readings
from gazal.items.reading import read_items
from gazal.items.schema import Item
from gazal.predictions.file import read_predictions
from gazal.predictions.permute import names_letters, orders, origin, permuted, reorder
from gazal.recipe.recipe import Recipe
from gazal.scoring.score import score_folder
from gazal.scoring.stats import interval


def with_options(*texts: str, key: str = "A", **fields: object) -> Item:
    return Item.model_validate(
        {
            "id": "i",
            "question": "q?",
            "options": dict(zip("ABCDEFGHIJ", texts, strict=False)),
            "answer_idx": key,
            **fields,
        }
    )


def quiet(items, count, seed=1):
    return permuted(items, count, seed, "b", say=lambda line: None)


@given(st.integers(2, 10), st.integers(0, 12), st.integers(0, 5), st.integers(0, 99))
def test_orders_differ_from_the_original_and_from_each_other(size, count, seed, number):
    item = make_item(number, size)
    found = list(orders(item, count, seed))
    first = found[: math.factorial(size) - 1]
    assert len(found) == count and all(sorted(order) == list(item.options) for order in found)
    assert list(item.options) not in found and len({tuple(order) for order in first}) == len(first)
    assert list(orders(item, count + 3, seed))[:count] == found


@given(st.integers(2, 10), st.data())
def test_the_key_and_every_text_follow(size, data):
    item = make_item(
        data.draw(st.integers(0, 9)),
        size,
        answer="said",
        reasoning="Step 1: B.",
        matches={"A": 2},
        subject="s",
        context=["c"],
    )
    (turned,) = quiet([item], 1, data.draw(st.integers(0, 9)))
    order = turned.order
    assert turned.options[turned.answer_idx] == item.options[item.answer_idx] == turned.answer
    assert {letter: item.options[at] for letter, at in zip(turned.options, order, strict=True)} == turned.options
    assert (turned.id, turned.question, turned.context, turned.subject) == (
        f"{item.id}#1",
        item.question,
        item.context,
        "s",
    )
    assert turned.reasoning is None and "matches" not in turned.model_dump()


def test_two_options_have_one_other_order_and_it_comes_again():
    assert list(orders(make_item(0, 2), 3, 1)) == [["B", "A"]] * 3


def test_all_orders_of_three_come_before_any_comes_again():
    found = [tuple(order) for order in orders(make_item(0, 3), 10, 1)]
    assert set(found[:5]) == set(found[5:]) == set(itertools.permutations("ABC")) - {("A", "B", "C")}


def test_orders_belong_to_the_item_not_to_its_place():
    items = [make_item(n) for n in range(30)]
    there = {item.id: item for item in quiet(items, 2)}
    back = {item.id: item for item in quiet(items[::-1][:7], 2)}
    assert all(there[name] == item for name, item in back.items())
    assert quiet(items, 2, 1) != quiet(items, 2, 2)
    assert [item.id for item in quiet(items[:2], 2)] == ["item-0#1", "item-0#2", "item-1#1", "item-1#2"]


def test_each_letter_becomes_the_key_about_equally_often():
    keys = [
        item.answer_idx
        for item in quiet(
            [with_options("w", "x", "y", "z", key="A").model_copy(update={"id": str(n)}) for n in range(600)], 3
        )
    ]
    # 1 of 24 orders is left out, one of the six that keep A as key: 5/23 against 6/23 of 1,800
    assert abs(keys.count("A") - 1800 * 5 / 23) < 60 and all(
        abs(keys.count(letter) - 1800 * 6 / 23) < 60 for letter in "BCD"
    )


@pytest.mark.parametrize(
    "text",
    [
        "All of the above",
        "None of the above.",
        "none of the following",
        "All the above are true",
        "any of the preceding",
    ],
)
def test_what_speaks_of_places_keeps_its_place(text):
    item = with_options("x", "y", "z", text)
    assert {tuple(order) for order in orders(item, 5, 1)} == {
        (*order, "D") for order in itertools.permutations("ABC")
    } - {("A", "B", "C", "D")}


def test_an_item_that_can_move_nothing_stays_as_it_is():
    assert list(orders(with_options("All of the above", "none of the above"), 2, 1)) == [["A", "B"]] * 2
    assert list(orders(with_options("x", "none of the above"), 1, 1)) == [["A", "B"]]


@pytest.mark.parametrize(
    "text",
    [
        "A and B",
        "a,c,d,b",
        "Both A & C",
        "A, B and C are correct",
        "a is false and b, c, d are true",
        "(A) and (C)",
        "B or D",
        "A/B",
        "Only A and B",
    ],
)
def test_items_whose_options_name_letters_are_left_out_aloud(text):
    item, said = with_options("x", "y", text), []
    assert names_letters(item)
    assert permuted([item, make_item(1)], 2, 1, "quiz", said.append) == quiet([make_item(1)], 2)
    assert said == ["quiz: 1 of 2 items are not asked in other orders: an option names others by their letters"]


@pytest.mark.parametrize(
    "text",
    [
        "Cord",
        "A b",
        "Hepatitis B and C",
        "Vitamin E & D",
        "Anti-A, B, or O antibodies in the serum",
        "a fracture",
        "A",
        "B cells and T cells",
        "E. coli",
    ],
)
def test_other_options_do_not_name_letters(text):
    assert not names_letters(with_options("x", "y", text))


def test_an_order_that_is_none_is_one_line():
    with pytest.raises(GazalError, match="is no order of its options"):
        reorder(make_item(0), ["A", "A", "B", "C"], 1)


class Stubborn(Scripted):
    """Always says B."""

    def reply(self, index, samples, messages):
        return Reply(index, "**Answer:** B", 5, "stop")


def test_permuted_items_are_asked_and_lie_apart(tmp_path):
    items = [make_item(n) for n in range(8)] + [with_options("x", "y", "A and B")]
    recipe = Recipe.model_validate({"evaluation": {"permute": 3}})
    said: list[str] = []
    evaluate_model(Stubborn(), {"quiz": items}, tmp_path, recipe, "m", say=said.append)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")) == [
        "items/permuted/quiz.jsonl",
        "items/quiz.jsonl",
        "m/permuted/quiz.parquet",
        "m/quiz.parquet",
    ]
    beside, frame = (
        read_items(tmp_path / "items" / "permuted" / "quiz.jsonl"),
        read_predictions(tmp_path / "m" / "permuted" / "quiz.parquet"),
    )
    assert (
        [item.id for item in beside] == list(frame["item_id"])
        and len(frame) == 24
        and all(sorted(item.order) == list("ABCD") for item in beside)
    )
    assert list(frame["correct"]) == [item.answer_idx == "B" for item in beside]
    assert [line.split(":")[0] for line in said] == ["quiz", "m on quiz", "m on permuted/quiz"]
    again = Stubborn()
    evaluate_model(again, {"quiz": items}, tmp_path, recipe, "m", say=lambda line: None)
    assert again.asked == []
    plain = tmp_path / "plain"
    evaluate_model(Stubborn(), {"quiz": items}, plain, Recipe.model_validate({}), "m", say=lambda line: None)
    assert pq.read_table(plain / "m" / "quiz.parquet").equals(pq.read_table(tmp_path / "m" / "quiz.parquet"))
    scores = score_folder(tmp_path)
    assert (
        list(scores["models"]["m"]["benchmarks"]) == ["quiz"] and scores["models"]["m"]["benchmarks"]["quiz"]["n"] == 9
    )
    found = scores["robustness"]["m"]["quiz"]
    assert (found["orders"], found["n"]) == (4, 8) and found["letter_bias"]["B"] > 0.5 and found["same_answer"] < 1


def test_an_outside_item_may_have_a_field_named_order():
    items = [make_item(n, order=order) for n, order in enumerate(["theirs", 3, ["x"], list("BADC"), None])] + [
        make_item(9, order=1).model_copy(update={"id": "a#b"})
    ]
    assert [origin(item) for item in items] == [item.id for item in items]
    assert {origin(item) for item in quiet(items, 2)} == {item.id for item in items}


def test_orders_of_one_item_count_as_one_item_in_the_interval():
    items = quiet([make_item(n) for n in range(8)], 3)
    readings = Readings(items, 1, lambda text, item: Extraction(text, Reason.OK))
    readings.add(
        [
            Reply(n, item.answer_idx if n < 12 else "ABCD"["ABCD".index(item.answer_idx) - 1], 1, "stop")
            for n, item in enumerate(items)
        ]
    )
    assert readings.accuracy() == (0.5, *interval(np.array([1.0] * 4 + [0.0] * 4)))
