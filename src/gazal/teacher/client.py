"""Asking the endpoint: bounded concurrency, back-off, and a cap that no request may pass.

What an attempt is booked at: an answer with ``usage``, its tokens; an answer without, the most it can have cost;
a time-out, a cut or a broken body, likewise, since the server may charge for it; an HTTP error and a refused
connection, nothing. The client's own retries are off: each attempt has to pass the cap and reach the ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

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
    without_secrets,
)
from gazal.common.errors import GazalError
from gazal.teacher.ledger import Bill, Ledger
from gazal.teacher.plan import Request

GIVE_UP = 3  # requests in a row that failed at every attempt: the server is down
REPORT_SECONDS = 15.0


@dataclass(frozen=True)
class Prices:
    """US dollars for a million tokens."""

    prompt: float = 0.0
    completion: float = 0.0

    def bill(self, prompt: int, completion: int) -> Bill:
        return Bill(prompt + completion, (prompt * self.prompt + completion * self.completion) / 1e6)


@dataclass(frozen=True)
class Cap:
    tokens: int | None = None
    usd: float | None = None

    def allows(self, bill: Bill) -> bool:
        return (self.tokens is None or bill.tokens <= self.tokens) and (
            self.usd is None or bill.usd <= self.usd + 1e-12
        )


class Failure(Exception):
    """An attempt that brought no answer. ``wait``: what the server asked for, in seconds; ``last``: asking again is of no use."""

    def __init__(
        self, what: str, *, paid: bool = False, wait: float | None = None, last: bool = False, body: str = ""
    ) -> None:
        super().__init__(" ".join(what.split())[:300])
        self.paid, self.wait, self.last, self.body = paid, wait, last, body[:2000]


@dataclass
class Teacher:
    """One endpoint and model. ``attempts`` and ``first_wait`` (seconds) shape the back-off; ``timeout`` is in seconds."""

    endpoint: str
    ledger: Ledger
    prices: Prices
    cap: Cap
    concurrency: int = 8
    timeout: float = 600.0
    attempts: int = 6
    first_wait: float = 1.0
    say: Callable[[str], None] = print
    served: set[str] = field(default_factory=set)
    unanswered: list[Request] = field(default_factory=list)
    capped: bool = False

    def __post_init__(self) -> None:
        import openai

        self._openai, self._key = openai, os.environ.get("OPENAI_API_KEY") or "none"
        self._in_flight, self._flying, self._quiet_until, self._down = Bill(), 0, 0.0, 0
        self._token_field = "max_tokens"
        self._error: GazalError | None = None
        self._interrupted = False

    def worst(self, request: Request) -> Bill:
        return self.prices.bill(request.prompt_bound, request.body["max_tokens"])

    def ask(self, requests: list[Request]) -> None:
        """Ask all ``requests`` and book each in the ledger; returns early when the cap is reached (``capped``).

        The first goes alone, so that a wrong key, model or address costs one request at most. Those that failed at
        every attempt are in ``unanswered``. Raises GazalError, once what is in flight has ended, for an
        endpoint that cannot be used; the first interrupt waits for what is in flight too, the second does not.
        """
        asyncio.run(self._ask_all(requests))
        if self._error:
            raise self._error
        if self._interrupted:
            raise KeyboardInterrupt

    def _interrupt(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.remove_signal_handler(signal.SIGINT)
        self._interrupted = True
        self._stopped.set()
        self.say(
            f"teach: waiting for the {self._flying} requests in flight, which may be paid; interrupt again to give them up"
        )

    async def _ask_all(self, requests: list[Request]) -> None:
        self._room, self._stopped, self._total, self._done, self._said = (
            asyncio.Condition(),
            asyncio.Event(),
            len(requests),
            0,
            time.monotonic(),
        )
        loop = asyncio.get_running_loop()
        with contextlib.suppress(
            ValueError, RuntimeError, NotImplementedError
        ):  # not the main thread, or no such signals here
            loop.add_signal_handler(signal.SIGINT, self._interrupt, loop)
        client = self._openai.AsyncOpenAI(
            base_url=self.endpoint, api_key=self._key, timeout=self.timeout, max_retries=0
        )
        queue = iter(requests)
        async with client:
            self._chat = client.chat.completions.with_raw_response
            await self._work(itertools.islice(queue, 1))
            async with asyncio.TaskGroup() as group:
                for _ in range(self.concurrency):
                    group.create_task(self._work(queue))

    async def _work(self, queue: Iterator[Request]) -> None:
        """Ask one request after another; an error stops every worker after what it is waiting for."""
        while not self._stopped.is_set() and (request := next(queue, None)):
            try:
                await self._ask(request)
            except GazalError as error:
                self._error = self._error or error
                self._stopped.set()
                async with self._room:
                    self._room.notify_all()
            if (now := time.monotonic()) - self._said > REPORT_SECONDS:
                self._said = now
                self.say(
                    f"teach: {self._done}/{self._total} answered, {self.ledger.booked.tokens:,} tokens and ${self.ledger.booked.usd:.4f} booked"
                )

    async def _ask(self, request: Request) -> None:
        for tries in range(1, self.attempts + 1):
            if not await self._reserve(self.worst(request)):
                return
            try:
                await self._attempt(request)
            except Failure as failure:
                if failure.last or (failure.wait or 0) > LONGEST_WAIT:
                    asked = f"; it asks to wait {failure.wait:.0f} s" if (failure.wait or 0) > LONGEST_WAIT else ""
                    raise GazalError(f"{public_endpoint(self.endpoint)}: {failure}{asked}") from failure
                if failure.wait is not None:
                    self._quiet_until = max(self._quiet_until, time.monotonic() + failure.wait)
                why, pause = failure, back_off(tries, self.first_wait)
            else:
                self._done, self._down = self._done + 1, 0
                return
            finally:
                async with self._room:
                    self._in_flight, self._flying = self._in_flight - self.worst(request), self._flying - 1
                    self._room.notify_all()
            if tries < self.attempts and await self._stopped_within(pause):
                return
        self._down += 1
        self.unanswered.append(request)
        self.say(f"teach: {request.task}, sample {request.sample}: given up after {self.attempts} attempts ({why})")
        if self._down >= GIVE_UP or not self._done:
            raise GazalError(
                f"{public_endpoint(self.endpoint)}: does not answer ({why}); the same command goes on where this one stopped"
            )

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._stopped.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def _reserve(self, worst: Bill) -> bool:
        """Wait until ``worst`` fits under the cap beside all that is booked or in flight; False when it never will, or at a stop."""
        while (wait := self._quiet_until - time.monotonic()) > 0:
            if await self._stopped_within(wait):
                return False
        async with self._room:
            while not self._stopped.is_set() and not self.cap.allows(self.ledger.booked + self._in_flight + worst):
                if not self._flying:
                    self.capped = True
                    self._stopped.set()
                else:
                    await self._room.wait()
            if self._stopped.is_set():
                self._room.notify_all()
                return False
            self._in_flight, self._flying = self._in_flight + worst, self._flying + 1
            return True

    async def _attempt(self, request: Request) -> None:
        """Send once and book how it ended. Raises Failure."""
        attempt, began = self.ledger.send(request, self.worst(request)), time.monotonic()
        try:
            response, raw = await self._send(request)
            if not same_model(asked := request.body["model"], served := str(response.get("model") or asked)):
                raise Failure(
                    f"answers as model {public_model(served)!r}, not {public_model(asked)!r}; --model must name what it serves",
                    paid=True,
                    last=True,
                    body=raw,
                )
        except Failure as failure:
            bill = self.worst(request) if failure.paid else Bill()
            self.ledger.end(attempt, request, bill, failure=self._clean(str(failure)), body=self._clean(failure.body))
            raise Failure(
                self._clean(str(failure)), paid=failure.paid, wait=failure.wait, last=failure.last
            ) from failure
        response["model"] = public_model(served)
        self.served.add(response["model"])
        usage = response.get("usage") if isinstance(response.get("usage"), dict) else {}
        counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
        counted = counts if all(type(count) is int and count >= 0 for count in counts) else None
        bill = self.prices.bill(*counted) if counted else self.worst(request)
        self.ledger.end(
            attempt, request, bill, usage=counted, seconds=round(time.monotonic() - began, 3), response=response
        )

    async def _send(self, request: Request) -> tuple[dict[str, Any], str]:
        """One POST: the chat completion, checked to be one, and its text. Raises Failure."""
        openai, body = self._openai, dict(request.body)
        body[self._token_field] = body.pop("max_tokens")
        try:
            answer = await self._chat.create(**body, extra_headers={"Idempotency-Key": request.key})
            raw, kind = answer.text, answer.headers.get("content-type", "")
        except openai.APIConnectionError as error:  # time-outs too
            what, refused = broken_connection(error, self.timeout)
            raise Failure(what, paid=not refused, last=refused and not self._done) from error
        except openai.APIStatusError as error:
            raise self._status(error.status_code, error.response.headers, error.response.text) from error
        except openai.OpenAIError as error:
            raise Failure(f"{type(error).__name__}: {error}", last=True) from error
        try:
            value = json.loads(raw)
        except ValueError as error:
            if "html" in kind or "event-stream" in kind or raw.lstrip().startswith("<"):
                raise Failure(
                    f"answers with {kind.partition(';')[0] or 'markup'}, not a chat completion; an --endpoint often ends in /v1",
                    last=True,
                    body=raw,
                ) from error
            raise Failure("a broken body", paid=True, body=raw) from error
        trouble = value.get("error") if isinstance(value, dict) else None
        if isinstance(trouble, dict) and not value.get(
            "choices"
        ):  # routers report their provider's error under status 200
            code = trouble.get("code")
            raise self._status(int(code) if str(code).isdigit() else 400, answer.headers, raw)
        try:
            if not isinstance(value["choices"][0]["message"].get("content"), str | None):
                raise TypeError
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise Failure("answers with JSON that is no chat completion", paid=True, last=True, body=raw) from error
        return value, raw

    def _status(self, status: int, headers: Any, body: str) -> Failure:
        if status == 400 and "max_completion_tokens" in said_in(body) and self._token_field == "max_tokens":
            self._token_field = "max_completion_tokens"  # the newer name, which some models insist on
            return Failure("wants max_completion_tokens", wait=0.0)
        return Failure(
            refusal(status, body), wait=retry_after(headers, time.time()), last=not passing(status, body), body=body
        )

    def _clean(self, text: str) -> str:
        return without_secrets(text, self.endpoint, self._key)
