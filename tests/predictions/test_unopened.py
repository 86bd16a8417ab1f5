"""Completions cut inside thinking that no mark opens: the model's other completions on the benchmark tell."""

from __future__ import annotations

import pytest
from helpers.predictions import ITEMS, folder, row

from gazal.predictions.folder import read_answers

CLOSED = "First, A may be right.\n</think>\n\n**Answer:** B"
CUT = "Okay, weigh them. The answer is A. Now the second"
PLAIN = "**Answer:** B"


@pytest.mark.parametrize(
    "texts, unread",
    [
        ([CLOSED, CLOSED, CUT, CUT], [2, 3]),
        ([CLOSED, PLAIN, CUT], [2]),
        ([CLOSED, PLAIN, PLAIN, CUT], []),  # a model that seldom thinks
        ([PLAIN, PLAIN, CUT], []),
        (["<think>x</think>\n**Answer:** B", CUT], []),  # it opens its blocks itself
        ([CUT, CUT], []),  # nothing tells
    ],
)
def test_the_others_tell(texts, unread, tmp_path, capsys):
    items = ITEMS[: len(texts)]
    made = [
        row(item, text, finish_reason="length" if text == CUT else "stop")
        for item, text in zip(items, texts, strict=True)
    ]
    _, answers, _ = read_answers(folder(tmp_path, items, m=made))
    frame = answers["m", "test"]
    found = [n for n, reason in enumerate(frame["reason"]) if reason == "unclosed_think"]
    assert found == unread and [n for n, open_ in enumerate(frame["open"]) if open_] == unread
    assert (f"m on test: {len(unread)} completions are cut in thinking" in capsys.readouterr().err) == bool(unread)
