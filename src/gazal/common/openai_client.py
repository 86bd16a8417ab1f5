"""Speak OpenAI's protocol with one server, for the evaluation engine and the teacher: send, read, retry, stop.

The openai package's own retries are off, so that each retry can be said, booked and stopped:

- A busy or failing server and a broken connection: after a growing wait, or the server's own wait if that is longer.
- A server that asks for a wait: every other request waits too.
- A request that times out: once if others were answered, else not.
- A server that takes connections and says nothing: given up after two short probes.
- A connection refused before the first answer, and whatever else a server says: not retried.
"""

from __future__ import annotations

import json
import math
import re
import signal
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2  # what openai raises while a body is read
import openai

from gazal.common.endpoints import (
    LONGEST_WAIT,
    back_off,
    passing,
    refusal,
    refuses_prompt,
    retry_after,
    said_in,
    without_secrets,
)
from gazal.common.environment import api_key, check_certificates, no_client, proxy_variable
from gazal.common.errors import GazalError
from gazal.common.openai_answer import Answer, Failure, Stopped
from gazal.common.openai_body import Reader

S = TypeVar("S")
T = TypeVar("T")
PROBE = 30.0  # seconds that a server has for its first sign of life
CONNECT = 10.0  # seconds
SILENCE = 60.0  # seconds without a byte from the server between two lines that say so
LONG_KEY = 12  # characters; a shorter one is a word for a local server, and answers may hold it
REFUSED = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.UnsupportedProtocol,
    httpx2.ProxyError,
    httpx2.LocalProtocolError,
    httpx2.InvalidURL,
)
BROKEN = (openai.APIConnectionError, httpx2.RequestError, httpx2.StreamError, httpx2.InvalidURL, ssl.SSLError)


@contextmanager
def _first_interrupt(act: Callable[[], None] | None) -> Iterator[None]:
    """Have the first interrupt call ``act``, wherever it finds the main thread; the second does what it did before."""
    before = signal.getsignal(signal.SIGINT)
    # An ignored signal stays ignored, and no other thread is interrupted.
    if act is None or not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return

    def first(*_: object) -> None:
        signal.signal(signal.SIGINT, before)
        act()

    signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@dataclass
class Client:
    """One server's model, to be used in a ``with`` block; the key is the variable ``OPENAI_API_KEY``.

    Making one raises GazalError for a key, a proxy or certificates of the environment that cannot be used.

    ``tries`` and ``first_wait`` (seconds) shape the retries; ``timeout`` is in seconds. ``hints`` help with a field
    that is refused, with ``late`` and with another ``model``, whose name replaces ``{}``. With ``at_interrupt`` the
    first interrupt calls that and waits for what is in flight. ``over`` stops retries and new requests.
    """

    url: str
    model: str
    timeout: float
    say: Callable[[str], None]
    hints: dict[str, str]
    tries: int = 5
    first_wait: float = 0.5
    at_interrupt: Callable[[], None] | None = None
    answered: threading.Event = field(default_factory=threading.Event)  # to be shared by clients of one server,
    told: dict[str, float] = field(default_factory=dict)  # as is what was said, and when

    def __post_init__(self) -> None:
        self._key, limits = api_key(), _limits(self.timeout)
        check_certificates(self.url)
        try:
            self._api = openai.OpenAI(base_url=self.url, api_key=self._key, timeout=limits, max_retries=0)
        except Exception as error:  # of many packages, for many reasons
            raise GazalError(self._shown(no_client(error))) from None
        self.over, self._lock = threading.Event(), threading.Lock()
        self._heard, self._quiet_until = time.monotonic(), 0.0
        self._limit_field = "max_tokens"
        self._stream: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._api.close()

    def tell(self, line: str, every: float = math.inf) -> None:
        """Say it, again only after ``every`` seconds: requests in flight together meet the same trouble."""
        line = self._shown(line)
        with self._lock:
            if (now := time.monotonic()) - self.told.get(line, -math.inf) >= every:
                self.told[line] = now
                self.say(line)

    def together(self, work: Callable[[S], T], wanted: Iterable[S], concurrency: int) -> Iterator[T]:
        """Yield what ``work`` returns for each of ``wanted``, as it ends; raise an error once all in flight have ended.

        The threads are daemons: a pool's would hold an interrupt up until the server answers.
        """
        ended, queue, flying = SimpleQueue[tuple[list[T], Exception | None] | None](), iter(wanted), 0
        trouble: BaseException | None = None

        def run(one: S) -> None:
            try:
                ended.put(([work(one)], None))
            except Stopped:
                ended.put(([], None))
            except Exception as error:
                self.over.set()
                ended.put(([], error))

        def interrupt() -> None:
            nonlocal trouble
            trouble = trouble or KeyboardInterrupt()
            self.over.set()
            ended.put(None)

        self._probe()
        with _first_interrupt(interrupt if self.at_interrupt else None):
            while True:
                while not self.over.is_set() and flying < concurrency and (one := next(queue, None)) is not None:
                    threading.Thread(target=run, args=(one,), daemon=True).start()
                    flying += 1
                if not flying:
                    break
                try:
                    end = ended.get(timeout=SILENCE)
                except Empty:
                    if (silent := time.monotonic() - self._heard) >= SILENCE:
                        line = f"nothing from the server for {silent:.0f} s; {flying} requests wait, each for up to"
                        self.tell(f"{line} {self.timeout:g} s; {self.hints['late']}", 0)
                    continue
                if end is None:
                    assert self.at_interrupt
                    self.at_interrupt()
                    continue
                flying -= 1
                yield from end[0]
                trouble = trouble or end[1]
        if trouble:
            raise trouble

    def retried(self, attempt: Callable[[], T], where: str = "", late_tries: int = 0) -> T:
        """Return what ``attempt`` returns, retried as its Failure allows; raise the last Failure, or Stopped.

        ``late_tries``: how often it may time out and be retried if nothing was answered yet.
        """
        tries = late = 0
        while True:
            while (quiet := self._quiet_until - time.monotonic()) > 0 and not self.over.wait(quiet):
                pass  # another request's answer may have made the pause longer
            if self.over.is_set():
                raise Stopped
            try:
                return attempt()
            except Failure as failure:
                tries, late, most = tries + 1, late + failure.late, self.tries
                if failure.late:
                    most = min(most, tries + (late <= late_tries + self.answered.is_set()))
                pause = max(failure.wait, back_off(tries, self.first_wait))
                if not failure.final:
                    self._quiet_until = max(self._quiet_until, time.monotonic() + failure.wait)
                if not failure.final and tries < most and not self.over.is_set():
                    line = f"the server{failure.what} ({failure.why}); asked again, try {tries + 1} of {most}"
                    self.tell(line + (f" in {pause:.0f} s" if failure.wait else ""), SILENCE)
                    if not self.over.wait(pause):
                        continue
                asks = f"; it asks to wait {failure.wait:.0f} s" if failure.wait > LONGEST_WAIT else ""
                failure.why += asks + (f", {tries} times" if tries > 1 else "")
                failure.where = where
                raise

    def _probe(self) -> None:
        """Raise Failure if nobody answers, whatever it says; a server that answered before is not probed."""
        limit, hint = min(PROBE, self.timeout), "it takes connections and says nothing: it hangs, or is still loading"

        def look() -> None:
            try:
                with self._api.models.with_streaming_response.list(timeout=_limits(limit)):
                    pass
            except openai.APIStatusError:
                pass
            except BROKEN as error:
                raise self._broken(error, limit, hint) from error
            except (openai.OpenAIError, UnicodeError) as error:
                raise self.failure(f"{type(error).__name__}: {error}") from error

        if not self.answered.is_set() and not self.over.is_set():
            self.retried(look, "before the first item", late_tries=1)

    def send(self, body: dict[str, Any], enough: Callable[[str, Answer], bool] | None = None, **more: Any) -> Answer:
        """Send a chat or plain text and return its answer; raise Failure. ``more``: options of openai's ``create``.

        ``enough``, of the last piece and the answer so far, says when to leave a stream. Without it there is none.
        """
        route = self._api.completions if "prompt" in body else self._api.chat.completions
        while True:
            words = {"model": self.model, **body, **(self._stream if enough else {})}
            words[self._limit_field] = words.pop("max_tokens")
            try:
                with route.with_streaming_response.create(**words, **more) as response:
                    reader = Reader(self.model, response.headers, self.hints["model"], self.tell, enough)
                    answer = reader.read(self._in_time(response.iter_bytes()))
            except Failure as failure:
                page = failure.body.lstrip().startswith("<")
                raise self._without_secrets(failure, self._by_proxy() if page else "") from failure.__cause__
            except openai.APIStatusError as error:
                text = error.response.text
                if self._reworded(error.status_code, said_in(text), words):
                    continue
                hints = [f"; {self.hints[name]}" for name in body.get("extra_body") or {} if name in text]
                proxied = "" if text.lstrip()[:1] in ("{", "[") else self._by_proxy()
                raise self.failure(
                    refusal(error.status_code, text),
                    hint="".join(hints) + proxied,
                    again=passing(error.status_code, text),
                    wait=retry_after(error.response.headers, time.time()) or 0.0,
                    refused=not hints and refuses_prompt(error.status_code, text),
                    body=text,
                ) from error
            except BROKEN as error:
                raise self._broken(error, self.timeout, self.hints["late"]) from error
            except (openai.OpenAIError, UnicodeError) as error:
                raise self.failure(f"{type(error).__name__}: {error}") from error
            self.answered.set()
            return self._unkeyed(answer)

    def _reworded(self, status: int, said: str, words: dict[str, Any]) -> bool:
        """Return whether the request is to be sent in other words, which all requests then use."""
        if not (400 <= status < 500 or status == 501):
            return False
        if "max_completion_tokens" in said and "max_tokens" in words:  # the newer name, which some models insist on
            self._limit_field = "max_completion_tokens"
            return True
        if re.search(r"\bstream", said, re.I) and "stream" in words:
            options = "stream_options" in said and "stream_options" in words
            self._stream = {"stream": True} if options else {}
            return True
        return False

    def _in_time(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """Yield the pieces of a body; raise Failure once they, or comments alone, come for too long."""
        deadline = time.monotonic() + self.timeout
        for piece in pieces:
            self._heard = time.monotonic()
            if self._heard > deadline:
                why = f"no whole answer within {self.timeout:g} s; {self.hints['late']}"
                raise self.failure(why, again=True, late=True, paid=True)
            yield piece

    def _broken(self, error: Exception, limit: float, hint: str) -> Failure:
        """Return what became of a connection; ``limit`` is in seconds, ``hint`` for one out of time."""
        # openai wraps what a request raises; what a body raises comes bare, with a cause of another package.
        cause = (error.__cause__ or error) if isinstance(error, openai.APIConnectionError) else error
        refused = isinstance(cause, REFUSED)
        late = not refused and isinstance(cause, httpx2.TimeoutException)
        what = "cannot be reached" if refused else f"no answer within {limit:g} s" if late else "the connection broke"
        hint = (f"; {hint}" if late else "") + self._by_proxy()
        again = not refused or self.answered.is_set()
        why = f"{what} ({type(cause).__name__}: {cause})"
        return self.failure(why, hint=hint, again=again, late=late, paid=not refused)

    def _by_proxy(self) -> str:
        """Return a hint at the proxy that requests go through, empty without one."""
        host, variable = urlsplit(self.url).hostname, proxy_variable(self.url)
        return f"; asked through the proxy of {variable}, which NO_PROXY={host} goes around" if variable else ""

    def failure(self, why: str, what: str = " failed", *, hint: str = "", **rest: Any) -> Failure:
        """Return a Failure without secrets: ``why`` on one line, ``hint`` whole, and the start of a ``body``."""
        return self._without_secrets(Failure(why, what, **rest), hint)

    def _without_secrets(self, failure: Failure, hint: str = "") -> Failure:
        failure.why, failure.what = _line(self._shown(failure.why))[:300] + hint, self._shown(failure.what)
        failure.body = self._shown(failure.body)[:2000]
        return failure

    def _shown(self, text: str) -> str:
        return without_secrets(text, self.url, self._key)

    def _unkeyed(self, answer: Answer) -> Answer:
        """Return the answer without the key, which a server may repeat anywhere."""
        if len(self._key) >= LONG_KEY:
            answer.text, answer.thought = self._shown(answer.text), self._shown(answer.thought)
            answer.value = json.loads(self._shown(json.dumps(answer.value)))
        return answer


def _line(text: str) -> str:
    """Return a text as one line of what a terminal can show."""
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())


def _limits(seconds: float) -> openai.Timeout:
    return openai.Timeout(seconds, connect=min(CONNECT, seconds))
