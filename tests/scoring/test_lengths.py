"""Length against correctness, on predictions whose lengths and letters are known; and what notebook 04 shows beside the results."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.predictions import folder, row
from hypothesis import given, settings
from hypothesis import strategies as st

from gazal.items.schema import Item
from gazal.notebook.story import prompt_shown, reasons_table, results_shown, settings_table
from gazal.predictions.folder import read_answers
from gazal.recipe.load import load_recipe
from gazal.scoring.lengths import measure_lengths, of_completions

OPTIONS = {"A": "one", "B": "two", "C": "three", "D": "four"}


def frame(
    tokens: list[int],
    right: list[bool],
    groups: list[str | None] | None = None,
    cut: tuple[int, ...] = (),
    items: list[str] | None = None,
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "item_id": items or [f"i{n}" for n in range(len(tokens))],
            "n_tokens": tokens,
            "correct": right,
            "group": groups or [None] * len(tokens),
            "finish_reason": ["length" if n in cut else "stop" for n in range(len(tokens))],
        }
    )


def test_fifths_go_from_short_to_long_and_cut_ones_stand_apart() -> None:
    found = of_completions(frame([*range(1, 11), 99, 99], [False] * 8 + [True] * 2 + [True, False], cut=(10, 11)))
    assert [(c["fifth"], c["completions"], c["tokens"], c["accuracy"]) for c in found["fifths"]] == [
        (i, 2, 2 * i - 0.5, float(i == 5)) for i in range(1, 6)
    ]
    assert (found["truncated"]["completions"], found["truncated"]["tokens"], found["truncated"]["accuracy"]) == (
        2,
        99.0,
        0.5,
    )
    assert found["rho"]["rho"] > 0.6 and found["within"] == [] and found["rho_within"] is None
    assert found["fifths"][4]["ci95"][1] == 1.0 and found["fifths"][4]["ci95"][0] < 0.5


def test_a_mix_of_kinds_is_told_from_length() -> None:
    """Long questions are easy here, and length means nothing within them: the plain correlation misleads."""
    rng = np.random.default_rng(0)
    short, long = rng.integers(10, 20, 200), rng.integers(50, 60, 200)
    found = of_completions(
        frame(
            [*map(int, short), *map(int, long)],
            [*(rng.random(200) < 0.2), *(rng.random(200) < 0.8)],
            ["hard"] * 200 + ["easy"] * 200,
        )
    )
    assert found["rho"]["rho"] > 0.4 and found["rho"]["p"] < 1e-9
    assert abs(found["rho_within"]["rho"]) < 0.1 and found["rho_within"]["p"] > 0.05
    assert found["fifths"][0]["accuracy"] < 0.3 and found["fifths"][4]["accuracy"] > 0.7
    assert all(cell["ci95"][0] <= 0 <= cell["ci95"][1] and abs(cell["gain"]) < 0.1 for cell in found["within"])


def test_one_length_is_one_fifth_and_no_correlation() -> None:
    found = of_completions(frame([7] * 6, [True, False] * 3))
    assert [(c["fifth"], c["completions"]) for c in found["fifths"]] == [(3, 6)] and found["rho"] is None
    assert of_completions(frame([5, 6, 7], [True] * 3))["rho"] is None
    assert of_completions(frame([9, 9], [True, False], cut=(0, 1)))["fifths"] == []


def test_what_a_server_refused_or_filtered_has_no_length() -> None:
    whole = frame([*range(1, 11)], [True] * 10, cut=(9,))
    more = frame([0, 3], [False] * 2, items=["refused", "filtered"]).assign(finish_reason=["refused", "content_filter"])
    assert of_completions(pd.concat([whole, more], ignore_index=True)) == of_completions(whole)
    assert of_completions(more)["fifths"] == [] and of_completions(more)["truncated"] is None


def test_an_item_is_one_draw_however_often_it_is_asked() -> None:
    often = of_completions(frame([10] * 40, [True] * 20 + [False] * 20, items=[f"i{n // 10}" for n in range(40)]))[
        "fifths"
    ][0]
    assert (often["completions"], often["items"], often["accuracy"]) == (40, 4, 0.5)
    assert often["ci95"] == of_completions(frame([10] * 4, [True, True, False, False]))["fifths"][0]["ci95"]


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 30), st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_fifths_part_all_completions_and_keep_the_right_ones(rows: list[tuple[int, bool, bool]]) -> None:
    found = of_completions(
        frame([t for t, _, _ in rows], [r for _, r, _ in rows], cut=tuple(n for n, (_, _, c) in enumerate(rows) if c))
    )
    cells = [*found["fifths"], *([found["truncated"]] if found["truncated"] else [])]
    assert sum(c["completions"] for c in cells) == len(rows)
    assert sum(c["items"] * c["accuracy"] for c in cells) == pytest.approx(sum(r for _, r, _ in rows), abs=1e-3)
    assert [c["tokens"] for c in found["fifths"]] == sorted(c["tokens"] for c in found["fifths"])
    assert all(1 <= c.get("fifth", 1) <= 5 and 0 <= c["ci95"][0] <= c["accuracy"] <= c["ci95"][1] <= 1 for c in cells)


def made_run(root: Path, model: str, lengths: list[int]) -> None:
    items = [
        Item(
            id=f"t{n}",
            question=f"Question {n}?",
            options=OPTIONS,
            answer_idx="ABCD"[n % 4],
            reasoning_type="diagnosis" if n % 2 else "treatment",
        )
        for n in range(len(lengths))
    ]
    made = [
        row(
            item,
            f"<think>\nStep 1.\n</think>\n\n**Answer:** {'ABCD'[n // 2 % 4]}" if n else "I do not know.",
            n_tokens=tokens,
        )
        for n, (item, tokens) in enumerate(zip(items, lengths, strict=True))
    ]
    folder(root, items, **{model: made})


def test_the_file_is_pure_and_takes_what_was_read_before(tmp_path: Path) -> None:
    made_run(tmp_path, "sft", list(range(1, 21)))
    made_run(tmp_path, "likely", [0] * 20)
    report = measure_lengths(tmp_path)
    before = (tmp_path / "lengths.json").read_bytes()
    assert json.loads(before) == report and list(report["benchmarks"]["test"]) == [
        "sft"
    ]  # nothing was written by the other
    assert (
        measure_lengths(tmp_path, read_answers(tmp_path)) == report
        and (tmp_path / "lengths.json").read_bytes() == before
    )
    found = report["benchmarks"]["test"]["sft"]
    assert sum(c["completions"] for c in found["within"]) == 20 and sum(
        c["items"] * c["gain"] for c in found["within"]
    ) == pytest.approx(0, abs=1e-4)


def test_the_story_of_a_recipe() -> None:
    recipe = load_recipe(
        "embedded", ["evaluation.few_shot=1", "model.system=Think first.", "evaluation.temperature=0.3"]
    )
    table = settings_table(recipe).data
    assert (
        table.loc["instruction", "value"] == "(none)"
        and table.loc["temperature", "value"] == "0.3"
        and table.loc["samples", "meaning"] == "Completions an item."
    )
    assert not table["meaning"].str.contains("source:").any() and (table["meaning"].str.len() > 5).all()


def test_the_prompt_is_shown_as_the_base_model_sees_it(tmp_path: Path) -> None:
    item = Item(id="x", question="Which one?", options=OPTIONS, answer_idx="B")
    text = prompt_shown(load_recipe("embedded", ["model.system=Think first."]), item)
    assert (
        text.endswith(
            "<|im_start|>user\nWhich one?\nA. one\nB. two\nC. three\nD. four<|im_end|>\n<|im_start|>assistant\n"
        )
        and "Think first." in text
    )
    shots = tmp_path / "dev.jsonl"
    shots.write_text(json.dumps({"id": "s", "question": "Shown?", "options": OPTIONS, "answer_idx": "C"}) + "\n")
    shown = prompt_shown(load_recipe("embedded", ["evaluation.few_shot=1"]), item, str(shots))
    assert shown.index("Shown?") < shown.index("Which one?") and shown.endswith("<|im_start|>assistant\n")
    assert prompt_shown(load_recipe("embedded", ["evaluation.prompt=plain"]), item).endswith("Answer:")


def test_what_to_know_about_the_results_is_a_list() -> None:
    scores = {
        "models": {"base": {"benchmarks": {}}},
        "not_run": {"medqa": "no hub", "pubmedqa": "no hub"},
        "paired": [],
    }
    assert results_shown(scores).splitlines()[-3:] == ["", "- medqa not run: no hub", "- pubmedqa not run: no hub"]
    assert results_shown(scores | {"not_run": {}}).splitlines()[-1].startswith("| base")


def test_reasons_are_shares_with_read_answers_first() -> None:
    reasons = {"base": {"no_answer": 3, "ok": 1}, "sft": {"ok": 4}}
    scores = {
        "models": {
            m: {"benchmarks": {"test": {"reasons": r}, **({"medqa": {"reasons": {"hedged": 2}}} if m == "sft" else {})}}
            for m, r in reasons.items()
        }
    }
    table = reasons_table(scores)
    assert list(table.columns) == ["ok", "no_answer", "hedged"] and list(table.index) == [
        ("test", "base"),
        ("test", "sft"),
        ("medqa", "sft"),
    ]
    assert table.loc[("test", "base")].tolist() == [0.25, 0.75, 0.0] and (table.sum(axis=1) == 1).all()
