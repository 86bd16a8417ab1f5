"""Random streams: each outcome is the whole answer, or one failure of one line."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from helpers.mock_client import CHAT, body_of, mock_client

from gazal.common.openai_answer import Answer, Failure

WORDS = [
    "Step 1: ",
    "né ",
    "日本語 ",
    "\n",
    "</x>",
    "**Answer:** B",
    '"quoted" ',
    "\\ ",
    "🩺",
    "data: ",
    "[DONE]",
    "\u2028",
]
KINDS = ["text/event-stream", "text/event-stream; charset=utf-8", "text/plain", "application/json", "", None]
ENDS = {"stop": "stop", "eos": "stop", "length": "length", "max_tokens": "length", "content_filter": "content_filter"}
BROKEN_ENDS = ["error", "abort", "insufficient_system_resource", "odd"]
NOISE = [": ping", "event: message", "id: 7", "retry: 1000", "unknown: field"]


def delta(rng: random.Random, kind: str, text: str) -> dict[str, Any]:
    """A piece of text or thought, as it is or as a part."""
    if kind == "text":
        part = [{"type": "text", "text": text}]
        return {"content": rng.choice([text, text, part, {"type": "text", "text": text}])}
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": text}]}]
    details = [{"type": "reasoning.text", "text": text}]
    return rng.choice(
        [{"reasoning_content": text}, {"reasoning": text}, {"content": parts}, {"reasoning_details": details}]
    )


def event(rng: random.Random, value: Any, end: str) -> str:
    """An event of one line or several, with other lines about it."""
    several = rng.random() < 0.3
    lines = json.dumps(value, ensure_ascii=rng.random() < 0.5, indent=1 if several else None).split("\n")
    lines = [f"data:{rng.choice(['', ' '])}{line}" for line in lines]
    if rng.random() < 0.3:
        lines.insert(0, rng.choice(NOISE))
    return end.join([*lines, "", ""])


def make(rng: random.Random) -> tuple[bytes, str, str, str, bool, int]:
    """A stream; its text, thought and end; whether it is broken in itself; the first byte without which it is not whole."""
    end, values, text, thought = rng.choice(["\n", "\r\n", "\r"]), [], "", ""
    for _ in range(rng.randrange(12)):
        kind, word = rng.choice(["text", "text", "thought"]), rng.choice(WORDS)
        text, thought = text + word * (kind == "text"), thought + word * (kind == "thought")
        values.append({"model": "m", "choices": [{"index": 0, "delta": delta(rng, kind, word), "finish_reason": None}]})
    reason = rng.choice(list(ENDS))
    broken = rng.random() < 0.3
    last = {"model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
    if broken and rng.random() < 0.5:
        last["choices"][0]["finish_reason"] = rng.choice(BROKEN_ENDS)
    elif broken:
        trouble = rng.choice(["crash", {"message": "crash"}, {"code": 503, "message": "busy"}])
        values.insert(rng.randrange(len(values) + 1), {"error": trouble, **rng.choice([{}, last])})
    for odd in ({"choices": [], "usage": {"completion_tokens": 3}}, {"choices": None}, {"object": "ping"}):
        if rng.random() < 0.3:
            values.insert(rng.randrange(len(values) + 1), odd)
    raw = "".join(event(rng, value, end) for value in [*values, last])
    start = rng.choice(["", "\ufeff", end, f": hello{end}{end}"])
    needed = len((start + raw).encode()) - len((end * 2).encode())
    tail = event(rng, {"choices": [], "usage": {"completion_tokens": 3}}, end) if rng.random() < 0.3 else ""
    return (
        (start + raw + tail + rng.choice(["", f"data: [DONE]{end}{end}"])).encode(),
        text,
        thought,
        ENDS[reason],
        broken,
        needed,
    )


def outcome(send: Callable[[], Answer]) -> tuple[Answer | None, str]:
    """The answer, or None and the one line of its failure."""
    try:
        return send(), ""
    except Failure as failure:
        said = str(failure)
    assert said and "\n" not in said and len(said) < 400
    said.encode()  # a terminal can show it
    return None, said


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200))
def test_a_random_stream_is_read_whole_or_not_at_all(seed):
    rng = random.Random(seed)
    raw, text, thought, finish, broken, needed = make(rng)
    cut = rng.randrange(len(raw)) if rng.random() < 0.4 else len(raw)
    garbled = rng.random() < 0.1
    body, pieces, at = raw[:cut], [], 0
    if garbled:
        where = rng.randrange(len(body) + 1)
        body = body[:where] + rng.choice([b"\xff", b"\x00", b"{", b"}\n\n"]) + body[where:]
    while at < len(body):
        size = rng.choice([1, 2, 3, 17, 200, 5000])
        pieces.append(body[at : at + size])
        at += size
    if rng.random() < 0.2:
        pieces.append(
            rng.choice([httpx2.ReadError("reset"), httpx2.RemoteProtocolError("cut"), httpx2.ReadTimeout("late")])
        )
    kind, enough = rng.choice(KINDS), rng.choice([None, lambda piece, answer: False])
    client = mock_client(lambda: body_of(pieces, kind), tries=2)
    answer, said = outcome(lambda: client.retried(lambda: client.send(CHAT, enough)))
    if answer is None:
        whole = not broken and not garbled and cut == len(raw) and not isinstance((pieces or [b""])[-1], Exception)
        assert not whole, f"a whole stream is a failure: {said}"
        return
    assert not broken or garbled
    if not garbled:
        assert (answer.text, answer.thought, answer.finish) == (text, thought, finish) and cut >= needed
    if enough is None:
        message = answer.value["choices"][0]["message"]
        assert (message["content"], message["reasoning_content"]) == (answer.text, answer.thought)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200))
def test_a_random_body_of_odd_json_is_no_other_error(seed):
    rng = random.Random(1000 + seed)

    def value(depth: int) -> Any:
        names = [
            "choices",
            "message",
            "delta",
            "content",
            "error",
            "code",
            "finish_reason",
            "type",
            "text",
            "usage",
            "model",
        ]
        leaves = [None, True, 0, 503, -1.5, "", "stop", "text", "thinking", "m", float("nan"), "\ud800"]
        if depth > 5 or rng.random() < 0.3:
            return rng.choice(leaves)
        if rng.random() < 0.4:
            return [value(depth + 1) for _ in range(rng.randrange(3))]
        return {rng.choice(names): value(depth + 1) for _ in range(rng.randrange(5))}

    whole = value(0)
    if rng.random() < 0.7:
        whole = {"choices": [value(2)], "model": "m", "usage": value(3)}
    raw = json.dumps(whole).encode()
    raw = b"data: " + raw + b"\n\ndata: [DONE]\n\n" if rng.random() < 0.5 else raw
    client = mock_client(lambda: body_of([raw], rng.choice(KINDS), rng.choice([200, 200, 200, 400, 503])))
    answer, _ = outcome(lambda: client.send(CHAT, rng.choice([None, lambda piece, answer: False])))
    if answer:
        assert isinstance(answer.text, str) and answer.finish in ("stop", "length", "content_filter")
