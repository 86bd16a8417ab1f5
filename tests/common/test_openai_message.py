"""Messages in the forms of many servers, and the ends of their answers."""

from __future__ import annotations

import pytest

from gazal.common.openai_answer import Answer, Failure
from gazal.common.openai_message import NotText, finish_of, read_message


@pytest.mark.parametrize(
    ("reasons", "finish"),
    [
        ("stop eos eos_token end_turn stop_sequence STOP COMPLETE tool_calls function_call", "stop"),
        ("length max_tokens MAX_TOKENS max_output_tokens model_length model_context_window_exceeded", "length"),
        ("content_filter content-filter SAFETY refusal sensitive content_filter:PROHIBITED_CONTENT", "content_filter"),
        ("error abort aborted insufficient_system_resource network_error ERROR_LIMIT cancelled whatever", "error"),
    ],
)
def test_ends_have_one_name(reasons, finish):
    assert {finish_of(reason) for reason in reasons.split()} == {finish}


def test_no_reason_is_none_and_no_text_is_an_error():
    assert finish_of(None) is None and finish_of("") is None and finish_of(7) == "error" == finish_of(["stop"])


THOUGHTS = [
    {"reasoning_content": "so"},
    {"reasoning": "so"},
    {"reasoning": ["s", "o"]},
    {"reasoning": None, "reasoning_details": [{"type": "reasoning.text", "text": "so", "signature": "x"}]},
    {"reasoning": "so", "reasoning_details": [{"type": "reasoning.text", "text": "so"}]},
    {
        "reasoning_details": [
            {"type": "reasoning.encrypted", "data": "abc"},
            {"type": "reasoning.summary", "summary": "so"},
        ]
    },
    {"reasoning": {"text": "so"}},
    {"reasoning_content": [{"type": "text", "text": "s"}, {"text": "o"}]},
]


@pytest.mark.parametrize("thought", THOUGHTS)
def test_a_thought_is_read_once_in_each_form(thought):
    assert read_message({"content": "x", **thought}) == ("x", "so", "")


@pytest.mark.parametrize(
    ("content", "text", "thought"),
    [
        ("x", "x", ""),
        (None, "", ""),
        ([], "", ""),
        ([{"type": "text", "text": "**Ans"}, {"type": "text", "text": "wer:** B"}], "**Answer:** B", ""),
        ([{"type": "output_text", "text": "x", "annotations": []}], "x", ""),
        (["x", {"text": "y"}], "xy", ""),
        ({"type": "text", "text": "x"}, "x", ""),
        ([{"type": "text", "text": {"value": "x", "annotations": []}}], "x", ""),
        ([{"type": "thinking", "thinking": "so", "signature": "s"}, {"type": "text", "text": "x"}], "x", "so"),
        (
            [{"type": "thinking", "thinking": [{"type": "text", "text": "so"}]}, {"type": "text", "text": "x"}],
            "x",
            "so",
        ),
        ([{"type": "reasoning", "text": "so"}, {"type": "text", "text": "x"}], "x", "so"),
        ([{"type": "reasoning", "summary": [{"type": "summary_text", "text": "so"}]}], "", "so"),
        ([{"type": "redacted_thinking", "data": "abc"}, {"type": "text", "text": "x"}], "x", ""),
    ],
)
def test_parts_are_joined(content, text, thought):
    assert read_message({"content": content}) == (text, thought, "")


@pytest.mark.parametrize(
    "part", [{"type": "image_url", "image_url": {}}, {"type": "audio"}, {"type": "tool_use", "input": {}}]
)
def test_a_part_that_is_no_text_is_refused_by_name(part):
    with pytest.raises(NotText, match=f"^its content has a part of type '{part['type']}', which is no text$"):
        read_message({"content": [{"type": "text", "text": "x"}, part]})


@pytest.mark.parametrize("content", [5, 1.5, True, [5], {"type": "text", "text": 5}])
def test_what_is_no_text_at_all_is_refused(content):
    with pytest.raises(NotText, match="^its content is (int|float|bool), not text$"):
        read_message({"content": content})


def test_a_refusal_is_the_text_of_an_answer_without_one():
    for message in (
        {"content": None, "refusal": "I can't."},
        {"content": [{"type": "refusal", "refusal": "I can't."}]},
    ):
        answer = Answer()
        answer.add(message, "stop")
        assert (answer.end().text, answer.finish) == ("I can't.", "content_filter")
    answer.add({"content": "B"}, "stop")
    assert (answer.text, Answer(text="B", refusal="no", finish="stop").end().finish) == ("I can't.B", "stop")


def test_an_answer_that_was_broken_off_is_a_failure():
    with pytest.raises(Failure, match="^it ended an answer with finish_reason 'abort'$") as error:
        Answer().add({"content": "**Answer:** B"}, "abort")
    assert error.value.again and error.value.paid
