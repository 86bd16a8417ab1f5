"""What was sent and what came back: two append-only files, each line on disk before the next thing happens.

``sent.jsonl`` has a line before each request leaves, with the most it can cost; ``responses.jsonl`` has a line for
each that ended: the raw response and what it is booked at, or the failure. A sent line without an ended one was
in flight at a kill: it may have been paid, so it stays booked at the most it can cost, and its question is asked
again under the same idempotency key.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from gazal.common.errors import GazalError
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

    ``answers``: request key to its place in ``responses.jsonl``; ``booked``: all that was or may have been paid;
    ``lost``: how many requests were in flight at a kill. Raises GazalError when another process holds the folder, when it cannot be
    written, and for a damaged line that is not the last.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = print) -> None:
        self.folder, self.answers, self.booked = folder, {}, Bill()
        self.prompt_tokens = self.completion_tokens = self.counted = self.uncounted = self.failures = 0
        self.seconds = 0.0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._sent, self._responses = (open(folder / name, "a+b") for name in ("sent.jsonl", "responses.jsonl"))
            fcntl.flock(self._sent, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise GazalError(f"{folder}: another gazal teach is at work there") from error
        except OSError as error:
            raise GazalError(f"{folder}: cannot be written ({error.strerror})") from error
        worst = {line["attempt"]: Bill(line["tokens"], line["usd"]) for _, line in self._load(self._sent, say)}
        self._attempts = len(worst)
        for place, line in self._load(self._responses, say):
            worst.pop(line["attempt"], None)
            self._book(place, line)
        self.lost = len(worst)
        for bill in worst.values():
            self.booked += bill

    def _load(self, file: IO[bytes], say: Callable[[str], None]) -> Iterator[tuple[int, dict[str, Any]]]:
        """(place, line) of each whole line; what a kill tore off at the end goes to ``NAME.torn``."""
        path, place = Path(file.name), 0
        file.seek(0)
        for row, raw in enumerate(file, 1):
            if not raw.endswith(b"\n"):
                with open(f"{path}.torn", "ab") as torn:
                    torn.write(raw + b"\n")
                file.truncate(place)
                say(f"{path.name}: row {row} was cut off by a kill; set aside in {path.name}.torn")
                return
            try:
                line = json.loads(raw)
                line["attempt"], line["tokens"], line["usd"]
            except (ValueError, TypeError, KeyError) as error:
                raise GazalError(f"{path}: row {row}: not a line of the ledger ({error!r})") from error
            yield place, line
            place += len(raw)

    def _book(self, place: int, line: dict[str, Any]) -> None:
        self.booked += Bill(line["tokens"], line["usd"])
        if "response" not in line:
            self.failures += 1
            return
        self.answers[line["key"]] = place
        self.seconds += line["seconds"]
        if line["usage"]:
            self.counted += 1
            self.prompt_tokens, self.completion_tokens = (
                self.prompt_tokens + line["usage"][0],
                self.completion_tokens + line["usage"][1],
            )
        else:
            self.uncounted += 1

    def _append(self, file: IO[bytes], line: dict[str, Any]) -> int:
        place = file.seek(0, os.SEEK_END)
        try:
            file.write(json.dumps(line).encode() + b"\n")  # ASCII: an answer may hold half a surrogate pair
            file.flush()
            os.fsync(file.fileno())
        except OSError as error:
            raise GazalError(f"{file.name}: cannot be written ({error.strerror})") from error
        return place

    def send(self, request: Request, worst: Bill) -> int:
        """Note that ``request`` is about to leave; returns the attempt's number."""
        self._attempts += 1
        self._append(
            self._sent,
            {
                "attempt": self._attempts,
                "key": request.key,
                "id": request.task,
                "sample": request.sample,
                **worst._asdict(),
            },
        )
        return self._attempts

    def end(self, attempt: int, request: Request, bill: Bill, **what: Any) -> None:
        """Note how the attempt ended: ``response``, ``usage`` and ``seconds``, or ``failure``."""
        line = {
            "attempt": attempt,
            "key": request.key,
            "id": request.task,
            "sample": request.sample,
            **bill._asdict(),
            **what,
        }
        self._book(self._append(self._responses, line), line)

    def read(self, request: Request) -> dict[str, Any] | None:
        """The line of the request's answer, None where it has none."""
        place = self.answers.get(request.key)
        if place is None:
            return None
        self._responses.seek(place)
        return json.loads(self._responses.readline())

    @property
    def mean_completion(self) -> float | None:
        """Mean completion tokens of the answers whose server counted them."""
        return self.completion_tokens / self.counted if self.counted else None

    def close(self) -> None:
        """Let go of the folder; files in which nothing was ever written go, and the folder if it is empty then."""
        for file in (self._responses, self._sent):
            if not os.fstat(file.fileno()).st_size:
                Path(file.name).unlink(missing_ok=True)
            file.close()
        if not any(self.folder.iterdir()):
            self.folder.rmdir()
