"""What a server does not answer: prompts that it refuses, filters, answers that it breaks off, and keys that it repeats."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from helpers.items import make_item
from helpers.openai_server import Script, scripted_server

from gazal.common.errors import GazalError
from gazal.engines.server import OpenAIEngine
from gazal.evaluation.predict import predict
from gazal.predictions.file import read_predictions
from gazal.predictions.folder import save_items
from gazal.predictions.prompting import Prompting
from gazal.recipe.evaluation import EvaluationSection
from gazal.scoring.report import results_table
from gazal.scoring.score import score_folder

ITEMS = [make_item(number) for number in range(20)]
LONG = (
    400,
    json.dumps({"error": {"message": "maximum context length is 512 tokens", "code": "context_length_exceeded"}}),
)
FILTERED = (400, json.dumps({"error": {"message": "The prompt was filtered", "code": "content_filter"}}))
KEY = "sk-very/secret+0123456789"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    monkeypatch.setattr("gazal.common.openai_client.back_off", lambda *_: 0.0)
    with scripted_server() as (_, script):
        script.text = "**Answer:** A"
        yield script


def number_of(body: dict[str, Any]) -> int:
    return int(body["messages"][-1]["content"].split()[1].rstrip("?"))


def asked(server: Script) -> list[int]:
    return [number_of(body) for body in server.asked]


def run(server: Script, out: Path, items: list[Any] = ITEMS, **settings: Any) -> list[str]:
    said: list[str] = []
    predict(
        OpenAIEngine(server.url, "my-model", retries=1),
        items,
        EvaluationSection(**{"max_new_tokens": 64, "concurrency": 2, **settings}),
        out,
        prompting=Prompting(),
        seed=1,
        say=said.append,
    )
    return said


def test_a_refused_prompt_is_counted_and_wrong_and_the_rest_is_scored(server, tmp_path, caplog):
    server.act = lambda body, number: {7: LONG, 12: FILTERED}.get(number_of(body), "ok")
    out = tmp_path / "m" / "quiz.parquet"
    save_items(tmp_path, "quiz", ITEMS)
    said = run(server, out)
    assert said[-1] == "m on quiz: 2 of 20 prompts were refused by the server: they count as wrong"
    [line] = [record.message for record in caplog.records]
    assert line.startswith("my-model: item ") and "is refused: refuses the request (status 400: " in line
    frame = read_predictions(out)
    assert frame["finish_reason"].value_counts().to_dict() == {"stop": 18, "refused": 2}
    refused = frame.loc[[7, 12]]
    assert set(refused["completion"]) == {""} and not refused["n_tokens"].any() and not refused["correct"].any()
    scores = score_folder(tmp_path)
    cell = scores["models"]["m"]["benchmarks"]["quiz"]
    assert (cell["n"], cell["refused"], cell["not_asked"], cell["truncated"]) == (20, 0.1, 0, 0)
    assert cell["accuracy"] == 4 / 20  # items 0, 4, 8, 16: A is right, and 12 was refused
    assert "m on quiz: 10.0 % of prompts were refused by the server, and are wrong." in results_table(scores)
    before = len(server.asked)
    run(server, out)
    assert len(server.asked) == before == 20


def test_a_refusal_of_the_first_request_stops_the_run(server, tmp_path):
    server.act = lambda body, number: LONG if number_of(body) == 0 else "ok"
    with pytest.raises(GazalError, match=r"item 1 of 20, .*status 400: maximum context length is 512 tokens\)\)$"):
        run(server, tmp_path / "quiz.parquet")


def test_more_refusals_than_a_tenth_stop_the_run_and_a_mended_server_is_asked_again(server, tmp_path):
    server.act = lambda body, number: LONG if number_of(body) in (3, 5, 11) else "ok"
    for _ in range(2):  # the second time as the first
        with pytest.raises(
            GazalError, match=r"maximum context length .*; 3 of 20 prompts are refused, and a tenth may be"
        ):
            run(server, tmp_path / "quiz.parquet")
    server.act, before = lambda body, number: "ok", len(server.asked)
    said = run(server, tmp_path / "quiz.parquet")
    assert {3, 5, 11} <= set(asked(server)[before:]) and not any("refused" in line for line in said)
    assert set(read_predictions(tmp_path / "quiz.parquet")["finish_reason"]) == {"stop"}


def test_an_interrupted_run_counts_its_refusals_once(server, tmp_path):
    server.act = lambda body, number: {2: LONG, 15: 401}.get(number_of(body), "ok")
    with pytest.raises(GazalError, match="OPENAI_API_KEY"):
        run(server, tmp_path / "quiz.parquet")
    server.act = lambda body, number: LONG if number_of(body) == 2 else "ok"
    said = run(server, tmp_path / "quiz.parquet")
    assert "1 of 20 prompts were refused" in said[-1]
    frame = read_predictions(tmp_path / "quiz.parquet")
    assert len(frame) == 20 and (frame["finish_reason"] == "refused").sum() == 1


def test_each_sample_of_a_refused_prompt_counts(server, tmp_path):
    server.act = lambda body, number: LONG if number_of(body) == 4 else "ok"
    said = run(server, tmp_path / "quiz.parquet", samples=3, temperature=0.5)
    assert "3 of 60 prompts were refused" in said[-1]


@pytest.mark.parametrize("action", [401, 404, (400, '{"error": {"message": "unknown field top_p"}}'), (500, "prompt")])
def test_other_refusals_stop_the_run(server, tmp_path, action):
    server.act = lambda body, number: action if number_of(body) == 9 else "ok"
    with pytest.raises(GazalError, match="item 10 of 20"):
        run(server, tmp_path / "quiz.parquet")


@pytest.mark.parametrize("streams", [True, False])
def test_an_answer_that_a_filter_cut_says_so(server, tmp_path, streams):
    server.streams, server.finish, server.text = streams, "safety", "<think>\nStep 1: "
    run(server, tmp_path / "quiz.parquet")
    frame = read_predictions(tmp_path / "quiz.parquet")
    assert set(frame["finish_reason"]) == {"content_filter"} and set(frame["completion"]) == {server.text}


@pytest.mark.parametrize("streams", [True, False])
def test_an_answer_that_was_broken_off_is_no_answer(server, tmp_path, streams):
    server.streams, server.finish = streams, "abort"
    with pytest.raises(GazalError, match=r"it ended an answer with finish_reason 'abort', 2 times\)$"):
        run(server, tmp_path / "quiz.parquet")
    server.finish = "eos"
    run(server, tmp_path / "quiz.parquet")
    assert set(read_predictions(tmp_path / "quiz.parquet")["finish_reason"]) == {"stop"}


def test_thinking_parts_become_the_think_block(server, tmp_path):
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Step 1: guess."}]},
        {"type": "text", "text": "**Answer:** "},
        {"type": "text", "text": "A"},
    ]
    server.streams, server.text = False, {"content": parts}
    run(server, tmp_path / "quiz.parquet")
    [text] = set(read_predictions(tmp_path / "quiz.parquet")["completion"])
    assert "Step 1: guess." in text and text.startswith("<think>") and text.endswith("**Answer:** A")


ECHOES = [
    f"bad key {KEY}",
    f"bad header {f'Bearer {KEY}'.encode()!r}",
    f"bad key {quote(KEY, safe='')}",
    f"bad key {b64encode(KEY.encode()).decode()}",
    f"bad key {b64encode(f'Bearer {KEY}'.encode()).decode()}",
    "bad key " + "".join(f"\\u{ord(one):04x}" for one in KEY),
]


@pytest.mark.parametrize("status", [200, 400, 401, 500])
@pytest.mark.parametrize("echo", ECHOES)
def test_a_key_that_the_server_repeats_is_shown_and_stored_nowhere(server, tmp_path, monkeypatch, caplog, status, echo):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    trouble = json.dumps({"error": {"message": echo, "code": 503 if status == 200 else status}})
    server.act = lambda body, number: (status, trouble) if number_of(body) == 9 else "ok"
    with pytest.raises(GazalError, match=r"\[key\]") as error:
        run(server, tmp_path / "quiz.parquet")
    files = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    for text in (str(error.value), caplog.text, *files):
        assert not [
            form for form in (KEY, repr(KEY)[1:-1], b64encode(KEY.encode()).decode()[:-2], echo[8:]) if form in text
        ]


def test_credentials_of_an_address_are_shown_nowhere(server, tmp_path):
    url = server.url.replace("//", "//user:pass-word@")
    server.act = lambda body, number: (500, json.dumps({"error": {"message": f"no {url} for user:pass-word"}}))
    with pytest.raises(GazalError, match="status 500") as error:
        list(
            OpenAIEngine(url, "my-model", 0).complete([[{"role": "user", "content": "x"}]], EvaluationSection(), 1, ())
        )
    assert "pass-word" not in str(error.value)
