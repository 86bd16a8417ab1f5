"""What a message of OpenAI's protocol holds: its text, its thought, and why it ended, in the words of many servers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

STOP, LENGTH, FILTERED, FAILED = "stop", "length", "content_filter", "error"
FINISHES = {
    # An answer that calls a tool, though none was offered, has ended: its text counts, be it empty.
    STOP: "stop eos eos_token end end_turn stop_sequence stop_token complete completed done finished "
    "tool_calls tool_call function_call tool_use",
    LENGTH: "length max_tokens max_output_tokens max_completion_tokens max_new_tokens max_length model_length "
    "token_limit context_length model_context_window_exceeded repetition",
    FILTERED: "content_filter content_filtered safety refusal blocklist prohibited_content spii recitation sensitive "
    "guardrail_intervened error_toxic",
}
_FINISHES = {word: finish for finish, words in FINISHES.items() for word in words.split()}
PARTS = {
    "text": "text output_text",
    "thought": "thought thinking reasoning reasoning_text reasoning_content reasoning.text reasoning.summary "
    "summary_text summary",
    "refusal": "refusal",
    "": "redacted_thinking reasoning.encrypted",  # for the server alone
}
_PARTS = {word: part for part, words in PARTS.items() for word in words.split()}
FIELDS = ("text", "thinking", "reasoning", "reasoning_content", "refusal", "content", "summary", "value")


def finish_of(reason: Any) -> str | None:
    """Return how an answer ended: ``stop``, ``length`` or ``content_filter``; None without a reason.

    ``error``: the server broke off (``abort``, ``insufficient_system_resource``), or it is no reason that we know.
    """
    if not reason:
        return None
    word = str(reason).partition(":")[0].strip().lower().replace("-", "_")
    return _FINISHES.get(word, FAILED)


class NotText(ValueError):
    """A message holds something else than text."""


class Message(NamedTuple):
    """A message, or a piece of one."""

    text: str
    thought: str
    refusal: str


def read_message(message: dict[str, Any]) -> Message:
    """Return what a message holds. Raise NotText for a part that is none.

    ``content`` is a text, or a list of parts, which are joined. ``reasoning_content``, ``reasoning`` and
    ``reasoning_details`` tell the same thought; the first that holds any counts.
    """
    found = {"text": "", "thought": "", "refusal": ""}
    for part, text in _parts(message.get("content") or message.get("text"), "text"):
        found[part] += text
    for name in ("reasoning_content", "reasoning", "reasoning_details"):
        if thought := "".join(text for _, text in _parts(message.get(name), "thought")):
            found["thought"] = thought
            break
    refused = "".join(text for _, text in _parts(message.get("refusal"), "refusal"))
    return Message(found["text"], found["thought"], refused or found["refusal"])


def _parts(value: Any, part: str) -> Iterator[tuple[str, str]]:
    """Yield (name of ``PARTS``, text) for each text in ``value``, which is a ``part`` if it does not say what it is."""
    if isinstance(value, str):
        yield part, value
    elif isinstance(value, list):
        for one in value:
            yield from _parts(one, part)
    elif isinstance(value, dict):
        kind = str(value.get("type") or part)
        if kind not in _PARTS:
            raise NotText(f"its content has a part of type {kind!r}, which is no text")
        inner = _PARTS[kind] if part == "text" else part
        field = next((name for name in FIELDS if value.get(name)), None)
        if _PARTS[kind] and field:
            yield from _parts(value[field], inner)
    elif value is not None:
        raise NotText(f"its content is {type(value).__name__}, not text")
