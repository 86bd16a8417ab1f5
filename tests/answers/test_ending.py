"""Where an answer is closed: never too early, always at the same place, and what is cut off changes nothing that was announced."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gazal.answers.ending import AnswerEnd, closed_at, opens_answer
from gazal.answers.extract import extract
from gazal.common.paths import EMBEDDED
from gazal.models.loading import load_tokenizer

OPTIONS = {"A": "heparin", "B": "aspirin", "C": "vitamin K", "D": "E. coli"}
THINK = "<think>\nStep 1: A. range; inside\n**Answer:** A\n</think>\n\n## Clinical Assessment\n"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("**Answer:** C\nmore", "**Answer:** C"),
        (THINK + "**Answer:** C\n\nNext", THINK + "**Answer:** C"),
        ("Final answer: (C), vitamin K\nx", "Final answer: (C), vitamin K"),
        ("<answer>C</answer> and so on", "<answer>C</answer>"),
        (r"so $\boxed{\text{C}}$ is it", r"so $\boxed{\text{C}}"),
        ("- **Answer: C**\n", "- **Answer: C**"),
        ("x</think>**Answer:** C\r\ny", "x</think>**Answer:** C\r"),
        ("## Answer: C.\nBecause", "## Answer: C."),
        ("<answer>\nC\n</answer>", "<answer>\nC\n</answer>"),
    ],
)
def test_cut_where_the_answer_is_closed(text, kept):
    assert text[: closed_at(text)] == kept and extract(kept, OPTIONS).letter == "C"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "**Answer:** C",
        "**Answer:**\n",
        "**Answer:** vitamin K\n",
        "**Answer:** A or B\n",
        "**Answer:** A vitamin\n",
        "Answer: C? no\n",
        "<think>\n**Answer:** C\n",
        "The answer is C.\n",
        "<answer>C",
        r"\boxed{C",
        "C</answer>",
        "The answer is B.\n**Answer:** C\n**Answer:** B\n",
        "C\n",
        "<answer>heparin</answer>",
        "B\n<|im_end|>\n**Answer:** C\n",
        "<think><answer>C</think></answer>",
    ],
)
def test_what_is_not_closed_is_left(text):
    assert closed_at(text) is None


def test_a_think_block_that_the_prompt_opened():
    text = "Answer: A\n</think>\nAnswer: B\n\n"
    assert text[: closed_at(text, think_open=True)] == text[:-2]
    assert closed_at("Answer: A\n", think_open=True) is None


def test_a_prompt_that_ends_with_answer():
    for text in (" C\n\nQuestion: next?\nAnswer: D\n", "\n C. vitamin K\n", " C because of it\n"):
        assert text[: closed_at(text, answer_open=True)].strip() == text.strip().splitlines()[0]
    assert closed_at(" C", answer_open=True) is None and closed_at(" vitamin K\n", answer_open=True) is None
    assert (
        opens_answer("Question: x?\nAnswer:")
        and opens_answer("Answer: ")
        and not opens_answer([{"role": "user", "content": "Answer:"}])
    )


PIECES = st.sampled_from(
    [
        "<think>",
        "</think>",
        "</THINK>",
        "\n",
        "**Answer:** C",
        "**Answer:** B",
        "Answer: ",
        "<answer>",
        "</answer>",
        "C",
        "A or B",
        r"\boxed{",
        "}",
        r"\text{",
        " vitamin K",
        "The answer is A.",
        "wait, ",
        "<|im_end|>",
        "x",
        "## ",
        "İ",
        "\r",
        "\u2028",
    ]
)
TEXTS = st.lists(PIECES, max_size=14).map("".join)


@given(TEXTS, TEXTS, st.booleans(), st.booleans())
@example("**Answer:** C\n", "</think>", False, False)
@example("**Answer:** C\n", "<think>", False, False)
@example("", "\\boxed{**Answer:** C}</THINK>\n", False, True)
def test_a_place_once_found_stays_and_is_found_at_the_earliest(text, more, think_open, answer_open):
    at = closed_at(text, think_open, answer_open)
    if at is not None:
        assert closed_at(text + more, think_open, answer_open) == at
    whole = closed_at(text + more, think_open, answer_open)
    known = [closed_at((text + more)[:n], think_open, answer_open) for n in range(len(text + more) + 1)]
    assert set(known) <= {None, whole} and known == sorted(known, key=lambda found: found is not None)


@given(TEXTS, TEXTS, st.booleans())
@example("**Answer:** C</THINK></THINK></THINK></THINK></THINK>\n", "", False)
@example("**Answer:** C**Answer:** B vitamin K\n", "**Answer:** C\n", False)
def test_what_is_cut_off_can_undo_the_answer_but_never_give_another(text, more, think_open):
    at = closed_at(text, think_open)
    if at is not None:
        assert extract(text[:at], dict.fromkeys("ABCDEFGHIJ", ""), think_open).letter is not None
        kept = extract(
            text[:at], OPTIONS, think_open
        ).letter  # None where the letter is announced with another option's text
        after = (text + more)[at:].lower()
        assert "think>" in after or extract(text + more, OPTIONS, think_open).letter in (kept, None)


@given(
    st.sampled_from("ABCD"),
    st.sampled_from(["**Answer:** {}", "<answer>{}</answer>", "\\boxed{{{}}}", "**Answer:** {}. {text}"]),
    TEXTS,
)
def test_what_follows_does_not_change_the_announced_letter(letter, form, more):
    text = THINK + form.format(letter, text=OPTIONS[letter]) + "\n" + more
    assert extract(text[: closed_at(text)], OPTIONS).letter == letter


@pytest.mark.parametrize(
    "piece",
    [
        "**Answer:** A or B\n",
        "<answer>",
        "</answer>",
        "\\boxed{",
        "}",
        "<think>Answer: C\n</think>",
        "The answer is B. Answer: C\n",
        "answer\n",
        "<think></think>The answer is B.\nAnswer: C\n",
    ],
)
def test_a_long_text_is_closed_where_its_beginning_is(piece):
    assert closed_at(piece * 4000) == closed_at(piece * 500)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(EMBEDDED)


@pytest.mark.parametrize("end", ["**Answer:** C\n\nand then more.", "<answer>C</answer> more", "\\boxed{C} more"])
def test_tokens_are_cut_to_the_fewest_that_hold_the_answer(tokenizer, end):
    ids = tokenizer(THINK + end, add_special_tokens=False)["input_ids"]
    ending = AnswerEnd(tokenizer)
    kept, text, closed = ending.cut(ids)
    fewest = next(n for n in range(len(ids) + 1) if closed_at(tokenizer.decode(ids[:n])) is not None)
    assert closed and kept == ids[:fewest] and text == THINK + end[: closed_at(end)]
    assert ending.cut(kept) == (kept, text, True)
    seen = [n for n in range(1, len(ids) + 1) if ending.reached(ids[:n])]
    assert seen[0] == fewest and ids[fewest - 1] in ending.marks
    assert ending.cut(ids[: fewest - 1])[2] is False
