"""Evaluation against a local server that follows a script: what is asked, what is read, and each way to fail."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator

import pytest
from helpers.items import make_item
from helpers.openai_server import Script, pieces_of, scripted_server, tokens

from gazal.common.errors import GazalError
from gazal.engines.load import load_engine
from gazal.engines.server import OpenAIEngine
from gazal.evaluation.predict import Prompts, predict
from gazal.predictions.file import read_predictions
from gazal.predictions.prompting import Prompting
from gazal.recipe.evaluation import EvaluationSection

ITEMS = [make_item(number) for number in range(12)]
CHATS = Prompts(ITEMS, 1, Prompting("Be brief."))
TEXT = "<think>\nStep 1: guess.\n</think>\n\n**Answer:** B\n\nAnd there is more to say."
KEPT = "<think>\nStep 1: guess.\n</think>\n\n**Answer:** B"


@pytest.fixture
def server(monkeypatch) -> Iterator[Script]:
    monkeypatch.setattr("gazal.common.openai_client.back_off", lambda *_: 0.0)
    with scripted_server() as (_, script):
        script.text, script.usage, script.headers = TEXT, tokens(3, 50), {"retry-after-ms": "1"}
        yield script


def ask(server: Script, prompts=CHATS, model="my-model", done=(), retries=2, **settings):
    settings = EvaluationSection(**{"max_new_tokens": 64, "concurrency": 3, **settings})
    return sorted(
        reply
        for batch in OpenAIEngine(server.url, model, retries).complete(prompts, settings, 5, done)
        for reply in batch
    )


def test_a_chat_is_asked_as_the_settings_say(server):
    ask(
        server,
        Prompts(ITEMS[:2], 2, Prompting("Be brief.")),
        temperature=0.7,
        top_p=0.8,
        top_k=20,
        thinking="off",
        samples=2,
    )
    assert set(server.paths) == {"/v1/chat/completions"} and len(server.asked) == 4
    body = min(server.asked, key=lambda body: (body["messages"][-1]["content"], body["seed"]))
    assert body["messages"] == CHATS[0]
    assert (body["model"], body["temperature"], body["top_p"], body["top_k"], body["max_tokens"]) == (
        "my-model",
        0.7,
        0.8,
        20,
        64,
    )
    assert body["chat_template_kwargs"] == {"enable_thinking": False} and sorted(
        body["seed"] for body in server.asked
    ) == [5, 5, 6, 6]
    server.asked.clear()
    ask(server)
    assert not {"top_k", "chat_template_kwargs"} & server.asked[0].keys()


def test_plain_text_is_asked_as_plain_text(server):
    prompts = Prompts(ITEMS[:3], 1, Prompting(style="plain"))
    server.text = " B\n\nQuestion: and next?\nAnswer: D\n"
    replies = ask(server, prompts)
    assert set(server.paths) == {"/v1/completions"} and sorted(body["prompt"] for body in server.asked) == sorted(
        prompts
    )
    assert {(reply.text, reply.finish_reason) for reply in replies} == {(" B", "stop")}
    assert {reply.text for reply in ask(server, prompts, stop_when_answered=False)} == {server.text}
    with pytest.raises(
        GazalError, match="model my-model: evaluation.thinking=on is a chat template's, and plain prompts have none"
    ):
        ask(server, prompts, thinking="on")


def test_the_stream_is_left_where_the_answer_is_closed(server):
    server.text, server.pace = TEXT + "word " * 2000, 0.001
    replies = ask(server, Prompts(ITEMS[:3], 1, Prompting()))
    assert {(reply.text, reply.finish_reason) for reply in replies} == {(KEPT, "stop")}
    needed = len(pieces_of(TEXT[: len(KEPT) + 1]))
    assert {reply.n_tokens for reply in replies} == {needed}  # pieces: the server's count never came
    time.sleep(0.2)
    assert max(server.sent) < 600 < len(pieces_of(server.text))


@pytest.mark.parametrize("streams", [True, False])
def test_whole_answers_are_counted_by_the_server_and_cut_alike(server, streams):
    server.streams = streams
    whole = ask(server, stop_when_answered=False)
    assert {reply[1:] for reply in whole} == {(TEXT, 50, "stop")}
    assert {reply.text for reply in ask(server)} == {KEPT}
    server.finish, server.text = "length", "<think>\nStep 1: on and on"
    assert {reply[1:] for reply in ask(server)} == {(server.text, 50, "length")}


@pytest.mark.parametrize("streams", [True, False])
def test_a_think_block_that_the_server_cut_out_comes_back(server, streams):
    server.streams, server.thought, server.text = streams, "Step 1: **Answer:** C\nguess.\n", "\n\n**Answer:** B"
    assert {reply.text for reply in ask(server)} == {
        "<think>\nStep 1: **Answer:** C\nguess.\n</think>\n\n**Answer:** B"
    }
    server.text, server.finish = "", "length"
    assert {(reply.text, reply.finish_reason) for reply in ask(server)} == {
        ("<think>\nStep 1: **Answer:** C\nguess.", "length")
    }


def test_a_think_block_that_the_prompt_opened_is_not_cut(server):
    server.text = "Step 1:\n**Answer:** C\n</think>\n\n**Answer:** B\n\nmore"
    assert {reply.text for reply in ask(server, Prompts(ITEMS, 1, Prompting(opens_think=True)))} == {
        server.text[: -len("\n\nmore")]
    }


def test_without_a_count_pieces_or_words_are_counted_and_the_latter_said(server, caplog):
    server.usage = None
    assert {reply.n_tokens for reply in ask(server, stop_when_answered=False)} == {len(pieces_of(TEXT))}
    assert not caplog.records
    server.streams, server.text = False, "**Answer:** B"
    assert {reply.n_tokens for reply in ask(server)} == {7}
    assert [record.message for record in caplog.records] == [
        "my-model: the server does not say how many tokens its answers have: words and marks are counted, which are fewer"
    ]


@pytest.mark.parametrize(
    "served",
    ["my-model", "my-model@main", "/models/my-model", "org/my-model:latest", "my-model-2024-08-06", "MY-MODEL"],
)
def test_other_ways_to_write_a_name_are_the_same_model(server, served):
    server.model = served
    assert len(ask(server)) == 12


@pytest.mark.parametrize("streams", [True, False])
def test_another_models_name_is_refused(server, streams):
    server.model, server.streams = "/home/me/gpt-x", streams
    with pytest.raises(
        GazalError,
        match=r"^model my-model: the server answers as model 'gpt-x', not 'my-model' \(item \d+ of 12, http://127.0.0.1:\d+: .*#gpt-x\)$",
    ):
        ask(server)


BAD = {
    "html": ((200, "<html>hi</html>"), "'s answer is no chat completion .*text/html; the URL often ends in /v1"),
    "404": (
        (404, '{"error": {"message": "no model my-model"}}'),
        r" failed .*has no such model or path .*\(status 404: no model my-model\)",
    ),
    "401": (
        (401, '{"error": {"message": "bad key sk-secret-123"}}'),
        r" failed .*does not accept the key in OPENAI_API_KEY \(status 401: bad key \[key\]\)",
    ),
    "500": ((500, '{"error": {"message": "out of memory"}}'), r" failed .*failed \(status 500: out of memory\)"),
    "no choices": (
        (200, '{"model": "my-model", "choices": []}'),
        r"'s answer is no chat completion .*it has no choices",
    ),
    "other json": ((200, '{"hello": 1}'), r"'s answer is no chat completion .*other JSON"),
    "a list": ((200, "[1]"), r"'s answer is no chat completion .*other JSON"),
    "error under 200": (
        (200, '{"error": {"message": "provider down", "code": 502}}'),
        r" failed .*it says provider down",
    ),
    "broken body": ((200, '{"choices": [{'), r" failed .*a broken body, 3 times"),
    "cut": ("cut", r" failed .*the connection broke .*, 3 times"),
    "silent end": ("silent end", r" failed .*the stream ended in the middle, 3 times"),
    "garbage": ("garbage", r" failed .*a broken stream .*, 3 times"),
    "error inside": ("error inside", r" failed .*the model crashed"),
    "top_k": (
        (422, '{"detail": "Unexpected fields in the request: {top_k}"}'),
        r" failed .*it takes no top_k: set evaluation.top_k=0",
    ),
    "thinking": (
        (400, '{"error": {"message": "unknown field chat_template_kwargs"}}'),
        r" failed .*set evaluation.thinking=template",
    ),
    "comments": ("comments", r" failed .*no whole answer within 0.3 s; evaluation.timeout sets how long it has"),
    "late": (1.5, r" failed .*no answer within 0.3 s .*evaluation.timeout sets how long it has"),
}


@pytest.mark.parametrize("case", BAD)
def test_each_failure_is_one_line_and_what_was_answered_is_kept(server, case, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-123")
    action, message = BAD[case]
    bad = ITEMS[7].question
    server.act = lambda body, number: action if bad in body["messages"][-1]["content"] else "ok"
    settings = EvaluationSection(
        max_new_tokens=64, concurrency=2, timeout=0.3 if case in ("late", "comments") else 20, top_k=20, thinking="on"
    )
    engine = OpenAIEngine(server.url, "my-model", retries=0 if case == "late" else 2)
    with pytest.raises(GazalError, match=rf"^model my-model: the server{message}") as raised:
        predict(
            engine, ITEMS, settings, tmp_path / "quiz.parquet", prompting=Prompting(), seed=1, say=lambda line: None
        )
    line = str(raised.value)
    assert (
        "item 8 of 12" in line
        and server.url.removesuffix("/v1") in line
        and "\n" not in line
        and "sk-secret" not in line
    )
    server.act = lambda body, number: "ok"
    before, said = len(server.asked), []
    predict(engine, ITEMS, settings, tmp_path / "quiz.parquet", prompting=Prompting(), seed=1, say=said.append)
    saved = int(said[0].split("goes on at ")[1].split("/")[0])
    assert saved >= 7 and len(server.asked) - before == 12 - saved
    assert read_predictions(tmp_path / "quiz.parquet")["letter"].tolist() == ["B"] * 12


def test_what_breaks_once_is_asked_again(server):
    broken = set()

    def act(body, number):
        question = body["messages"][-1]["content"]
        again = question in broken
        broken.add(question)
        return "ok" if again else ("cut", "silent end", (503, "{}"), (200, '{"choices": [{'))[number % 4]

    server.act = act
    assert {reply.text for reply in ask(server)} == {KEPT} and len(server.asked) == 24


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ("stream_options is not supported", "stream_options"),
        ("streaming is not supported", "stream"),
        ("use max_completion_tokens instead of max_tokens", "max_tokens"),
    ],
)
def test_a_request_is_put_in_words_that_the_server_takes(server, said, field):
    server.act = lambda body, number: (400, json.dumps({"error": {"message": said}})) if field in body else "ok"
    assert {reply.text for reply in ask(server)} == {KEPT}
    assert sum(field in body for body in server.asked) <= 3  # those that were in flight


def test_no_server_at_all():
    with pytest.raises(
        GazalError, match=r"model x: the server failed \(before the first item, http://127.0.0.1:9: cannot be reached"
    ):
        list(OpenAIEngine("http://127.0.0.1:9/v1", "x", 0).complete(CHATS, EvaluationSection(), 1, ()))


def test_a_hung_server_is_given_up_after_two_short_probes(server, monkeypatch, caplog):
    monkeypatch.setattr("gazal.common.openai_client.PROBE", 0.2)
    server.hung = 1.0
    with pytest.raises(
        GazalError,
        match=r"^model my-model: the server failed \(before the first item, .*no answer within 0.2 s .*it takes connections and says nothing: .*, 2 times\)$",
    ):
        ask(server, timeout=600)
    assert server.asked == []
    assert ["asked again, try 2 of 2" in record.message for record in caplog.records] == [True]


@pytest.mark.parametrize("answers", [False, True])
def test_a_request_out_of_time_is_asked_again_only_where_others_were_answered(server, caplog, answers):
    server.act = lambda body, number: "ok" if answers and number < 3 else 1.0
    with pytest.raises(GazalError, match="no answer within 0.4 s"):
        ask(server, timeout=0.4, retries=4, concurrency=2, stop_when_answered=False)
    questions = [body["messages"][-1]["content"] for body in server.asked[3 if answers else 0 :]]
    assert len(questions) == len(set(questions)) * (2 if answers else 1)
    assert ["try 2 of 2" in record.message for record in caplog.records] == [
        True
    ] * answers  # said once, for all in flight


def test_each_further_try_is_said_and_one_that_the_server_puts_off_too_long_is_not_made(server, caplog):
    server.act = lambda body, number: (429, '{"error": {"message": "slow down"}}')
    with pytest.raises(GazalError, match=r"too many requests \(status 429: slow down\), 3 times"):
        ask(server)
    said = "my-model: the server failed (too many requests (status 429: slow down)); asked again, try {} of 3 in 0 s"
    assert [record.message for record in caplog.records] == [said.format(2), said.format(3)]
    asked, server.headers = len(server.asked), {"retry-after": "3600"}
    with pytest.raises(GazalError, match=r"it asks to wait 3600 s\)$"):
        ask(server)
    assert len(server.asked) - asked <= 3


def test_silence_is_said(server, monkeypatch, caplog):
    monkeypatch.setattr("gazal.common.openai_client.SILENCE", 0.2)
    server.act = lambda body, number: 0.7
    assert len(ask(server, Prompts(ITEMS[:1], 1, Prompting()), timeout=20)) == 1
    assert any(
        "nothing from the server for " in record.message and "1 requests wait, each for up to 20 s" in record.message
        for record in caplog.records
    )


def test_a_stall_in_the_middle_of_an_answer_is_out_of_time(server):
    server.pace = 1.0
    with pytest.raises(GazalError, match=r"no answer within 0.3 s .*evaluation.timeout sets how long it has"):
        ask(server, Prompts(ITEMS[:1], 1, Prompting()), timeout=0.3, retries=4, stop_when_answered=False)
    assert len(server.asked) == 1


def test_an_engine_remembers_that_its_server_answered(server, monkeypatch):
    monkeypatch.setattr("gazal.common.openai_client.PROBE", 0.2)
    engine, settings = OpenAIEngine(server.url, "my-model", 0), EvaluationSection(max_new_tokens=64)
    one = Prompts(ITEMS[:1], 1, Prompting())
    assert len(list(engine.complete(one, settings, 5, ()))) == 1
    server.hung = 1.0  # for a look at the models
    assert len(list(engine.complete(one, settings, 5, ()))) == 1


def test_odd_ends_of_whole_answers(server, caplog):
    server.act = lambda body, number: "done alone"
    assert {(reply.text, reply.finish_reason) for reply in ask(server, stop_when_answered=False)} == {(TEXT, "stop")}
    server.streams, server.finish = False, None
    assert {(reply.text, reply.finish_reason) for reply in ask(server, stop_when_answered=False)} == {(TEXT, "stop")}
    server.text, server.finish = None, "tool_calls"
    assert {(reply.text, reply.finish_reason) for reply in ask(server)} == {("", "stop")}
    assert [record.message for record in caplog.records] == [
        "my-model: an answer has no text (finish_reason 'tool_calls'); it counts as empty"
    ]


def test_the_name_that_the_server_goes_by_is_said(server, caplog):
    server.model = "my-model-2024-08-06"
    ask(server)
    assert [record.message for record in caplog.records] == [
        "my-model: the server answers as model 'my-model-2024-08-06'"
    ]


def test_replies_come_as_they_end_and_none_twice(server):
    slow = ITEMS[0].question
    server.act = lambda body, number: 1.0 if slow in body["messages"][-1]["content"] else "ok"
    settings = EvaluationSection(max_new_tokens=64, concurrency=3)
    batches = list(OpenAIEngine(server.url, "my-model").complete(CHATS, settings, 5, {3, 4}))
    order = [reply.index for batch in batches for reply in batch]
    assert order[-1] == 0 and sorted(order) == [0, 1, 2, *range(5, 12)]
    assert max(map(len, batches)) <= 3 and len(server.asked) == 10


def test_an_interrupt_waits_for_no_answer(server):
    before, never = set(threading.enumerate()), threading.Event()
    server.act = lambda body, number: "ok" if number == 0 else never
    batches = OpenAIEngine(server.url, "my-model").complete(
        CHATS, EvaluationSection(max_new_tokens=64, concurrency=3), 5, ()
    )
    next(batches)
    waiting = set(threading.enumerate()) - before
    batches.close()  # comes back, though no answer does
    never.set()
    assert waiting and all(thread.daemon for thread in waiting)


def test_as_many_at_once_as_the_settings_say(server):
    server.delay = 0.05
    ask(server, concurrency=5, stop_when_answered=False)
    assert server.most_flying == 5


def test_a_spec_names_url_and_model(server):
    engine = load_engine(f"openai:{server.url}#org/my-model")
    assert (engine.name, engine.model, engine.url) == ("my-model", "org/my-model", server.url)
    assert engine.opens_think(CHATS[0]) is None and engine.opens_think("x\n<think>\n") is True
