"""Prompt the endpoint under a cap that no request may pass.

An attempt whose answer has ``usage`` is booked at its tokens, one without at the most that it can have cost. A
time-out, a cut or a broken body is booked at the most too, since the server may charge for it. An HTTP error and a
refused connection cost nothing. Each attempt has to pass the cap and reach the ledger.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gazal.common.endpoints import public_endpoint, public_model
from gazal.common.errors import GazalError
from gazal.common.openai_answer import Failure
from gazal.common.openai_body import NO_CHAT
from gazal.common.openai_client import Client
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
        few_tokens = self.tokens is None or bill.tokens <= self.tokens
        return few_tokens and (self.usd is None or bill.usd <= self.usd + 1e-12)


@dataclass
class Teacher:
    """One endpoint and model; ``timeout`` and ``first_wait``, the wait before the first retry, are in seconds."""

    endpoint: str
    ledger: Ledger
    prices: Prices
    cap: Cap
    concurrency: int = 8
    timeout: float = 600.0
    attempts: int = 6
    first_wait: float = 1.0
    say: Callable[[str], None] = print
    unanswered: list[Request] = field(default_factory=list)
    capped: bool = False

    def ask(self, requests: list[Request]) -> None:
        """Send all ``requests`` and book each in the ledger; return early when the cap is reached (``capped``).

        The first goes alone, so that a wrong key, model or address costs one request at most. Those that failed at
        every attempt are in ``unanswered``. Raise GazalError for an endpoint that cannot be used, once what is in
        flight has ended. The first interrupt waits for that too, the second does not.
        """
        self._room, self._in_flight, self._flying, self._down = threading.Condition(), Bill(), 0, 0
        hints = {"late": "--timeout sets how long it has", "model": "--model must name what it serves"}
        model, begun, said = requests[0].body["model"], len(self.ledger.answers), time.monotonic()

        def tell(line: str) -> None:
            self.say(f"teach: {line}")

        def at_interrupt() -> None:
            waiting = f"waiting for the {self._flying} requests in flight, which may be paid"
            tell(f"{waiting}; interrupt again to give them up")

        retries = {"tries": self.attempts, "first_wait": self.first_wait, "at_interrupt": at_interrupt}
        try:
            with Client(self.endpoint, model, self.timeout, tell, hints, **retries) as self._client:
                for part in (requests[:1], requests[1:]):
                    for _ in self._client.together(self._ask, part, self.concurrency):
                        if (now := time.monotonic()) - said > REPORT_SECONDS:
                            said, done, booked = now, len(self.ledger.answers) - begun, self.ledger.booked
                            cost = f"{booked.tokens:,} tokens and ${booked.usd:.4f} booked"
                            tell(f"{done}/{len(requests)} answered, {cost}")
        except Failure as failure:
            raise GazalError(f"{public_endpoint(self.endpoint)}: {failure}") from failure

    def _ask(self, request: Request) -> None:
        try:
            self._client.retried(lambda: self._attempt(request))
        except Failure as failure:
            # A prompt that is refused holds up no other, unless nothing was ever answered.
            refused = failure.refused and (self._client.answered.is_set() or bool(self.ledger.answers))
            if failure.final and not refused:
                raise
            if self._client.over.is_set():
                return
            with self._room:
                self._down += not refused
                self.unanswered.append(request)
            self.say(f"teach: {request.task}, sample {request.sample}: given up ({failure})")
            if not refused and (self._down >= GIVE_UP or not self._client.answered.is_set()):
                failure.why = f"does not answer ({failure}); the same command goes on where this one stopped"
                raise

    def _attempt(self, request: Request) -> None:
        """Send once and book how it ended, raising Failure; do nothing if all has stopped.

        It waits until the most that it can cost fits under the cap beside all that is booked or in flight.
        """
        worst = self.prices.bill(request.prompt_bound, request.body["max_tokens"])
        over, ended = self._client.over, dict[str, Any]()

        def fits() -> bool:
            return self.cap.allows(self.ledger.booked + self._in_flight + worst)

        with self._room:
            self._room.wait_for(lambda: over.is_set() or not self._flying or fits())
            if not over.is_set() and not fits():
                self.capped = True
                over.set()
            if over.is_set():
                return
            attempt, began = self.ledger.send(request, worst), time.monotonic()
            self._in_flight, self._flying = self._in_flight + worst, self._flying + 1
        try:
            answer = self._client.send(request.body, extra_headers={"Idempotency-Key": request.key})
            response = answer.value
            if not isinstance(response["choices"][0].get("message"), dict):
                raise self._client.failure("it has no message", NO_CHAT, paid=True, body=json.dumps(response))
            response["model"] = public_model(str(response.get("model") or request.body["model"]))
            counts = [answer.count("prompt_tokens"), answer.count("completion_tokens")]
            usage = None if None in counts else counts
            bill = self.prices.bill(*usage) if usage else worst
            ended = {"bill": bill, "usage": usage, "seconds": round(time.monotonic() - began, 3), "response": response}
        except Failure as failure:
            ended = {"bill": worst if failure.paid else Bill(), "failure": str(failure), "body": failure.body}
            raise
        finally:
            with self._room:
                self._in_flight, self._flying = self._in_flight - worst, self._flying - 1
                self._room.notify_all()
                if ended:
                    self.ledger.end(attempt, request, **ended)
                if "response" in ended:
                    self._down = 0
