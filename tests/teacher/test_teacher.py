"""`gazal teach` against a scripted server: trouble, caps, kills, and bad input."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from helpers.openai_server import scripted_server
from helpers.teacher_answers import good_answer, question_of
from typer.testing import CliRunner

from gazal import DISCLAIMER
from gazal.cli import app
from gazal.common.errors import GazalError
from gazal.items.reading import read_items
from gazal.items.schema import Item, TrainingExample
from gazal.teacher.client import Cap, Prices
from gazal.teacher.command import read_rules, teach
from gazal.teacher.ledger import Ledger
from gazal.teacher.plan import make_requests, read_seeds, seed_tasks, topic_tasks

KEY = "sk-very-secret-0123456789"
SPECIALTY = ("cardiology", "Emergency Medicine", None, "pathology")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture
def server():
    with scripted_server() as (url, script):
        script.text = answer
        yield url, script


def letter_of(number: int) -> str:
    return "ABCD"[number % 4]


def answer(body: dict[str, Any]) -> str:
    """Right for every seed that `write_seeds` makes; a case for a topic."""
    question = question_of(body)
    if "\nTopic:\n" in body["messages"][-1]["content"]:
        return good_answer(question + body["messages"][-1]["content"], case=True)
    number = int(question.split()[1])
    return good_answer(question, letter_of(number) if "\nA. " in question else "")


def write_seeds(path: Path, choices: int, free: int = 0) -> Path:
    rng, words = (
        random.Random(3),
        "renal cardiac hepatic septic chronic acute recurrent febrile elderly pregnant".split(),
    )
    rows = []
    for number in range(choices + free):
        row: dict[str, Any] = {
            "id": f"s{number}",
            "question": f"Case {number} is {' '.join(rng.choices(words, k=9))}: what now?",
            "source": "local",
        }
        if number < choices:
            row |= {
                "options": {k: f"option {k.lower()} of {number}" for k in "ABCD"},
                "answer_idx": letter_of(number),
                "reasoning_type": ["treatment", "prognosis"][number % 2],
            }
        if subject := SPECIALTY[number % 4]:
            row["subject"] = subject
        rows.append(row)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(out: Path, url: str, seeds: Path, **options: Any) -> tuple[dict[str, Any], list[str]]:
    said: list[str] = []
    options = {
        "cap": Cap(tokens=10**7),
        "first_wait": 0.05,
        "timeout": 5.0,
        "max_tokens": 400,
        "concurrency": 4,
        "say": said.append,
        **options,
    }
    return teach("my-model", url, out, **({"seeds": seeds} if "topics" not in options else {}), **options), said


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_whole_run(server, tmp_path):
    url, script = server
    script.model = "My-Model@2026-01-01"
    report, said = run(tmp_path / "out", url.replace("//", "//user:pass@"), write_seeds(tmp_path / "s.jsonl", 6, 2))
    items = read_items(tmp_path / "out" / "examples.jsonl", training=True)
    assert [item.id for item in items] == [f"teacher:s{n}" for n in range(8)]
    assert [type(item) for item in items] == [Item] * 6 + [TrainingExample] * 2
    assert {item.source for item in items} == {"teacher: my-model"} and items[0].seed_source == "local"
    assert [item.subject for item in items[:4]] == [
        "cardiology",
        "emergency medicine",
        "internal medicine",
        "internal medicine",
    ]
    assert [item.reasoning_type for item in items] == ["treatment", "prognosis"] * 3 + ["diagnosis"] * 2
    assert (
        items[0].reasoning.startswith("Step 1: ")
        and items[0].assessment.endswith("**Answer:** A")
        and items[7].response.startswith("## Clinical Assessment")
    )
    assert report["counts"] == {"tasks": 8, "requests": 8, "answered": 8, "accepted": 8, "rejected": 0}
    assert report["served_as"] == ["My-Model@2026-01-01"] and report["endpoint"] == url.removesuffix("/v1")
    assert (
        report["by_specialty"]["cardiology"] == {"answered": 2, "accepted": 2}
        and report["tokens"]["completion"] == 1600
    )
    assert (report["booked"]["tokens"], report["disclaimer"], said[-1]) == (8 * 500, DISCLAIMER, DISCLAIMER)
    assert (
        DISCLAIMER in (tmp_path / "out" / "README.md").read_text()
        and (tmp_path / "out" / "rejected.jsonl").read_text() == ""
    )
    assert (
        script.authorization <= {f"Bearer {KEY}", "Basic dXNlcjpwYXNz"}
        and script.most_flying <= 4
        and len(set(script.keys)) == 8
    )
    for path in (tmp_path / "out").iterdir():
        text = path.read_text()
        assert KEY not in text and "user:pass" not in text and str(tmp_path) not in text, path.name


TROUBLE = [500, 429, "cut", "chunks", "malformed", 1.5, 503, 408, {"error": {"code": 502, "message": "upstream"}}]


def test_trouble_is_waited_out_and_what_may_have_been_paid_is_booked(server, tmp_path):
    url, script = server
    script.act = lambda body, number: TROUBLE[number - 3] if 3 <= number < 3 + len(TROUBLE) else "ok"
    script.headers = {"retry-after": "0.6"}
    seeds = write_seeds(tmp_path / "s.jsonl", 10)
    report, said = run(tmp_path / "out", url, seeds, timeout=0.7)
    assert any(line.startswith("teach: the server failed (too many requests (status 429: ") for line in said)
    assert report["counts"]["accepted"] == 10 and report["booked"]["failed_attempts"] == len(TROUBLE)
    [worst] = {line["tokens"] for line in lines(tmp_path / "out" / "sent.jsonl") if line["id"] == "teacher:s3"}
    failures = [line for line in lines(tmp_path / "out" / "responses.jsonl") if "failure" in line]
    paid = [line for line in failures if line["tokens"]]
    assert (
        len(paid) == 4 and abs(worst - paid[0]["tokens"]) < 100
    )  # cut, chunks, malformed, late; the others are refused by status
    assert report["booked"]["tokens"] == 10 * 500 + sum(line["tokens"] for line in paid)
    assert len(script.asked) == 10 + len(TROUBLE) == len(lines(tmp_path / "out" / "responses.jsonl"))
    for number, (at, key, action) in enumerate(script.times):  # Retry-After holds for the request and for every other
        if isinstance(action, int):
            assert min(later for later, other, _ in script.times[number + 1 :] if other == key) - at > 0.58
            assert not [later for later, *_ in script.times if at + 0.3 < later < at + 0.58]
    waits = {key: [at for at, other, _ in script.times if other == key] for key in script.keys}
    assert max(map(len, waits.values())) > 1 and all(
        two - one > 0.02 for times in waits.values() for one, two in pairwise(times)
    )


def teach_process(url: str, seeds: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    words = [
        "--model",
        "my-model",
        "--endpoint",
        url,
        "--seeds",
        seeds,
        "--out",
        out,
        "--max-total-tokens",
        10**6,
        "--max-tokens",
        400,
        "--concurrency",
        4,
        "--yes",
        *options,
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "gazal", "teach", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_a_kill_pays_no_answer_twice(server, tmp_path):
    url, script = server
    script.delay = 0.15
    seeds, out = write_seeds(tmp_path / "s.jsonl", 20, 4), tmp_path / "out"
    for least in (5, 14):  # two kills
        process = teach_process(url, seeds, out)
        while len(script.billed) < least and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (out / "examples.jsonl").exists()
        time.sleep(0.3)  # the server ends what it was at
        with script.lock:
            asked_before, saved = list(script.keys), [line["key"] for line in lines(out / "responses.jsonl")]
    in_flight = len(asked_before) - len(saved)
    assert 0 < len(saved) < 24 and 0 <= in_flight <= 8
    process = teach_process(url, seeds, out)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 0, said
    assert not set(script.keys[len(asked_before) :]) & set(saved)  # what has an answer is not sent again
    assert (
        len(script.billed) == 24 and len(script.asked) == 24 + in_flight
    )  # with idempotency keys, each is charged once
    report = json.loads((out / "report.json").read_text())
    assert report["counts"]["accepted"] == 24
    sent, ended = lines(out / "sent.jsonl"), {line["attempt"] for line in lines(out / "responses.jsonl")}
    lost = [line["tokens"] for line in sent if line["attempt"] not in ended]
    assert report["booked"]["lost_in_flight"] == len(lost) >= in_flight
    assert report["booked"]["tokens"] == 24 * 500 + sum(lost)
    before = (out / "examples.jsonl").read_bytes()
    assert "0 requests to send, 24 of 24 answered before" in run(out, url, seeds)[1][0]
    assert len(script.asked) == 24 + in_flight and (out / "examples.jsonl").read_bytes() == before


def test_an_interrupt_waits_for_what_is_in_flight(server, tmp_path):
    url, script = server
    script.delay = 0.3
    process = teach_process(url, write_seeds(tmp_path / "s.jsonl", 30), tmp_path / "out")
    while len(script.billed) < 5 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 130 and "requests in flight, which may be paid" in said and "Traceback" not in said
    assert 5 <= len(lines(tmp_path / "out" / "responses.jsonl")) == len(script.asked) < 30


def test_a_torn_last_line_is_set_aside(server, tmp_path):
    url, script = server
    seeds, out = write_seeds(tmp_path / "s.jsonl", 5), tmp_path / "out"
    run(out, url, seeds)
    for name, cut in (("responses.jsonl", 40), ("sent.jsonl", 5)):
        path = out / name
        path.write_bytes(path.read_bytes()[:-cut])
    report, said = run(out, url, seeds)
    assert len(script.asked) == 6 and report["counts"]["accepted"] == 5
    assert any(
        "responses.jsonl: its last row was cut off by a kill; set aside in responses.jsonl.torn" in line
        for line in said
    )
    assert (out / "responses.jsonl.torn").read_text().startswith('{"attempt"') and len(
        lines(out / "responses.jsonl")
    ) == 5
    (out / "responses.jsonl").write_text("{]\n" + (out / "responses.jsonl").read_text())
    with pytest.raises(GazalError, match="responses.jsonl: row 1: not as written here"):
        run(out, url, seeds)


@pytest.mark.parametrize("cap", [4_000, 9_000, 15_000])
def test_the_cap_is_never_passed(server, tmp_path, cap):
    url, script = server
    seeds, out = write_seeds(tmp_path / "s.jsonl", 40), tmp_path / "out"
    worst = (
        max(r.prompt_bound for task in seed_tasks(seeds) for r in make_requests(task, "my-model", 1, 400, 0.7, 0)) + 400
    )
    over: list[int] = []
    script.delay = 0.01
    script.usage = lambda body: {
        "prompt_tokens": 300,
        "completion_tokens": (n := int(question_of(body).split()[1]) % 7 * 60),
        "total_tokens": 300 + n,
    }
    script.watch = lambda s: over.append(
        s.tokens + s.flying * 700
    )  # 300 + 400: what the server could charge at this moment
    report, said = run(out, url, seeds, cap=Cap(tokens=cap), concurrency=16)
    assert (
        report["stopped"] == "cap"
        and "stopped at the cap" in said[-2]
        and any("the cap is lower than this may cost" in line for line in said)
    )
    assert max(over) <= cap and script.tokens == report["booked"]["tokens"] <= cap
    assert report["booked"]["tokens"] + worst > cap  # and it is used up: not even one more fits
    first, before = len(script.asked), report["counts"]["accepted"]
    assert before == first == len(set(script.keys))
    report, said = run(out, url, seeds, cap=Cap(usd=1.0), prices=Prices(1.0, 2.0))
    assert (
        report["counts"]["accepted"] == 40
        and len(script.asked) == 40 == len(set(script.keys))
        and report["stopped"] is None
    )
    assert f"{first} of 40 answered before" in said[0] and f"(the mean of {first} answers so far)" in said[1]


def test_a_cap_in_dollars(server, tmp_path):
    url, script = server
    report, _ = run(
        tmp_path / "out",
        url,
        write_seeds(tmp_path / "s.jsonl", 30),
        cap=Cap(usd=0.01),
        prices=Prices(prompt=1.0, completion=4.0),
    )
    assert (
        report["stopped"] == "cap"
        and 0.005 < report["booked"]["usd"] == round(len(script.asked) * (300 * 1 + 200 * 4) / 1e6, 6) <= 0.01
    )
    script.usage = lambda body: None
    report, said = run(tmp_path / "none", url, write_seeds(tmp_path / "s.jsonl", 3))
    assert report["tokens"]["answers_without_usage"] == 3 and report["booked"]["tokens"] == sum(
        line["tokens"] for line in lines(tmp_path / "none" / "sent.jsonl")
    )
    assert "3 answers came without usage and are booked at their most" in said[-2]


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (401, r"does not accept the key in OPENAI_API_KEY \(status 401"),
        (404, "no such model or path"),
        (400, "refuses the request"),
        ("html", r"the server's answer is no chat completion \(it is text/html; the URL often ends in /v1\)"),
        ({"hello": 1}, r"the server's answer is no chat completion \(other JSON\)"),
        ({"choices": [{"text": "B"}]}, r"the server's answer is no chat completion \(it has no message\)"),
        ({"_status": 429, "error": {"code": "insufficient_quota", "message": "pay first"}}, "pay first"),
        ({"_status": 401, "error": {"message": f"bad {KEY}"}}, r"bad \[key\]"),
        ({"_status": 422, "detail": "Unexpected fields"}, "status 422: Unexpected fields"),
        ([], r"the server's answer is no chat completion \(it has no choices\)"),
    ],
)
def test_an_endpoint_that_cannot_be_used_is_one_line(server, tmp_path, action, message):
    url, script = server
    script.act = lambda body, number: (
        dict(action) if isinstance(action, dict) else {"choices": []} if action == [] else action
    )
    with pytest.raises(GazalError, match=f"^{url.removesuffix('/v1')}: .*{message}") as error:
        run(tmp_path / "out", url, write_seeds(tmp_path / "s.jsonl", 9))
    assert len(script.asked) == 1 and KEY not in str(error.value)
    assert (
        sorted(p.name for p in (tmp_path / "out").iterdir()) == ["responses.jsonl", "sent.jsonl"]
        and KEY not in (tmp_path / "out" / "responses.jsonl").read_text()
    )


def test_another_models_answers_are_no_answers(server, tmp_path):
    url, script = server
    script.model = "/srv/models/other-8b"
    seeds, out = write_seeds(tmp_path / "s.jsonl", 4), tmp_path / "out"
    with pytest.raises(GazalError, match="answers as model 'other-8b', not 'my-model'"):
        run(out, url, seeds)
    script.model = "/srv/models/my-model"
    report, _ = run(out, url, seeds)
    assert report["counts"]["accepted"] == 4 and report["served_as"] == ["my-model"] and len(script.asked) == 5
    assert report["booked"]["tokens"] > 4 * 500  # the foreign answer was paid for


def test_a_server_that_asks_to_wait_too_long_or_is_not_there(server, tmp_path):
    url, script = server
    script.act, script.headers = lambda body, number: 429, {"retry-after": "7200"}
    with pytest.raises(GazalError, match="too many requests .*it asks to wait 7200 s"):
        run(tmp_path / "out", url, write_seeds(tmp_path / "s.jsonl", 4))
    with pytest.raises(GazalError, match="http://127.0.0.1:9: cannot be reached"):
        run(tmp_path / "out", "http://127.0.0.1:9/v1", tmp_path / "s.jsonl")


def test_a_request_that_always_fails_holds_up_no_other(server, tmp_path):
    url, script = server
    seeds, out = write_seeds(tmp_path / "s.jsonl", 12), tmp_path / "out"
    script.act = lambda body, number: 500 if "Case 5 " in question_of(body) else "ok"
    with pytest.raises(GazalError, match="1 requests failed at every attempt; the same command asks them again"):
        run(out, url, seeds, attempts=3)
    assert (
        len(read_items(out / "examples.jsonl")) == 11
        and json.loads((out / "report.json").read_text())["stopped"] == "unanswered"
    )
    assert len(script.asked) == 11 + 3
    script.act = lambda body, number: "ok"
    assert run(out, url, seeds)[0]["counts"]["accepted"] == 12 and len(script.asked) == 15


def test_a_server_that_says_nothing_is_given_up_and_nothing_is_booked(server, tmp_path, monkeypatch):
    monkeypatch.setattr("gazal.common.openai_client.PROBE", 0.2)
    url, script = server
    script.hung = 1.0
    with pytest.raises(
        GazalError, match="no answer within 0.2 s .*it takes connections and says nothing: .*, 2 times$"
    ):
        run(tmp_path / "out", url, write_seeds(tmp_path / "s.jsonl", 4))
    assert not script.asked and not (tmp_path / "out").exists()


def test_a_request_out_of_time_is_asked_once_more(server, tmp_path):
    url, script = server
    script.act = lambda body, number: 2.0 if "Case 2 " in question_of(body) else "ok"
    with pytest.raises(GazalError, match="1 requests failed at every attempt"):
        run(tmp_path / "out", url, write_seeds(tmp_path / "s.jsonl", 5), timeout=0.4)
    assert len(script.asked) == 4 + 2


def test_a_second_interrupt_waits_for_nothing(server, tmp_path):
    url, script = server
    script.act = lambda body, number: 20.0 if number else "ok"
    process = teach_process(url, write_seeds(tmp_path / "s.jsonl", 9), tmp_path / "out")
    while len(script.asked) < 5 and process.poll() is None:
        time.sleep(0.01)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    said = process.communicate(timeout=10)[0]
    assert process.returncode == 130 and "waiting for the 4 requests in flight" in said and "Traceback" not in said
    assert len(lines(tmp_path / "out" / "sent.jsonl")) == 5


def test_a_server_that_goes_down_stops_the_run_and_it_goes_on(server, tmp_path):
    url, script = server
    seeds, out = write_seeds(tmp_path / "s.jsonl", 30), tmp_path / "out"
    script.act = lambda body, number: "ok" if number < 10 else 503
    with pytest.raises(GazalError, match="does not answer .*the same command goes on"):
        run(out, url, seeds, attempts=2)
    assert len(script.asked) < 30 and not (out / "examples.jsonl").exists()
    script.act = lambda body, number: "ok"
    assert run(out, url, seeds)[0]["counts"]["accepted"] == 30 and sum(script.billed.values()) == 30


def test_thinking_models_and_the_newer_limit(server, tmp_path):
    url, script = server

    def thinking(body: dict[str, Any]) -> dict[str, Any]:
        inside, _, after = answer(body).removeprefix("<think>").partition("</think>")
        return {"content": after, "reasoning_content": inside}

    script.text = thinking
    script.act = lambda body, number: (
        "ok"
        if "max_completion_tokens" in body
        else {"_status": 400, "error": {"message": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens'."}}
    )
    report, _ = run(tmp_path / "out", url, write_seeds(tmp_path / "s.jsonl", 4, 2))
    assert report["counts"]["accepted"] == 6 and len(script.asked) == 7


def test_the_majority_of_samples_must_give_the_key(server, tmp_path):
    url, script = server
    wrong = {0: {0}, 1: {0, 1}, 2: set(), 3: {2}}  # seed number -> samples that answer wrongly

    def text(body: dict[str, Any]) -> str:
        question = question_of(body)
        number = int(question.split()[1])
        return good_answer(question, letter_of(number + (body["seed"] in wrong[number])))

    script.text = text
    report, _ = run(tmp_path / "out", url, write_seeds(tmp_path / "s.jsonl", 4), samples=3)
    assert [item.id for item in read_items(tmp_path / "out" / "examples.jsonl")] == [
        "teacher:s0",
        "teacher:s2",
        "teacher:s3",
    ]
    assert report["counts"] == {"tasks": 4, "requests": 12, "answered": 12, "accepted": 3, "rejected": 5}
    rejected = {(line["id"], line["sample"]): line["reasons"] for line in lines(tmp_path / "out" / "rejected.jsonl")}
    assert (
        rejected[("teacher:s1", 2)] == ["no_majority"]
        and rejected[("teacher:s0", 0)] == ["wrong_answer"]
        and rejected[("teacher:s0", 2)] == ["surplus"]
    )
    assert report["rejected"] == {"surplus": 4, "wrong_answer": 4, "no_majority": 1}
    assert all(len(line["text"]) <= 300 for line in lines(tmp_path / "out" / "rejected.jsonl"))


def test_rules_change_without_requests(server, tmp_path):
    url, script = server
    seeds, out = write_seeds(tmp_path / "s.jsonl", 5), tmp_path / "out"
    run(out, url, seeds)
    report, _ = run(out, "http://127.0.0.1:9/v1", seeds, rules=read_rules(["min_words=500"]))
    assert report["rejected"] == {"too_short": 5} and len(script.asked) == 5
    with pytest.raises(GazalError, match="no items"):
        read_items(out / "examples.jsonl")
    assert run(out, "http://127.0.0.1:9/v1", seeds)[0]["counts"]["accepted"] == 5


def test_topics(server, tmp_path):
    url, _ = server
    topics = tmp_path / "topics.txt"
    topics.write_text("# of interest\n\nacute pericarditis | Cardiology\nhyponatraemia\n", encoding="utf-8")
    report, _ = run(tmp_path / "out", url, topics, topics=topics, n=10)
    items = read_items(tmp_path / "out" / "examples.jsonl", training=True)
    assert (
        len(items) == 10
        and report["counts"]["accepted"] == 10
        and all(isinstance(item, TrainingExample) for item in items)
    )
    assert (
        items[0].id == "teacher:topic-1-diagnosis-1"
        and items[9].id == "teacher:topic-1-uncertainty-2"
        and items[0].subject == "cardiology"
    )
    assert (
        not items[0].question.startswith("##")
        and len(items[0].question.split()) == 60
        and items[0].topic == "acute pericarditis"
    )


def test_tasks_of_topics_and_seeds_differ_and_repeat(tmp_path):
    topics = tmp_path / "topics.txt"
    topics.write_text("gout | pharmacology\nsepsis\n")
    most = 4 * 48 * (1 + 8)
    tasks = topic_tasks(topics, most, 1)
    assert len({task.id for task in tasks}) == len({json.dumps(task.messages()) for task in tasks}) == most
    assert {task.specialty for task in tasks if task.text == "gout"} == {"pharmacology"} and len(
        {task.specialty for task in tasks if task.text == "sepsis"}
    ) == 8
    assert topic_tasks(topics, 100, 1) == tasks[:100] != topic_tasks(topics, 100, 2)
    seeds = write_seeds(tmp_path / "s.jsonl", 20)
    assert seed_tasks(seeds, 5, 1) == seed_tasks(seeds, 5, 1) != seed_tasks(seeds, 5, 2)
    assert "teacher" not in seed_tasks(seeds)[0].messages()[1]["content"]
    requests = make_requests(tasks[0], "m", 3, 100, 0.5, 7)
    assert (
        len({r.key for r in requests}) == 3 and requests[0].key == make_requests(tasks[0], "m", 1, 100, 0.5, 7)[0].key
    )
    assert (
        len(
            {
                make_requests(tasks[0], *change)[0].key
                for change in [
                    ("m", 1, 100, 0.5, 7),
                    ("n", 1, 100, 0.5, 7),
                    ("m", 1, 101, 0.5, 7),
                    ("m", 1, 100, 0.6, 7),
                    ("m", 1, 100, 0.5, 8),
                ]
            }
        )
        == 5
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"id": "a", "question": "x?"}\n{"id": "b"}\n', "row 2: question: missing"),
        ('{"id": "a", "question": " "}\n', "row 1: question: empty"),
        (
            '{"id": "a", "question": "x", "options": {"A": "y", "B": "z"}, "answer_idx": "C"}\n',
            "row 1: answer_idx: 'C' is not among the options",
        ),
        ('{"id": "a", "question": "x"}\n{"id": "a", "question": "y"}\n', "row 2: id: 'a' is there twice"),
        ("\n", "no seeds"),
        ("{\n", "row 1: not JSON"),
        ('{"id": "a", "question": "x", "reasoning_type": "guess"}\n', "row 1: reasoning_type: "),
        (None, "no such file"),
    ],
)
def test_bad_seeds_name_row_and_field(tmp_path, text, message):
    path = tmp_path / "s.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(GazalError, match=message) as error:
        run(tmp_path / "out", "http://127.0.0.1:9/v1", path)
    assert str(error.value).startswith(str(path)) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "n", "message"),
    [
        ("gout | magic\n", None, "row 1: specialty: 'magic' is none of"),
        ("# none\n", None, "no topics"),
        ("a\na\n", None, "row 2: topic: 'a' is there twice"),
        ("a\n", 10**5, "enough for 1536"),
    ],
)
def test_bad_topics(tmp_path, text, n, message):
    (tmp_path / "t.txt").write_text(text)
    with pytest.raises(GazalError, match=message):
        topic_tasks(tmp_path / "t.txt", n)


def test_the_command_line(server, tmp_path, monkeypatch):
    url, script = server
    seeds = write_seeds(tmp_path / "s.jsonl", 3)

    def call(*words: object) -> tuple[str, str]:
        result = CliRunner().invoke(
            app, ["teach", "--model", "my-model", "--out", str(tmp_path / "out"), *map(str, words)]
        )
        return result.output, str(result.exception or "")

    assert (
        "no endpoint: give --endpoint URL or set OPENAI_BASE_URL" in call("--seeds", seeds, "--max-total-tokens", 9)[1]
    )
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    assert "give one of --seeds and --topics" in call("--max-total-tokens", 9)[1]
    assert "no cap: give --max-cost" in call("--seeds", seeds)[1]
    assert "--max-cost: needs --price-in" in call("--seeds", seeds, "--max-cost", 1)[1]
    assert (
        "--endpoint: expected http(s)://"
        in call("--seeds", seeds, "--max-total-tokens", 9, "--endpoint", "localhost:8000")[1]
    )
    assert "expected name=value with one of min_steps" in call("--seeds", seeds, "--rule", "nice=1")[1]
    assert "--rule min_steps: " in call("--seeds", seeds, "--rule", "min_steps=0")[1]
    assert "--n 4: " in call("--seeds", seeds, "--n", 4, "--max-total-tokens", 9)[1]
    assert "nothing sent: give --yes" in call("--seeds", seeds, "--max-total-tokens", 10**6)[1]
    output, problem = call("--seeds", seeds, "--estimate-only", "--price-in", 1, "--price-out", 2)
    assert "3 requests to send" in output and "at most: " in output and "$0.0" in output and not problem
    assert not (tmp_path / "out").exists() and not script.asked  # none of these left anything
    output, problem = call("--seeds", seeds, "--max-total-tokens", 10**6, "--yes")
    assert "3 of 3 examples accepted" in output and DISCLAIMER in output and not problem
    ledger = Ledger(tmp_path / "out")
    assert (
        "sent.jsonl: another process is at work there"
        in call("--seeds", seeds, "--max-total-tokens", 10**6, "--yes")[1]
    )
    ledger.close()
    assert os.environ["OPENAI_API_KEY"] == KEY and len(read_seeds(seeds)) == 3
