"""The sample browser: what it chooses, what it shows, that nothing of a model or an item becomes markup, and its notebook headless."""

from __future__ import annotations

import html
import json
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import papermill
import pytest
from helpers.predictions import folder as prediction_folder
from helpers.predictions import row
from hypothesis import given, settings
from hypothesis import strategies as st

from gazal import DISCLAIMER
from gazal.answers.extract import Reason
from gazal.common.errors import GazalError
from gazal.common.paths import ROOT
from gazal.items.schema import Item
from gazal.notebook.browse import (
    LONGEST,
    PARAMETERS,
    Browser,
    choose,
    item_html,
    open_samples,
    overview,
    page,
    parts,
    read_samples,
)
from gazal.predictions.file import fingerprint

NOTEBOOK = ROOT / "notebooks" / "explore_predictions.ipynb"
ATTACK = "<script>alert(1)</script><img src=x onerror='alert(2)'></details></div>\"&amp;"
KEY = "<think>\nStep 1: {0}\n</think>\n\n**Answer:** A"


def item(n: int) -> Item:
    return Item.model_validate(
        {
            "id": f"i{n}{ATTACK if n == 0 else ''}",
            "question": f"Question {n}? {ATTACK}",
            "options": {"A": "heparin", "B": f"aspirin {ATTACK}"},
            "answer_idx": "A",
            "context": [f"context {ATTACK}"] if n == 0 else None,
            "reasoning_type": "diagnosis" if n < 2 else None,
            "subject": "pharmacology",
        }
    )


ITEMS = [item(n) for n in range(4)]
ANSWERS = {  # base is wrong on 0, 1, 3; sft on 1; grpo on 3
    "base": [f"{ATTACK}\n\n**Answer:** B", "A or B?", KEY.format("x"), "<think>\nStep 1: open"],
    "sft": [KEY.format(ATTACK), "", KEY.format("y"), KEY.format("z")],
    "grpo": [KEY.format(ATTACK), KEY.format("w"), KEY.format("y"), "**Answer:** B"],
}


def write(
    root: Path, model: str, texts: list[str], name: str = "quiz", items: list[Item] = ITEMS, samples: int = 1
) -> None:
    header = {
        "model": model,
        "benchmark": fingerprint(items),
        "sampling": {"method": "generate"},
        "prompt": {"opens_think": False},
    }
    made = [
        row(
            items[n // samples],
            text,
            n % samples,
            n_tokens=len(text.split()),
            finish_reason="length" if n == 3 else "stop",
            reason="ok",
        )
        for n, text in enumerate(texts)
    ]
    prediction_folder(root, items, name, header=header, **{model: made})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for model, texts in ANSWERS.items():
        write(tmp_path / "eval", model, texts)
    return tmp_path


class Tags(HTMLParser):
    """The tags and attributes of a page, and whether every tag is closed in turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names, self.attributes, self.open, self.text = set(), set(), [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        assert self.open or tag == "hr" or "tex2jax_ignore mathjax_ignore" in dict(attrs).values(), (
            f"MathJax would read {tag}"
        )
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("br", "hr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def harmless(text: str) -> Tags:
    found = Tags(text)
    assert found.open == [] and found.attributes <= {"style", "title", "class"}
    assert found.names <= {"div", "p", "b", "i", "code", "details", "summary", "hr"}
    return found


def test_models_stand_in_the_order_of_stages_and_letters_are_read_anew(folder):
    samples = read_samples(folder)
    assert samples.models == ["base", "sft", "grpo"] and samples.note == ""
    table = overview(samples)
    assert list(table.loc[("quiz", "sft")][["completions", "right", "ok", "empty"]]) == [4, 0.75, 3, 1]
    assert table.loc[("quiz", "base"), "unclosed_think"] == 1 and table["completions"].sum() == 12


def test_the_overview_compares_the_models_of_a_benchmark(folder):
    for model in ("base", "grpo"):
        write(folder / "eval", model, ANSWERS[model], name="short")
    table = overview(read_samples(folder))
    assert list(table.index) == [
        ("quiz", "base"),
        ("quiz", "sft"),
        ("quiz", "grpo"),
        ("short", "base"),
        ("short", "grpo"),
    ]
    assert list(table.columns)[:3] == ["completions", "right", "ok"]


@pytest.mark.parametrize(("filters", "found"), [
    ({}, [0, 1, 2, 3]), ({"outcome": "wrong"}, [3]), ({"outcome": "right"}, [0, 1, 2]), ({"model": "sft", "outcome": "wrong"}, [1]), ({"outcome": "gained"}, [0, 1]),
    ({"outcome": "lost"}, []), ({"model": "sft", "outcome": "gained"}, [0, 3]), ({"model": "base", "reason": "unclosed_think"}, [3]), ({"group": "diagnosis"}, [0, 1]),
    ({"group": "pharmacology", "outcome": "right"}, [2]), ({"model": "base", "reason": "ok", "outcome": "wrong"}, [0]), ({"benchmark": "quiz", "model": "base"}, [0, 1, 2, 3]),
])  # fmt: skip
def test_choose(folder, filters, found):
    assert choose(read_samples(folder), **filters) == [("quiz", ITEMS[n].id) for n in found]


@pytest.mark.parametrize(("filters", "message"), [
    ({"model": "gpt"}, "model 'gpt': none such here .there is: base, grpo, sft"), ({"reason": "hedge"}, "reason 'hedge'"), ({"benchmark": "medqa"}, "benchmark 'medqa'"),
    ({"group": "surgery"}, "group 'surgery'"), ({"outcome": "odd"}, "outcome 'odd': expected one of all, right"),
])  # fmt: skip
def test_a_filter_that_fits_nothing_names_what_there_is(folder, filters, message):
    with pytest.raises(GazalError, match=message):
        choose(read_samples(folder), **filters)


def test_several_samples_of_one_item(tmp_path):
    write(tmp_path, "base", [KEY.format("x"), "**Answer:** B"], items=ITEMS[1:2], samples=2)
    write(tmp_path, "grpo", [KEY.format("x"), KEY.format("y")], items=ITEMS[1:2], samples=2)
    samples = read_samples(tmp_path)
    assert (
        choose(samples, outcome="gained")
        and choose(samples, model="base", outcome="wrong")
        and choose(samples, model="base", outcome="right")
    )
    assert choose(samples, model="base", outcome="wrong", reason="ok", group="diagnosis", benchmark="quiz") != []
    assert item_html(samples, "quiz", "i1").count("✓ right") == 3


@pytest.mark.parametrize(("text", "think_open", "expected"), [
    ("<think>\na\n</think>\n\nb", False, ("a", "b")), ("a\n</think>\nb", True, ("a", "b")), ("b", False, (None, "b")), ("<think>\na", False, ("a", None)), ("a", True, ("a", None)),
    ("", False, (None, "")), ("<think>a</think><think>b</think>c", False, ("a</think><think>b", "c")),
])  # fmt: skip
def test_parts(text, think_open, expected):
    assert parts(text, think_open) == expected


def test_an_item_side_by_side_with_everything_escaped(folder):
    text = item_html(read_samples(folder), "quiz", ITEMS[0].id)
    found = harmless(text)
    assert (
        "<script" not in text and "<img" not in text and text.count("&lt;script&gt;alert(1)") == 7
    )  # id, context, question, option, three completions
    assert found.text.count(ATTACK) == 7 and html.escape(DISCLAIMER) in text
    assert found.text.index("base✗") < found.text.index("sft✓") < found.text.index("grpo✓")
    assert (
        "A. heparin ✓ (the key) ← sft, grpo" in found.text
        and f"B. aspirin {ATTACK} ← base" in found.text
        and "✗ wrong · answer B" in found.text
        and found.text.count("✓ right · answer A") == 2
    )
    assert text.count("<details><summary>think block, ") == 2 and "<details open" not in text


def test_an_open_think_block_and_an_empty_answer_say_so(folder):
    samples = read_samples(folder)
    text = item_html(samples, "quiz", "i3", ["base"])
    assert (
        "it is still open" in text
        and "cut at the token limit" in text
        and html.escape(Reason.UNCLOSED_THINK.__doc__ or "?") in text
        and "grpo" not in text
    )
    assert "<p>(empty)</p>" in item_html(samples, "quiz", "i1", ["sft"])


@settings(max_examples=40)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200), st.booleans())
def test_no_completion_becomes_markup(tmp_path_factory, text, think):
    folder = tmp_path_factory.mktemp("any")
    write(folder, "m", [f"<think>{text}</think>{text}" if think else text], items=ITEMS[1:2])
    harmless(item_html(read_samples(folder), "quiz", "i1"))


def test_names_of_files_are_escaped_too(tmp_path):
    write(tmp_path, "<b onload=x>m", ANSWERS["base"], name="<i>quiz")
    samples = read_samples(tmp_path)
    harmless(item_html(samples, "<i>quiz", "i1"))
    assert "<b onload" not in overview(samples)._repr_html_()


def test_long_completions_are_cut_aloud(tmp_path):
    write(tmp_path, "m", ["x" * (LONGEST + 7)], items=ITEMS[1:2])
    assert "(and 7 more characters)" in item_html(read_samples(tmp_path), "quiz", "i1")


def test_page_counts_and_says_when_nothing_fits(folder, tmp_path):
    samples = read_samples(folder)
    assert (
        "2 of 4 items that fit" in page(samples, choose(samples), 2).data
        and page(samples, choose(samples), 2).data.count("<hr>") == 1
    )
    assert harmless(page(samples, []).data).text == "No item fits."
    nothing = read_samples(tmp_path / "none<b>")
    assert (
        nothing.note.endswith("none<b>: no such folder")
        and choose(nothing) == []
        and overview(nothing).empty
        and "none&lt;b&gt;" in page(nothing, []).data
    )
    (folder / "eval" / "sft" / "quiz.parquet").write_bytes(b"PAR1")
    assert "sft/quiz.parquet: not a predictions file" in read_samples(folder).note


def test_predictions_without_items_can_be_read(folder):
    (folder / "eval" / "items" / "quiz.jsonl").unlink()
    samples = read_samples(folder)
    assert "its items do not lie beside" in item_html(samples, "quiz", "i1") and len(choose(samples)) == 4


def test_the_widgets_follow_every_filter(folder):
    browser = Browser(read_samples(folder))
    assert (
        browser.model.value == "grpo"
        and browser.count.value == "of 4 that fit"
        and "Question 0?" in browser.result.value
    )
    browser.at.value = 3
    assert "Question 2?" in browser.result.value
    browser.back.click()
    assert "Question 1?" in browser.result.value and not browser.back.disabled
    browser.back.click()
    assert "Question 0?" in browser.result.value and browser.back.disabled and not browser.forward.disabled
    browser.outcome.value = "wrong"
    assert browser.at.value == 1 and "Question 3?" in browser.result.value
    browser.reason.value = "unclosed_think"
    assert (
        browser.count.value == "of 0 that fit"
        and "No item fits." in browser.result.value
        and browser.back.disabled
        and browser.forward.disabled
    )
    browser.model.value = "base"
    assert browser.count.value == "of 1 that fit" and "Question 3?" in browser.result.value
    browser.reason.value, browser.outcome.value, browser.group.value = "", "all", "diagnosis"
    assert browser.count.value == "of 2 that fit"
    harmless(browser.result.value)


def test_widgets_of_nothing_say_so(tmp_path):
    assert "no such folder" in Browser(read_samples(tmp_path / "none")).result.value


def test_open_samples_checks_the_parameters(folder, capsys):
    values = {"EVAL": str(folder), "BENCHMARK": "", "MODEL": "", "OUTCOME": "all", "REASON": "", "GROUP": "", "SHOW": 3}
    assert tuple(values) == PARAMETERS and len(open_samples(values).table) == 12
    assert capsys.readouterr().out == "12 completions of base, sft, grpo\n"
    with pytest.raises(GazalError, match="unknown MODELS"):
        open_samples(values | {"MODELS": ""})


def execute(tmp_path: Path, **parameters: object) -> tuple[nbformat.NotebookNode, str]:
    notebook = papermill.execute_notebook(
        str(NOTEBOOK),
        str(tmp_path / "browser.ipynb"),
        parameters=parameters,
        kernel_name="python3",
        cwd=str(NOTEBOOK.parent),
        progress_bar=False,
    )
    return notebook, json.dumps(
        [output for cell in notebook.cells for output in cell.get("outputs", [])], ensure_ascii=False
    )


def test_the_notebook_runs_headless(folder, tmp_path):
    notebook, outputs = execute(tmp_path, EVAL=str(folder), OUTCOME="gained", SHOW=1)
    assert (
        "12 completions of base, sft, grpo" in outputs
        and "1 of 2 items that fit" in outputs
        and "Question 0?" in outputs
    )
    pages = [
        output.data["text/html"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "text/html" in output.get("data", {})
    ]
    assert len(pages) == 2 and not any("<script>alert" in page or "<img" in page for page in pages)
    harmless(pages[1])
    assert "application/vnd.jupyter.widget-view+json" in outputs and DISCLAIMER in notebook.cells[0].source


def test_the_notebook_says_in_one_line_that_nothing_is_there(tmp_path):
    _, outputs = execute(tmp_path, EVAL=str(tmp_path / "none"))
    assert "none: no such folder" in outputs and '"error"' not in outputs
