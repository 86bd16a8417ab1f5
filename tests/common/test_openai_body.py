"""Bodies as servers and routers send them: what is read, and what is a failure of one line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from helpers.mock_client import CHAT, body_of, mock_client

from gazal.common.openai_answer import Answer, Failure
from gazal.common.openai_body import stream_events

TEXT = "**Answer:** B – ja"
WHOLE = {"model": "m", "choices": [{"message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}]}


def never(piece: str, answer: Answer) -> bool:
    return False


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


def events(*values: Any, end: str = "\n", done: bool = True) -> bytes:
    lines = [f"data: {json.dumps(value, ensure_ascii=False)}{end}{end}" for value in values]
    return "".join([*lines, f"data: [DONE]{end}{end}" * done]).encode()


STREAM = events(
    chunk({"role": "assistant", "content": ""}), chunk({"content": TEXT[:5]}), chunk({"content": TEXT[5:]}, "stop")
)


def ask(
    raw: bytes, kind: str | None = "application/json", enough: Any = never, size: int = 7, **options: Any
) -> Answer:
    pieces = [raw[at : at + size] for at in range(0, len(raw), size)]
    client = mock_client(lambda: body_of(pieces, kind), **options)
    return client.retried(lambda: client.send(CHAT, enough))


def failure(value: Any, kind: str = "application/json", **options: Any) -> Failure:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    with pytest.raises(Failure) as error:
        ask(raw, kind, **options)
    assert "\n" not in str(error.value)
    return error.value


@pytest.mark.parametrize(
    "kind", ["text/event-stream; charset=utf-8", "text/plain", "application/json", "", None, "application/x-ndjson"]
)
@pytest.mark.parametrize(
    "start", [b"", b"\xef\xbb\xbf", b"\n\n", b": hello\n\n", b"retry: 3\n", b"event: message\nid: 1\n"]
)
@pytest.mark.parametrize("size", [1, 2, 10_000])
def test_a_stream_is_read_whatever_it_is_called(kind, start, size):
    answer = ask(start + STREAM, kind, size=size)
    assert (answer.text, answer.finish) == (TEXT, "stop")


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "text/event-stream", "", None])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b" \r\n"])
def test_a_whole_answer_is_read_whatever_it_is_called(kind, start):
    for enough in (never, None):
        answer = ask(start + json.dumps(WHOLE, ensure_ascii=False).encode(), kind, enough)
        assert (answer.text, answer.finish, answer.value) == (TEXT, "stop", WHOLE)


def test_a_stream_that_nobody_wanted_is_stored_as_one_answer():
    raw = events(chunk({"reasoning_content": "so"}), chunk({"content": TEXT}, "stop", usage={"prompt_tokens": 1}))
    for kind in ("text/event-stream", "application/json"):
        value = ask(raw, kind, None).value
        message = {"role": "assistant", "content": TEXT, "reasoning_content": "so"}
        assert value["choices"] == [{"index": 0, "message": message, "finish_reason": "stop"}]
        assert value["usage"] == {"prompt_tokens": 1} and value["model"] == "m"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("size", [1, 3, 10_000])
def test_events_are_read_as_the_standard_says(end, size):
    lines = [
        b"\xef\xbb\xbf: comment",
        b"data: {",
        b'data:"a": 1',
        b"data: }",
        b"",
        b"id: 3",
        b'data:{"b": "\xc3\xa9"}',
        b"",
        b"data: [DONE]",
        b"",
        b"data: cut",
    ]
    raw = end.encode().join(lines)
    found = list(stream_events(raw[at : at + size] for at in range(0, len(raw), size)))
    assert [json.loads(one) if b"{" in one else one for one in found] == [{"a": 1}, {"b": "é"}, b"[DONE]"]


def test_events_that_one_line_end_parts_are_read():
    assert list(stream_events([b'data: {"a": 1}\ndata: {"a": 2}\ndata: [DONE]\n'])) == [
        b'{"a": 1}',
        b'{"a": 2}',
        b"[DONE]",
    ]


TROUBLE = {"message": "no GPU is left", "code": 503}


@pytest.mark.parametrize(
    "value",
    [
        {**WHOLE, "error": TROUBLE},
        {**WHOLE, "error": "no GPU is left"},
        {"model": "m", "choices": [{**WHOLE["choices"][0], "error": TROUBLE, "finish_reason": "error"}]},
        {"error": TROUBLE},
        TROUBLE,
        {"code": 503, "msg": "no GPU is left", "data": None},
        {"code": "Busy", "message": "no GPU is left"},
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_an_error_under_status_200_is_said_and_retried(value, streamed):
    if streamed:
        bare = {name: one for name, one in value.items() if name not in ("choices", "model")}
        inner = (value.get("choices") or [{}])[0].get("error")
        trouble = {**chunk({"content": ""}), **({"error": inner} if inner else bare)} if "choices" in value else bare
        found = failure(events(chunk({"content": TEXT}), trouble, chunk({}, "stop")), "text/event-stream")
    else:
        found = failure(value)
    assert str(found) == "it says no GPU is left, 2 times" and found.again


@pytest.mark.parametrize("error", [None, {}, "", {"code": None, "message": ""}])
def test_an_error_without_a_word_is_none(error):
    assert ask(json.dumps({**WHOLE, "error": error}).encode()).text == TEXT


@pytest.mark.parametrize("code", [400, 401, "invalid_api_key", "insufficient_quota"])
def test_an_error_that_does_not_pass_is_not_retried(code):
    assert str(failure({"error": {"message": "pay first", "code": code}})) == "it says pay first"


@pytest.mark.parametrize("reason", ["error", "abort", "aborted", "insufficient_system_resource", "who knows"])
@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_that_was_broken_off_is_asked_for_again(reason, streamed):
    value = {"model": "m", "choices": [{"message": {"content": TEXT}, "finish_reason": reason}]}
    found = failure(events(chunk({"content": TEXT}), chunk({}, reason))) if streamed else failure(value)
    assert str(found) == f"it ended an answer with finish_reason '{reason}', 2 times" and found.paid


@pytest.mark.parametrize("reason", ["max_tokens", "content_filter", "eos"])
def test_other_ends_have_our_names(reason):
    value = {"model": "m", "choices": [{"message": {"content": TEXT}, "finish_reason": reason}]}
    finish = {"max_tokens": "length", "eos": "stop"}.get(reason, reason)
    assert ask(json.dumps(value).encode()).finish == ask(events(chunk({"content": TEXT}, reason))).finish == finish


def test_parts_are_read_in_streams_too():
    thought = [{"type": "thinking", "thinking": [{"type": "text", "text": "so"}]}]
    answer = ask(events(chunk({"content": thought}), chunk({"content": [{"type": "text", "text": TEXT}]}, "stop")))
    assert (answer.thought, answer.text, answer.pieces) == ("so", TEXT, 2)
    image = [{"type": "image_url", "image_url": {"url": "x"}}]
    for raw in (
        events(chunk({"content": image}, "stop")),
        json.dumps({"choices": [{"message": {"content": image}}]}).encode(),
    ):
        found = failure(raw)
        assert not found.again and found.paid
        assert "no chat completion (its content has a part of type 'image_url', which is no text)" in str(found)


def test_a_message_in_place_of_a_delta_is_read_once():
    whole = {"model": "m", "choices": [{"message": {"content": TEXT}, "finish_reason": "stop"}]}
    assert ask(events(whole)).text == TEXT
    assert ask(events(chunk({"content": TEXT}), {"choices": [{"delta": {}, **whole["choices"][0]}]})).text == TEXT


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[" * 100_000,
        b'{"choices": [null]}',
        b'{"choices": {"0": 1}}',
        b'{"choices": "no"}',
        b'{"choices": [{"message": "text"}]}',
        b'{"choices": [{"message": {"content": 5}, "finish_reason": "stop"}]}',
        json.dumps(WHOLE).encode()[:-2],
        json.dumps(WHOLE, ensure_ascii=False).encode("latin-1", "replace").replace(b"B", b"\xe9"),
        STREAM[:60],
        events(chunk({"content": TEXT}), done=False),
        events(["a"]),
        events({"choices": [{"delta": [5]}]}),
        b"data: {\n\n",
        STREAM.replace("–".encode(), b"\xff"),
    ],
)
@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
def test_a_broken_body_is_one_line(raw, kind):
    failure(raw, kind)


@pytest.mark.parametrize("usage", ["many", ["x"], 5, None, {"completion_tokens": "50", "prompt_tokens": None}])
def test_counts_that_are_no_numbers_are_none(usage):
    answer = ask(json.dumps({**WHOLE, "usage": usage}).encode())
    assert answer.count("completion_tokens") is None and answer.text == TEXT


@pytest.mark.parametrize(
    ("status", "body", "refused"),
    [
        (
            400,
            {
                "error": {
                    "message": "This model's maximum context length is 4096 tokens",
                    "code": "context_length_exceeded",
                }
            },
            True,
        ),
        (400, {"error": {"message": "Filtered", "code": "content_filter"}}, True),
        (400, {"message": "the request exceeds the available context size"}, True),
        (413, "<html>Request Entity Too Large</html>", True),
        (422, {"error": "`inputs` tokens + `max_new_tokens` must be <= 2048", "error_type": "validation"}, True),
        (403, {"error": {"message": "your input was flagged", "code": 403}}, True),
        (200, {"error": {"message": "prompt is too long", "code": 400}}, True),
        (200, {"error": {"message": "blocked", "code": "content_filter"}}, True),
        (400, {"error": {"message": "Unrecognized request argument: top_k"}}, False),
        (401, {"error": {"message": "no such key for this context"}}, False),
        (429, {"error": {"message": "too many tokens in this prompt a minute"}}, False),
        (500, {"error": {"message": "the prompt crashed the model"}}, False),
        (200, {"error": {"message": "the prompt crashed the model", "code": 500}}, False),
    ],
)
def test_a_refused_prompt_is_told_from_other_failures(status, body, refused):
    raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    client = mock_client(lambda: body_of([raw], "text/html" if isinstance(body, str) else "application/json", status))
    with pytest.raises(Failure) as error:
        client.send(CHAT)
    assert error.value.refused == refused and not (refused and error.value.again)


def test_an_answer_that_holds_the_key_is_stored_without(monkeypatch):
    key = "sk-very-secret-0123456789"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    value = {**WHOLE, "seen": {"Authorization": f"Bearer {key}"}, "choices": [{"message": {"content": f"{key}!"}}]}
    answer = ask(json.dumps(value).encode(), enough=None)
    assert answer.text == "[key]!" and key not in json.dumps(answer.value)
    assert ask(events(chunk({"content": f"a {key[:9]}"}), chunk({"content": key[9:]}, "stop"))).text == "a [key]"
