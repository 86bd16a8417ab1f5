"""Shortcut accuracies, on items whose answer is countable by hand."""

from __future__ import annotations

import pytest
from helpers.items import make_item
from hypothesis import given
from hypothesis import strategies as st

from gazal.items.reading import read_items
from gazal.items.schema import Item
from gazal.items.shortcuts import baselines
from gazal.items.writing import write_items_jsonl
from gazal.knowledge.generate import synthesize


def item(key: str, a: str, b: str, **extra: object) -> Item:
    return Item.model_validate(
        {"id": key + a + b, "question": "?", "options": {"A": a, "B": b}, "answer_idx": key, **extra}
    )


def test_each_shortcut_by_hand():
    training = [item("A", "flu", "gout"), item("A", "flu", "lupus"), item("B", "gout", "lupus")]
    test = [
        item("A", "flu", "gout", popularity={"A": 3, "B": 1}, matches={"A": 2, "B": 2}, reasoning_type="diagnosis"),
        item("B", "gout", "measles", popularity={"A": 3, "B": 1}, reasoning_type="treatment"),
    ]
    found = baselines(test, training)
    assert {name: value["accuracy"] for name, value in found.items()} == {
        "chance": 0.5,
        "longest_option": 0.5,  # gout is longer than flu; measles longer than gout
        "most_annotated": 0.5,
        "matched_findings": 0.5,  # a tie, and an item without the field: chance twice
        "most_frequent_letter": 0.5,
        "option_prior": 1.0,  # flu 2/2 over gout 0/2; measles, never seen, 1/2 over gout 0/2
    }
    assert found["option_prior"]["by"] == {"diagnosis": 1.0, "treatment": 1.0}
    assert found["most_annotated"]["by"] == {"diagnosis": 1.0, "treatment": 0.0}


def test_fitted_shortcuts_need_training_items():
    assert set(baselines([make_item(1)])) == {"chance", "longest_option", "most_annotated", "matched_findings"}


def test_chance_knows_the_number_of_options():
    assert baselines([make_item(1, 10), make_item(2, 5)])["chance"]["accuracy"] == pytest.approx(0.15)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(2, 10)), min_size=1, max_size=20))
def test_every_accuracy_is_a_share(numbers):
    items = [make_item(n, options) for n, options in numbers]
    assert all(0 <= value["accuracy"] <= 1 for value in baselines(items, items).values())


def test_synthetic_items_keep_their_fields_through_a_file(tmp_path):
    items = synthesize(40, 2)
    write_items_jsonl(tmp_path / "items.jsonl", items)
    again = baselines(read_items(tmp_path / "items.jsonl"), items)
    assert again == baselines(items, items)
    assert again["matched_findings"]["by"]["treatment"] == again["chance"]["by"]["treatment"]
