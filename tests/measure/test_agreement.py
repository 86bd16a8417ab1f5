"""Our letters beside another evaluator's: what is compared, how a cut comparison goes on, and how it is written down."""

from __future__ import annotations

import json
from typing import Any

import agreement as bench
import pytest
from helpers.items import make_item

from gazal.common.paths import ROOT
from gazal.items.schema import Item
from gazal.predictions.prompting import prompting_of
from gazal.recipe.load import load_recipe

ITEMS = [make_item(n) for n in range(2 * bench.CHUNK + 5)]
ASKED = {"items": len(ITEMS), "where": "here"}


def logliks(items: list[Item]) -> list[list[float]]:
    """The key is likeliest, by one nat over the option after it."""
    return [[-1.0 - (at - list(item.options).index(item.answer_idx)) % 4 for at in range(4)] for item in items]


def test_the_norm_decides_and_the_first_of_equals_wins():
    item = Item(id="x", question="?", options={"A": "ab", "B": "abcd", "C": "ab"}, answer_idx="B")
    by_sum = bench.compare(item, [-2.0, -3.0, -2.0], [-2.0, -3.0, -1.5], "sum")
    assert (by_sum.ours, by_sum.theirs, by_sum.key, by_sum.difference, by_sum.normed, by_sum.lead) == (
        "A",
        "C",
        "B",
        0.5,
        0.5,
        0.0,
    )
    by_length = bench.compare(item, [-2.0, -3.0, -2.0], [-2.0, -3.0, -1.5], "characters")
    assert (by_length.ours, by_length.theirs, by_length.difference, by_length.normed, by_length.lead) == (
        "B",
        "B",
        0.5,
        0.25,
        0.25,
    )


def test_each_kind_is_asked_as_it_says():
    recipes = {kind: load_recipe("embedded", form.settings) for kind, form in bench.KINDS.items()}
    assert all(
        recipe.evaluation.method == "loglik" and recipe.evaluation.loglik_norm == bench.KINDS[kind].norm
        for kind, recipe in recipes.items()
    )
    assert {kind: recipe.evaluation.loglik_choice for kind, recipe in recipes.items()} == {
        "letters": "letter",
        "chat": "letter",
        "texts": "text",
    }
    prompts = {kind: prompting_of(recipe).prompt(ITEMS[0]) for kind, recipe in recipes.items()}
    assert (
        prompts["letters"] == prompts["texts"]
        and prompts["letters"].endswith("Answer:")
        and isinstance(prompts["chat"], list)
    )
    assert [(ROOT / f"measure/lm_eval_tasks/{kind}.yaml").exists() for kind in bench.KINDS] == [True] * 3


def test_a_cut_comparison_goes_on_where_it_was():
    asked, kept, kills = [], [{}], [KeyboardInterrupt]

    def theirs(items: list[Item]) -> list[list[float]]:
        if kills and items[0] is ITEMS[bench.CHUNK]:
            raise kills.pop()
        asked.extend(item.id for item in items)
        return logliks(items)

    def run(items: list[Item], what: dict[str, Any]) -> dict[str, Any]:
        return bench.compared(
            items, "sum", logliks, theirs, what, kept[-1], lambda found: kept.append(json.loads(json.dumps(found)))
        )

    with pytest.raises(KeyboardInterrupt):
        run(ITEMS, ASKED)
    assert len(kept[-1]["rows"]) == bench.CHUNK
    found = run(ITEMS, ASKED)
    assert asked == [item.id for item in ITEMS] and found == kept[-1]  # none twice
    assert [row["id"] for row in found["rows"]] == asked and all(
        row["ours"] == row["theirs"] == row["key"] for row in found["rows"]
    )
    assert run(ITEMS, ASKED) == found and len(asked) == len(ITEMS)  # nor is a whole one
    part = found | {"rows": found["rows"][: bench.CHUNK]}
    for items, what, before in (
        (ITEMS, ASKED, {}),
        (ITEMS, ASKED | {"where": "there"}, part),
        (ITEMS[::-1], ASKED, part),
    ):
        asked.clear()
        kept.append(before)
        run(items, what)
        assert asked == [item.id for item in items]  # of other settings or of other items nothing is kept


def test_each_differing_item_is_named_with_its_lead():
    rows = [
        bench.compare(item, values, values, "sum")._asdict() for item, values in zip(ITEMS, logliks(ITEMS), strict=True)
    ]
    found = {"asked": {"items": 45, "where": "lm-eval, one machine"}, "rows": rows, "cpu": [1.4, 20.6]}
    text = bench.as_text({"quiz texts": found, "quiz letters": found})
    assert text[2].startswith(
        "| quiz | letters, plain prompt | 45 | 45 | A 12, B 11, C 11, D 11 | 0.0e+00 | 1.0e+00 | 1.000 / 1.000 | 1 / 21 |"
    )
    assert (
        text[3].startswith("| quiz | option texts per character")
        and "No item differs." in text
        and text.count("lm-eval, one machine.") == 1
    )
    near = bench.compare(ITEMS[0], [-1.0, -1.0001, -3.0, -4.0], [-1.0002, -1.0001, -3.0, -4.0], "sum")._asdict()
    text = bench.as_text({"quiz letters": found | {"rows": [near, *rows[1:]]}})
    assert text[2].split(" | ")[2:4] == ["45", "44"] and " 1.000 / 0.978 " in text[2] and "Differing items:" in text
    line = next(line for line in text if "item-0" in line)
    assert (
        line
        == "- quiz, letters, plain prompt, item-0: ours A, theirs B; our first leads by 1.0e-04, and the two sides' log-likelihoods differ by up to 2.0e-04"
    )
    assert "| 30 of 45, cut | 30 |" in bench.as_text({"quiz letters": found | {"rows": rows[:30]}})[2]
