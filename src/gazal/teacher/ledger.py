"""What was sent and what came back: two append-only files, each line on disk before the next thing happens.

``sent.jsonl`` has a line before each request leaves, with the most it can cost. ``responses.jsonl`` has a line for
each that ended: the raw response and what it is booked at, or the failure. A sent line without an ended one was in
flight at a kill. It may have been paid, so it stays booked at the most it can cost. Its question is sent again under
the same idempotency key.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from gazal.common.append_store import AppendStore
from gazal.teacher.plan import Request


class Bill(NamedTuple):
    """Tokens (prompt and completion together) and US dollars."""

    tokens: int = 0
    usd: float = 0.0

    def __add__(self, other: Bill) -> Bill:  # type: ignore[override]
        return Bill(self.tokens + other.tokens, self.usd + other.usd)

    def __sub__(self, other: Bill) -> Bill:
        return Bill(self.tokens - other.tokens, self.usd - other.usd)


class Ledger:
    """The two files of one folder, held by one process at a time.

    ``answers`` maps a request's key to its place in ``responses.jsonl``. ``booked`` is all that was or may have been
    paid. ``lost`` is the number of requests in flight at a kill. What a kill cut short goes to ``NAME.torn``. Raises
    GazalError as :class:`gazal.common.append_store.AppendStore` does.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = print) -> None:
        self.folder, self.say, self.answers, self.booked = folder, say, {}, Bill()
        self.prompt_tokens = self.completion_tokens = self.counted = self.uncounted = self.failures = 0
        self.seconds = 0.0
        self._unended: dict[int, Bill] = {}
        self._sent = self._open("sent.jsonl", self._expect)
        self._attempts = len(self._unended)
        self._responses = self._open("responses.jsonl", self._book)
        self.lost = len(self._unended)
        for bill in self._unended.values():
            self.booked += bill

    def _open(self, name: str, take: Callable[[int, Any], None]) -> AppendStore:
        store = AppendStore(self.folder / name, take, strict=True, aside=self.folder / f"{name}.torn")
        if store.torn:
            self.say(f"{name}: its last row was cut off by a kill; set aside in {name}.torn")
        return store

    def _expect(self, place: int, row: dict[str, Any]) -> None:
        self._unended[row["attempt"]] = Bill(row["tokens"], row["usd"])

    def _book(self, place: int, row: dict[str, Any]) -> None:
        self._unended.pop(row["attempt"], None)
        self.booked += Bill(row["tokens"], row["usd"])
        if "response" not in row:
            self.failures += 1
            return
        self.answers[row["key"]] = place
        self.seconds += row["seconds"]
        if row["usage"]:
            self.counted += 1
            self.prompt_tokens += row["usage"][0]
            self.completion_tokens += row["usage"][1]
        else:
            self.uncounted += 1

    def send(self, request: Request, worst: Bill) -> int:
        """Note that ``request`` is about to leave; return the attempt's number."""
        self._attempts += 1
        self._sent.append([_row(self._attempts, request, worst)])
        return self._attempts

    def end(self, attempt: int, request: Request, bill: Bill, **what: Any) -> None:
        """Note how the attempt ended: ``response``, ``usage`` and ``seconds``, or ``failure``."""
        row = _row(attempt, request, bill) | what
        self._book(*self._responses.append([row]), row)

    def read(self, request: Request) -> dict[str, Any] | None:
        """Return the row of the request's answer, None if it has none."""
        place = self.answers.get(request.key)
        return None if place is None else self._responses.read(place)

    @property
    def mean_completion(self) -> float | None:
        """Return the mean of the completion tokens of answers whose server counted them."""
        return self.completion_tokens / self.counted if self.counted else None

    def close(self) -> None:
        """Let go of the folder; remove files in which nothing was ever written, and the folder if it is then empty."""
        for store in (self._responses, self._sent):
            store.close()
        if not any(self.folder.iterdir()):
            self.folder.rmdir()


def _row(attempt: int, request: Request, bill: Bill) -> dict[str, Any]:
    return {"attempt": attempt, "key": request.key, "id": request.task, "sample": request.sample, **bill._asdict()}
