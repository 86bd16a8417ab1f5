"""A server that speaks OpenAI's protocol: chats to ``/chat/completions``, plain text to ``/completions``.

Answers are asked for as streams, so that a reply can be left where its answer is closed; a server that answers in one piece
all the same is read as well. Replies are handed on as they come, and what has come is handed on before an error is raised.

``n_tokens`` is the server's own count (``usage.completion_tokens``). Where it gives none, or the stream was left before it came, it
is the number of pieces that the stream brought (most servers send a token a piece); of an answer in one piece without a
count, its words and marks, which are fewer than its tokens, and that is said.

Every failure is one GazalError that names model, server and item. A refused or broken connection and a busy or failing server are
asked again, each time said aloud; what else a server says is final. One that takes connections and says nothing is
given up after two short probes; a request that times out is asked once more where others were answered, else not.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from gazal.answers.ending import closed_at, opens_answer
from gazal.common.endpoints import (
    LONGEST_WAIT,
    back_off,
    broken_connection,
    passing,
    public_endpoint,
    public_model,
    refusal,
    retry_after,
    said_in,
    same_model,
    stream_events,
    without_secrets,
)
from gazal.common.errors import GazalError
from gazal.common.files import file_safe
from gazal.engines.reply import Reply
from gazal.items.prompts import Prompt
from gazal.models.identity import identity_of
from gazal.recipe.evaluation import EvaluationSection

T = TypeVar("T")
MARKS = frozenset("\n}>")  # without one of these in its last piece a text has not just closed its answer
PROBE = 30.0  # seconds that a server has for its first sign of life
CONNECT = 10.0  # seconds
SILENCE = 60.0  # seconds without a byte from the server between two lines that say so
HINTS = {
    "top_k": "it takes no top_k: set evaluation.top_k=0",
    "chat_template_kwargs": "it takes no chat_template_kwargs: set evaluation.thinking=template",
}


class _Failure(Exception):
    """A request that brought no answer: ``the server{what}``, why, whether to try again and after which seconds, and whether it was out of time."""

    def __init__(
        self, why: str, what: str = " failed", again: bool = False, wait: float | None = None, late: bool = False
    ) -> None:
        super().__init__(why)
        self.what, self.again, self.wait, self.late = what, again, wait, late


@dataclass
class _Answer:
    """One answer as far as it has come."""

    thought: str = ""
    text: str = ""
    pieces: int = 0
    used: int = 0
    finish: str | None = None

    def whole(self) -> str:
        """With the think block that some servers cut out of the text, set apart by one empty line as the card does; open where
        nothing came after it before the limit."""
        if not self.thought:
            return self.text
        return f"<think>\n{self.thought.strip()}" + (
            "" if self.finish == "length" and not self.text else "\n</think>\n\n" + self.text.lstrip("\n")
        )


@dataclass
class _Asking:
    """What holds for all requests of one call: ``ending`` are :func:`closed_at`'s options, None where nothing is cut; ``over`` is set
    when one has failed for good; ``heard`` is when the last byte came."""

    client: Any
    settings: EvaluationSection
    prompts: Sequence[Prompt]
    seed: int
    ending: dict[str, bool] | None
    over: threading.Event = field(default_factory=threading.Event)
    heard: float = field(default_factory=time.monotonic)
    limit_field: str = "max_tokens"
    stream: dict[str, Any] = field(default_factory=lambda: {"stream": True, "stream_options": {"include_usage": True}})

    def at(self, text: str) -> int | None:
        return None if self.ending is None else closed_at(text, **self.ending)

    def body(self, index: int) -> dict[str, Any]:
        settings, prompt = self.settings, self.prompts[index]
        extra = {"top_k": settings.top_k} if settings.top_k else {}
        if settings.thinking != "template":
            extra["chat_template_kwargs"] = {"enable_thinking": settings.thinking == "on"}
        return {
            **({"prompt": prompt} if isinstance(prompt, str) else {"messages": prompt}),
            self.limit_field: settings.max_new_tokens,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "seed": self.seed + index % settings.samples,
            "extra_body": extra or None,
            **self.stream,
        }


class OpenAIEngine:
    """A server's model; its key is read from ``OPENAI_API_KEY``. ``retries``: further tries of one request, each after a longer wait."""

    def __init__(self, url: str, model: str, retries: int = 4) -> None:
        try:
            import httpx2  # what the openai client raises while an answer is read
            import openai
        except ImportError as error:
            raise GazalError("openai: models need the openai package (pip install openai)") from error
        self._openai, self._transport = openai, httpx2.RequestError
        self.url, self.model, self.retries = url, model, retries
        self._key = os.environ.get("OPENAI_API_KEY") or "none"
        self.name = file_safe(model)
        self.identity = identity_of(f"openai:{url}#{model}", None)
        self._answered, self._said, self._lock = False, dict[str, float](), threading.Lock()

    def opens_think(self, prompt: Prompt, thinking: str = "template") -> bool | None:
        return prompt.rstrip().endswith("<think>") if isinstance(prompt, str) else None

    def complete(
        self, prompts: Sequence[Prompt], settings: EvaluationSection, seed: int, done: Collection[int]
    ) -> Iterator[list[Reply]]:
        done = set(done)
        wanted = (i for i in range(len(prompts)) if i not in done)
        if not len(prompts):
            return
        if isinstance(prompts[0], str) and settings.thinking != "template":
            raise GazalError(
                f"model {self.name}: evaluation.thinking={settings.thinking} is a chat template's, and plain prompts have none: set template"
            )
        think_open = self.opens_think(prompts[0])
        ending = {
            "think_open": bool(getattr(prompts, "opens_think", False)) if think_open is None else think_open,
            "answer_open": opens_answer(prompts[0]),
        }
        limits = self._openai.Timeout(settings.timeout, connect=min(CONNECT, settings.timeout))
        client = self._openai.OpenAI(base_url=self.url, api_key=self._key, timeout=limits, max_retries=0)
        asking = _Asking(client, settings, prompts, seed, ending if settings.stop_when_answered else None)
        ended, flying, trouble = SimpleQueue[Reply | Exception](), 0, None

        def work(index: int) -> None:
            try:
                ended.put(self._ask(asking, index))
            except Exception as error:
                ended.put(error)

        try:
            if not self._answered:
                self._persist(asking, lambda: self._probe(asking), "before the first item", 2)
            while True:
                while trouble is None and flying < settings.concurrency and (index := next(wanted, None)) is not None:
                    threading.Thread(
                        target=work, args=(index,), daemon=True
                    ).start()  # a pool's threads would hold an interrupt up until the server answers
                    flying += 1
                if not flying:
                    break
                try:
                    one = ended.get(timeout=SILENCE)
                except Empty:
                    if (silent := time.monotonic() - asking.heard) >= SILENCE:
                        self._tell(
                            f"nothing from the server for {silent:.0f} s; {flying} requests wait, each for up to {settings.timeout:g} s (evaluation.timeout)",
                            0,
                        )
                    continue
                flying -= 1
                if isinstance(one, Reply):
                    yield [one]
                else:
                    trouble = trouble or one
                    asking.over.set()
            if trouble:
                raise trouble
        finally:
            asking.over.set()
            client.close()

    def _ask(self, asking: _Asking, index: int) -> Reply:
        samples, total = asking.settings.samples, len(asking.prompts)
        where = f"item {index // samples + 1} of {total // samples}" + (
            f", sample {index % samples + 1}" if samples > 1 else ""
        )
        return self._persist(asking, lambda: self._reply(asking, index, self._attempt(asking, index)), where, 1)

    def _persist(self, asking: _Asking, attempt: Callable[[], T], where: str, late_tries: int) -> T:
        """What ``attempt`` returns, tried again as its _Failure allows. Raises GazalError."""
        for tries in itertools.count(1):
            try:
                return attempt()
            except _Failure as failure:
                why = " ".join(without_secrets(str(failure), self.url, self._key).split())[:300]
                most = max(late_tries, 1 + self._answered) if failure.late else 1 + self.retries
                pause = back_off(tries, 0.5, 8.0) if failure.wait is None else failure.wait
                if failure.again and tries < most and pause <= LONGEST_WAIT and not asking.over.is_set():
                    self._tell(
                        f"the server{failure.what} ({why}); asked again, try {tries + 1} of {most}"
                        + (f" in {pause:.0f} s" if failure.wait else ""),
                        SILENCE,
                    )
                    if not asking.over.wait(pause):
                        continue
                why += (f"; it asks to wait {pause:.0f} s" if pause > LONGEST_WAIT else "") + (
                    f", {tries} times" if tries > 1 else ""
                )
                raise GazalError(
                    f"model {self.name}: the server{failure.what} ({where}, {public_endpoint(self.url)}: {why})"
                ) from failure
        raise AssertionError

    def _tell(self, line: str, every: float = math.inf) -> None:
        """Say it aloud, again only after ``every`` seconds: requests in flight together meet the same trouble."""
        with self._lock:
            if (now := time.monotonic()) - self._said.get(line, -math.inf) >= every:
                self._said[line] = now
                logging.getLogger("gazal").warning("%s: %s", self.name, line)

    def _probe(self, asking: _Asking) -> None:
        """Whether anybody answers, whatever it says. Raises _Failure."""
        limit = min(PROBE, asking.settings.timeout)
        try:
            with asking.client.models.with_streaming_response.list(
                timeout=self._openai.Timeout(limit, connect=min(CONNECT, limit))
            ):
                pass
        except self._openai.APIStatusError:
            pass
        except (self._openai.APIConnectionError, self._transport) as error:
            raise self._broken(
                error, limit, "it takes connections and says nothing: it hangs, or is still loading"
            ) from error

    def _broken(self, error: Exception, limit: float, hint: str) -> _Failure:
        what, refused = broken_connection(error, limit)
        late = not refused and "Timeout" in f"{type(error).__name__} {type(error.__cause__).__name__}"
        return _Failure(f"{what}; {hint}" if late else what, again=True, late=late)

    def _attempt(self, asking: _Asking, index: int) -> _Answer:
        """One request. Raises _Failure."""
        openai, body = self._openai, asking.body(index)
        route = asking.client.completions if "prompt" in body else asking.client.chat.completions
        try:
            with route.with_streaming_response.create(model=self.model, **body) as response:
                kind, pieces = response.headers.get("content-type", ""), _in_time(response.iter_bytes(), asking)
                return (
                    self._streamed(pieces, asking)
                    if "event-stream" in kind
                    else self._in_one_piece(b"".join(pieces).decode(errors="replace"), kind)
                )
        except openai.APIStatusError as error:
            refused = self._refused(error.status_code, error.response, asking, body)
        except (openai.APIConnectionError, self._transport) as error:
            raise self._broken(error, asking.settings.timeout, "evaluation.timeout sets how long it has") from error
        except openai.OpenAIError as error:
            raise _Failure(f"{type(error).__name__}: {error}") from error
        if refused:
            raise refused
        return self._attempt(asking, index)

    def _refused(self, status: int, response: Any, asking: _Asking, body: dict[str, Any]) -> _Failure | None:
        """What an HTTP error means; None where the request is to be put in other words, which ``asking`` then has."""
        text = response.text
        said = said_in(text)
        if 400 <= status < 500 or status == 501:
            if "max_completion_tokens" in said and "max_tokens" in body:  # the newer name, which some models insist on
                asking.limit_field = "max_completion_tokens"
                return None
            if "stream_options" in said and "stream_options" in body:
                asking.stream = {"stream": True}
                return None
            if "stream" in said.lower() and "stream" in body:
                asking.stream = {}
                return None
        hints = [hint for name, hint in HINTS.items() if name in (body["extra_body"] or {}) and name in text]
        return _Failure(
            "; ".join([refusal(status, text), *hints]),
            again=passing(status, text),
            wait=retry_after(response.headers, time.time()),
        )

    def _streamed(self, pieces: Iterator[bytes], asking: _Asking) -> _Answer:
        answer = _Answer()
        try:
            for data in stream_events(pieces):
                if data == b"[DONE]":
                    answer.finish = answer.finish or "stop"
                    break
                chunk = json.loads(data)
                self._check(chunk, data.decode(errors="replace"))
                answer.used = (chunk.get("usage") or {}).get("completion_tokens") or answer.used
                for choice in (chunk.get("choices") or [])[:1]:
                    thought, text = _said(choice.get("delta") or choice)
                    answer.thought, answer.text, answer.pieces = (
                        answer.thought + thought,
                        answer.text + text,
                        answer.pieces + bool(thought or text),
                    )
                    answer.finish = choice.get("finish_reason") or answer.finish
                    if not MARKS.isdisjoint(text) and asking.at(answer.whole()) is not None:
                        return answer
        except (ValueError, TypeError, AttributeError) as error:
            raise _Failure(f"a broken stream ({error})", again=True) from error
        if answer.finish is None:
            raise _Failure("the stream ended in the middle", again=True)
        return answer

    def _in_one_piece(self, raw: str, kind: str) -> _Answer:
        try:
            value = json.loads(raw)
        except ValueError as error:
            if "html" in kind or raw.lstrip().startswith("<"):
                raise _Failure(
                    f"it is {kind.partition(';')[0] or 'markup'}; the URL often ends in /v1",
                    "'s answer is no chat completion",
                ) from error
            raise _Failure("a broken body", again=True) from error
        try:
            self._check(value, raw)
            choice, usage = value["choices"][0], value.get("usage") or {}
            thought, text = _said(choice.get("message") or {"content": choice["text"]})
            return _Answer(
                thought, text, 0, int(usage.get("completion_tokens") or 0), str(choice.get("finish_reason") or "stop")
            )
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise _Failure(
                "it has no choices" if isinstance(value, dict) and value.get("choices") == [] else "other JSON",
                "'s answer is no chat completion",
            ) from error

    def _check(self, value: dict[str, Any], raw: str) -> None:
        """Raises _Failure for an error under status 200, as routers report their provider's, and for another model's answer: servers may
        add or leave out a folder, provider, revision, date or tag (said once); another name is another model."""
        trouble = value.get("error")
        if trouble and not value.get("choices"):
            code = str(trouble.get("code")) if isinstance(trouble, dict) else ""
            raise _Failure(f"it says {said_in(raw)}", again=code.isdigit() and passing(int(code), raw))
        served = str(value.get("model") or self.model)
        name = public_model(served)
        if not same_model(self.model, served):
            raise _Failure(
                f"to ask for that, --model openai:{public_endpoint(self.url)}/…#{name}",
                f" answers as model {name!r}, not {public_model(self.model)!r}",
            )
        if name != public_model(self.model):
            self._tell(f"the server answers as model {name!r}")

    def _reply(self, asking: _Asking, index: int, answer: _Answer) -> Reply:
        text = answer.whole()
        at, count = asking.at(text), answer.used or answer.pieces
        if text and not count:
            count = len(re.findall(r"\w+|[^\w\s]", text))
            self._tell(
                "the server does not say how many tokens its answers have: words and marks are counted, which are fewer"
            )
        if not text:
            self._tell(f"an answer has no text (finish_reason {answer.finish!r}); it counts as empty")
        self._answered = True
        return Reply(index, text[:at], count, "length" if at is None and answer.finish == "length" else "stop")


def _said(message: dict[str, Any]) -> tuple[str, str]:
    """Thought and text of a message, of a piece of one, or of plain text."""
    return str(message.get("reasoning_content") or message.get("reasoning") or ""), str(
        message.get("content") or message.get("text") or ""
    )


def _in_time(pieces: Iterator[bytes], asking: _Asking) -> Iterator[bytes]:
    """The pieces of an answer's body. Raises _Failure when they have come for longer than an answer may take, be it comments alone."""
    deadline = time.monotonic() + asking.settings.timeout
    for piece in pieces:
        asking.heard = time.monotonic()
        if asking.heard > deadline:
            raise _Failure(
                f"no whole answer within {asking.settings.timeout:g} s; evaluation.timeout sets how long it has"
            )
        yield piece
