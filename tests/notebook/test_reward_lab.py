"""The reward lab: its values come from the rewards, its widgets follow every change, its notebook runs headless."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

import nbformat
import numpy as np
import papermill
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gazal import DISCLAIMER
from gazal.answers.extract import Reason, extract
from gazal.common.errors import GazalError
from gazal.common.paths import ROOT
from gazal.notebook.reward_figures import fig_examples, fig_families, fig_landscape, fig_length, fig_repetition
from gazal.notebook.reward_lab import (
    EXAMPLES,
    RIGHT,
    WRONG,
    Explorer,
    example_table,
    landscape,
    landscape_grid,
    length_shapes,
    limits,
    padded_loop,
    parse_options,
    repetition_shape,
    report_html,
    tokens,
)
from gazal.notebook.start import read_parameters
from gazal.paper.style import picture
from gazal.recipe.rewards import COMPONENTS, RewardConfig
from gazal.rewards.functions import repetition_reward, score_completion
from gazal.rewards.red_team import KEY, OPTIONS, family_table, read_cases

NOTEBOOK = ROOT / "notebooks" / "explore_rewards.ipynb"
CFG = RewardConfig(max_tokens=200)
FLAT = RewardConfig(length_kind="none", repetition_max_penalty=0.0, length_weight=0.0)
CONFIGS = [CFG, RewardConfig(length_kind="overlong"), FLAT, RewardConfig(max_tokens=1, repetition_budget=1)]


@given(st.integers(0, 60), st.integers(0, 40), st.integers(1, 9))
def test_tokens_hold_exactly_the_repeats_asked_for(length: int, repeated: int, size: int) -> None:
    if repeated and length < repeated + size:
        with pytest.raises(ValueError, match="cannot hold"):
            tokens(length, repeated, size)
        return
    ids = tokens(length, repeated, size)
    grams = [tuple(ids[i : i + size]) for i in range(length - size + 1)]
    assert len(ids) == length and len(grams) - len(set(grams)) == repeated


def test_length_shapes() -> None:
    shapes = length_shapes(CFG).set_index(["kind", "outcome", "tokens"])["value"]
    assert (
        shapes["cosine", "right", 0] == 1.0
        and shapes["cosine", "right", 100] == pytest.approx(0.75)
        and shapes["cosine", "right", 250] == 0.5
    )
    assert (shapes["cosine", "wrong"] == 0.0).all()
    assert shapes["overlong", "right", 150] == 0.0 and shapes["overlong", "right", 200] == -1.0
    assert (shapes["overlong", "right"] == shapes["overlong", "wrong"]).all()
    for line in ("cosine", "overlong"):
        assert shapes[line, "right"].is_monotonic_decreasing


def test_repetition_shape_and_a_padded_loop() -> None:
    shape = repetition_shape(CFG).set_index("repeated")["value"]
    assert shape[0] == 0.0 and shape[32] == -0.5 and shape[64] == shape[96] == -1.0
    loop = padded_loop(CFG)
    assert (loop["value"] == -1.0).all(), "padding dilutes the count"
    assert loop["ratio"].is_monotonic_increasing and loop["ratio"].iloc[0] < -0.9 and loop["ratio"].iloc[-1] > -0.2


def test_example_table_is_what_the_rewards_say() -> None:
    table = example_table(CFG)
    assert list(table.index) == list(EXAMPLES)
    assert np.allclose(table[list(COMPONENTS)].sum(axis=1), table["total"])
    for name, text in EXAMPLES.items():
        assert table.loc[name, "total"] == score_completion(text, OPTIONS, KEY, cfg=CFG).total
        assert table.loc[name, "reason"] == extract(text, OPTIONS).reason.value
    right = table.index.str.startswith("right") | (table["letter"] == KEY)
    assert table.loc[right, "total"].min() > table.loc[~right, "total"].max()
    assert (
        set(table.loc[~right, "letter"]) == {"A", "none"}
        and table.loc["right, in format", "total"] == table["total"].max()
    )
    assert set(table["reason"]) >= {"ok", "conflicting_answers", "negated", "declined", "unclosed_think", "empty"}


@pytest.mark.parametrize("cfg", CONFIGS)
def test_landscape_lies_within_the_bounds_and_right_above_wrong(cfg: RewardConfig) -> None:
    lengths, repeats = landscape_grid(cfg, 11)
    right, wrong = (landscape(cfg, text, lengths, repeats) for text in (RIGHT, WRONG))
    low, high = cfg.bounds()
    assert right.shape == wrong.shape == (len(repeats), len(lengths)) and not np.isnan(right[0]).any()
    assert (
        np.isnan(right).tolist()
        == np.isnan(wrong).tolist()
        == [[r > 0 and n < r + cfg.repetition_ngram for n in lengths] for r in repeats]
    )
    assert low - 1e-9 <= np.nanmin(wrong) and np.nanmax(wrong) < np.nanmin(right) and np.nanmax(right) <= high + 1e-9
    table = limits(cfg)
    assert (
        table["empty or truncated"] == pytest.approx(low) == table["least possible"]
        and table["gap from best wrong to worst right"] > 0
    )


def test_landscape_reads_length_and_repetition() -> None:
    values = landscape(CFG, RIGHT, [100, 200], [0, 32])
    assert values == pytest.approx(np.array([[1.275, 1.25], [1.225, 1.2]]))
    assert repetition_reward(tokens(100, 32, 8), CFG) == -0.5


@pytest.mark.parametrize("cfg", CONFIGS)
def test_figures_draw_under_every_configuration(cfg: RewardConfig) -> None:
    for figure in (
        fig_length(cfg),
        fig_repetition(cfg),
        fig_examples(cfg),
        fig_landscape(cfg),
        fig_families(family_table(read_cases()[:30], cfg), cfg),
    ):
        pixels = np.asarray(Image.open(io.BytesIO(picture(figure).data)).convert("L"))
        assert pixels.shape[1] >= 1000 and pixels.std() > 10, "an empty picture"


def test_figure_of_examples_names_each_example_and_reason() -> None:
    figure = fig_examples(CFG)
    figure.draw_without_rendering()
    labels = {text.get_text() for text in figure.axes[0].get_yticklabels()}
    assert labels == set(EXAMPLES)
    assert any("conflicting_answers" in text.get_text() for text in figure.axes[0].texts)


def test_parse_options() -> None:
    assert parse_options("A: Aspirin\n\n B. Warfarin \nJ) 5: 1\n") == {"A": "Aspirin", "B": "Warfarin", "J": "5: 1"}


@pytest.mark.parametrize(
    ("text", "what"),
    [("A: x", "fewer than two"), ("", "fewer than two"), ("A: x\nK: y", "line 2"), ("A: x\nA: y", "line 2: A is there twice"), ("A: x\nB:", "line 2"), ("a: x\nb: y", "line 1")],
)  # fmt: skip
def test_bad_options_name_the_line(text: str, what: str) -> None:
    with pytest.raises(GazalError, match=what):
        parse_options(text)


SCRIPT = "<script>alert(1)</script>"


def test_report_escapes_the_completion_and_the_options() -> None:
    page = report_html(f"{SCRIPT}\n**Answer:** C", OPTIONS | {"C": SCRIPT}, "C", False, CFG)
    assert "<script" not in page and page.count(html.escape(SCRIPT)) == 2
    assert html.escape(DISCLAIMER) in page and "<code>ok</code>" in page


def test_report_gives_values_reason_and_bounds() -> None:
    page = report_html(WRONG, OPTIONS, "C", False, CFG)
    assert "A: Aspirin (not right)" in page and "<td>format</td><td>+1.000</td><td>× 0.2</td><td>+0.200</td>" in page
    assert "<th>+0.200</th>" in page and "-0.10 to +1.30" in page
    open_page = report_html("<think>\nStep 1: x\nAnswer: C", OPTIONS, "C", False, CFG)
    assert "the think block is open" in open_page and html.escape(Reason.UNCLOSED_THINK.__doc__ or "?") in open_page


def test_explorer_follows_every_change() -> None:
    lab = Explorer(CFG)
    assert "C: Heparin (right)" in lab.result.value and lab.completion.value == RIGHT
    lab.completion.value = "Answer: C or A"
    assert "<code>hedged</code>" in lab.result.value and html.escape(Reason.HEDGED.__doc__ or "?") in lab.result.value
    lab.completion.value = "Answer: A"
    assert "A: Aspirin (not right)" in lab.result.value
    lab.key.value = "A"
    assert "A: Aspirin (right)" in lab.result.value
    lab.completion.value = RIGHT.removeprefix("<think>")
    assert "<td>format</td><td>+0.000</td>" in lab.result.value
    lab.think_open.value = True
    assert "<td>format</td><td>+1.000</td>" in lab.result.value
    lab.think_open.value = False
    lab.examples.value = "empty"
    assert lab.completion.value == "" and "<code>empty</code>" in lab.result.value
    lab.completion.value = SCRIPT
    assert "<script" not in lab.result.value and html.escape(SCRIPT) in lab.result.value


def test_explorer_takes_other_options() -> None:
    lab = Explorer(CFG, "Answer: E")
    assert "<code>letter_not_an_option</code>" in lab.result.value
    lab.options.value = "C: Heparin\nD: Metformin\nE: Insulin"
    assert lab.key.options == ("C", "D", "E") and lab.key.value == "C" and "E: Insulin (not right)" in lab.result.value
    lab.key.value = "E"
    assert "E: Insulin (right)" in lab.result.value
    lab.options.value = f"A: {SCRIPT}\nB: Warfarin\nA: twice"
    assert "line 3: A is there twice" in lab.result.value and "<table" not in lab.result.value
    lab.options.value = f"A: {SCRIPT}\nB: Warfarin"
    assert lab.key.value == "A" and "<code>letter_not_an_option</code>" in lab.result.value
    lab.completion.value = "Answer: A"
    assert html.escape(SCRIPT) in lab.result.value and "<script" not in lab.result.value


def test_the_notebook_takes_two_parameters() -> None:
    recipe = read_parameters(
        {"RECIPE": "embedded", "SET": ["grpo.rewards.length_kind=overlong"], "In": [], "f": len}, ("RECIPE", "SET")
    )
    assert recipe.grpo.rewards.length_kind == "overlong"
    with pytest.raises(GazalError, match="unknown RECIPES"):
        read_parameters({"RECIPE": "embedded", "SET": [], "RECIPES": "x"}, ("RECIPE", "SET"))
    with pytest.raises(GazalError, match="missing SET"):
        read_parameters({"RECIPE": "embedded"}, ("RECIPE", "SET"))


@pytest.mark.slow
def test_notebook_runs_headless(tmp_path: Path) -> None:
    notebook = papermill.execute_notebook(
        str(NOTEBOOK), str(tmp_path / "lab.ipynb"), parameters={"SET": ["grpo.rewards.length_kind=overlong", "grpo.rewards.accuracy_weight=3.0"]}, kernel_name="python3",
        cwd=str(NOTEBOOK.parent), progress_bar=False,
    )  # fmt: skip
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    pictures = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 5 and all(Image.open(io.BytesIO(base64.b64decode(png))).width >= 1000 for png in pictures)
    assert [output for output in outputs if "application/vnd.jupyter.widget-view+json" in output.get("data", {})]
    assert str(NOTEBOOK.parent.parent) not in str(outputs)
    assert any("'accuracy': 3.0" in output.get("data", {}).get("text/plain", "") for output in outputs), (
        "the override did not arrive"
    )


def test_notebook_carries_the_disclaimer() -> None:
    assert DISCLAIMER in nbformat.read(NOTEBOOK, as_version=4).cells[0].source
