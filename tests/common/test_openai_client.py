"""The client's retries alone, without a server."""

import os
import signal
import threading
import time

import pytest

from gazal.common.endpoints import retry_after
from gazal.common.openai_answer import Answer, Failure, Stopped
from gazal.common.openai_client import Client


def client(**options) -> Client:
    return Client("http://127.0.0.1:9/v1", "m", 1.0, lambda line: None, {}, **options)


def test_nothing_is_sent_after_the_stop():
    one, sent = client(), []
    one._quiet_until = time.monotonic() + 60
    threading.Timer(0.05, one.over.set).start()
    with pytest.raises(Stopped):
        one.retried(lambda: sent.append(1))
    assert not sent


def test_the_first_interrupt_waits_wherever_it_comes():
    said, done, started = [], [], threading.Barrier(3)

    def work(number: int) -> int:
        if number:
            started.wait(10)
            time.sleep(0.05)
        done.append(number)
        return number

    one = client(at_interrupt=lambda: said.append("waiting"))
    one.answered.set()
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        for number in one.together(work, range(9), 3):
            if not number:
                started.wait(10)
                signal.raise_signal(signal.SIGINT)  # while the loop's own thread does not wait for an answer
    assert said == ["waiting"] and sorted(done) == [0, 1, 2] and signal.getsignal(signal.SIGINT) is before


def test_the_second_interrupt_does_not_wait():
    def work(number: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

    one = client(at_interrupt=lambda: signal.raise_signal(signal.SIGINT))
    one.answered.set()
    with pytest.raises(KeyboardInterrupt):
        list(one.together(work, range(1), 1))


def test_the_last_trys_pause_holds_for_other_requests(monkeypatch):
    def refuse() -> None:
        raise Failure("busy", again=True, wait=20.0)

    monkeypatch.setattr("gazal.common.openai_client.time.monotonic", lambda: 100.0)
    one = client(tries=1)
    with pytest.raises(Failure, match="busy"):
        one.retried(refuse)
    assert one._quiet_until == 120.0


def test_a_pause_that_grows_is_waited_for_to_its_end(monkeypatch):
    now, waits = [100.0], []

    def wait(seconds: float) -> bool:
        now[0] += seconds
        waits.append(seconds)
        one._quiet_until = 115.0  # what another request was told
        return False

    monkeypatch.setattr("gazal.common.openai_client.time.monotonic", lambda: now[0])
    one = client()
    one._quiet_until, one.over.wait = 110.0, wait
    one.retried(lambda: None)
    assert waits == [10.0, 5.0]


@pytest.mark.parametrize("value", ["inf", "nan", "1e999", "soon"])
def test_a_wait_that_is_no_number_is_none(value):
    assert retry_after({"retry-after": value}, 0.0) is None
    assert retry_after({"retry-after": "2.5"}, 0.0) == 2.5


def test_counts_of_tokens_are_kept_and_odd_ones_left_out():
    answer = Answer()
    for usage in ({"prompt_tokens": 3, "completion_tokens": 12.0}, {"completion_tokens": None}, None, ["odd"], 5):
        answer.note(usage)
    assert (answer.count("prompt_tokens"), answer.count("completion_tokens")) == (3, 12)
    for odd in ("12", 1.5, -1, True, float("nan")):
        answer.note({"completion_tokens": odd})
        assert answer.count("completion_tokens") is None
