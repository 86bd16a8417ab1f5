"""`gazal teach` and servers that answer in other forms, refuse one prompt, or repeat the key."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.openai_server import Script, scripted_server
from helpers.teacher_answers import good_answer, question_of
from typer.testing import CliRunner

from gazal.cli import app
from gazal.common.errors import GazalError
from gazal.teacher.accept import completion
from gazal.teacher.client import Cap
from gazal.teacher.command import teach

KEY = "sk-very/secret+0123456789"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with scripted_server() as (_, script):
        script.text = answer
        yield script


def answer(body: dict[str, Any]) -> str:
    return good_answer(question_of(body))


def write_seeds(path: Path, count: int = 6) -> Path:
    rows = [{"id": f"s{n}", "question": f"Case {n}: what is to be done for this patient?"} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(server: Script, folder: Path, **options: Any) -> tuple[dict[str, Any], list[str]]:
    said: list[str] = []
    options = {
        "cap": Cap(tokens=10**7),
        "first_wait": 0.01,
        "max_tokens": 400,
        "attempts": 2,
        "say": said.append,
        **options,
    }
    return teach("my-model", server.url, folder / "out", seeds=write_seeds(folder / "s.jsonl"), **options), said


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out" / "responses.jsonl").read_text().splitlines()]


def in_parts(body: dict[str, Any]) -> dict[str, Any]:
    thought, _, text = answer(body).removeprefix("<think>").partition("</think>")
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": thought}]}
    return {"content": [thinking, {"type": "text", "text": text[:20]}, {"type": "text", "text": text[20:]}]}


def with_details(body: dict[str, Any]) -> dict[str, Any]:
    thought, _, text = answer(body).removeprefix("<think>").partition("</think>")
    return {"content": text, "reasoning_details": [{"type": "reasoning.text", "text": thought}]}


@pytest.mark.parametrize("form", [in_parts, with_details])
def test_parts_become_examples_and_a_second_run_reads_them_again(server, tmp_path, form):
    server.text, server.finish = form, "end_turn"
    assert run(server, tmp_path)[0]["counts"]["accepted"] == 6
    assert run(server, tmp_path)[0]["counts"]["accepted"] == 6 and len(server.asked) == 6


def test_an_answer_that_was_broken_off_is_asked_for_again(server, tmp_path):
    def act(body: dict[str, Any], number: int) -> Any:
        server.finish = "insufficient_system_resource" if number == 2 else "stop"
        return "ok"

    server.act = act
    report, _ = run(server, tmp_path, concurrency=1)
    assert report["counts"]["accepted"] == 6 and len(server.asked) == 7 and report["booked"]["failed_attempts"] == 1
    [failed] = [row for row in rows(tmp_path) if "failure" in row]
    assert failed["tokens"] and "insufficient_system_resource" in failed["failure"]


def test_a_refused_prompt_holds_up_no_other(server, tmp_path):
    refused = (400, json.dumps({"error": {"message": "The prompt was filtered", "code": "content_filter"}}))
    server.act = lambda body, number: refused if "Case 3:" in body["messages"][-1]["content"] else "ok"
    for _ in range(2):
        with pytest.raises(GazalError, match="1 requests failed at every attempt"):
            run(server, tmp_path)
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        assert report["counts"]["accepted"] == 5 and report["booked"]["tokens"] == 5 * 500
    assert len(server.asked) == 7
    server.act = lambda body, number: "ok"
    assert run(server, tmp_path)[0]["counts"]["accepted"] == 6


@pytest.mark.parametrize("usage", ["many", ["x"], {"prompt_tokens": "many", "completion_tokens": None}])
def test_usage_that_is_text_is_none_and_a_second_run_reads_it(server, tmp_path, usage):
    server.usage = lambda body: None
    whole = {"model": "my-model", "usage": usage}
    server.act = lambda body, number: {
        **whole,
        "choices": [{"message": {"role": "assistant", "content": answer(body)}, "finish_reason": "stop"}],
    }
    for _ in range(2):
        report, _ = run(server, tmp_path)
        assert report["counts"]["accepted"] == 6 and report["tokens"]["answers_without_usage"] == 6


def test_a_stream_that_was_not_asked_for_is_read(server, tmp_path):
    def act(body: dict[str, Any], number: int) -> Any:
        pieces = [answer(body)[at : at + 40] for at in range(0, len(answer(body)), 40)]
        chunks = [{"model": "my-model", "choices": [{"delta": {"content": piece}}]} for piece in pieces]
        chunks.append({"model": "my-model", "choices": [{"delta": {}, "finish_reason": "stop"}]})
        return 200, "\ufeff" + "".join(f"data: {json.dumps(chunk)}\r\n\r\n" for chunk in chunks), "text/plain"

    server.act = act
    assert run(server, tmp_path)[0]["counts"]["accepted"] == 6
    assert run(server, tmp_path)[0]["counts"]["accepted"] == 6 and len(server.asked) == 6


def test_the_servers_message_under_status_200_is_said(server, tmp_path):
    server.act = lambda body, number: {"code": 1113, "message": "no balance left"}
    with pytest.raises(GazalError, match="it says no balance left$"):
        run(server, tmp_path)


@pytest.mark.parametrize(
    "message", [{"content": 5}, {"content": [{"type": "image"}]}, {"content": {"type": "audio"}}, {"content": [None]}]
)
def test_a_stored_message_that_cannot_be_read_is_no_example(message):
    assert completion({"choices": [{"message": message, "finish_reason": "stop"}]})[0] == ""


KEYS = {"a line break": f"{KEY}\nand-more", "no ASCII": f"{KEY}é", "a blank": f"{KEY} and-more"}


@pytest.mark.parametrize("case", KEYS)
def test_a_key_that_no_header_holds_is_one_line_and_stored_nowhere(server, tmp_path, monkeypatch, case):
    monkeypatch.setenv("OPENAI_API_KEY", KEYS[case])
    words = ["--model", "my-model", "--endpoint", server.url, "--seeds", write_seeds(tmp_path / "s.jsonl"), "--yes"]
    words += ["--out", tmp_path / "out", "--max-total-tokens", 10**6]
    result = CliRunner().invoke(app, ["teach", *map(str, words)])
    assert isinstance(result.exception, GazalError) and str(result.exception).startswith("OPENAI_API_KEY: ")
    assert not server.asked
    check_hidden(tmp_path, [result.output, str(result.exception)])


def check_hidden(folder: Path, said: list[str]) -> None:
    """Find the key in no form in what was said and written."""
    forms = [
        KEY,
        repr(KEY)[1:-1],
        json.dumps(KEY)[1:-1],
        b64encode(KEY.encode()).decode()[:-2],
        KEY.replace("/", "%2F"),
    ]
    for text in [*said, *(path.read_text() for path in folder.rglob("*") if path.is_file())]:
        assert not [form for form in forms if form in text]


@pytest.mark.parametrize("status", [200, 400, 401, 500])
def test_a_key_that_the_server_repeats_is_stored_nowhere(server, tmp_path, status):
    echo = (
        f"{KEY} {KEY!r} {KEY.encode()!r} {json.dumps(KEY)} {KEY.replace('/', '%2F')} {b64encode(KEY.encode()).decode()}"
    )
    server.act = lambda body, number: {"_status": status, "error": {"message": echo, "code": status}}
    said: list[str] = []
    with pytest.raises(GazalError, match=r"\[key\]") as error:
        run(server, tmp_path, say=said.append)
    check_hidden(tmp_path, [*said, str(error.value)])
    if status == 200:
        server.act, server.text = lambda body, number: "ok", lambda body: f"{answer(body)}\n{echo}"
        run(server, tmp_path, say=said.append)
        check_hidden(tmp_path, said)
