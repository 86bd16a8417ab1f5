"""What a request to an OpenAI-compatible server brings: an answer, a failure, or a stop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gazal.common.endpoints import LONGEST_WAIT
from gazal.common.openai_message import FAILED, FILTERED, finish_of, read_message


@dataclass(eq=False)
class Failure(Exception):
    """A request that brought no answer; in words, ``the server{what} ({why})``. ``where``: the item at work.

    ``again``: a retry may help. ``wait``: seconds for which the server wants a pause. ``late``: it was out of time.
    ``paid``: the server may charge for it. ``refused``: it takes no such prompt. ``body``: what it sent.
    """

    why: str
    what: str = " failed"
    again: bool = False
    wait: float = 0.0
    late: bool = False
    paid: bool = False
    refused: bool = False
    body: str = ""
    where: str = ""

    @property
    def final(self) -> bool:
        return not self.again or self.wait > LONGEST_WAIT

    def __str__(self) -> str:
        return self.why if self.what == " failed" else f"the server{self.what} ({self.why})"


class Stopped(Exception):
    """All has stopped before a request was sent."""


@dataclass
class Answer:
    """One answer as far as it has come. ``value`` is the JSON of one that came in one piece."""

    thought: str = ""
    text: str = ""
    refusal: str = ""
    pieces: int = 0  # of a stream
    finish: str | None = None  # stop, length or content_filter
    reason: str | None = None  # the server's word for it
    usage: dict[str, Any] = field(default_factory=dict)
    value: dict[str, Any] = field(default_factory=dict)

    def add(self, message: dict[str, Any], reason: Any) -> str:
        """Add a message or a piece of one; return its text.

        Raise Failure for one that the server broke off, NotText as :func:`read_message` does.
        """
        found, finish = read_message(message), finish_of(reason)
        if finish == FAILED:
            raise Failure(f"it ended an answer with finish_reason {str(reason)!r}", again=True, paid=True)
        self.thought, self.text = self.thought + found.thought, self.text + found.text
        self.refusal, self.finish = self.refusal + found.refusal, finish or self.finish
        self.reason = str(reason) if finish else self.reason
        self.pieces += bool(found.thought or found.text)
        return found.text

    def end(self) -> Answer:
        """Return the whole answer: one that only refuses is its refusal."""
        if self.refusal and not self.text:
            self.text, self.finish = self.refusal, FILTERED
        return self

    def note(self, usage: Any) -> None:
        """Keep the counts that ``usage`` gives; a stream may give some of them early, and null later."""
        if isinstance(usage, dict):
            self.usage |= {name: count for name, count in usage.items() if count is not None}

    def count(self, name: str) -> int | None:
        """Return the server's own count of ``completion_tokens`` or ``prompt_tokens``, None if it gives none."""
        count = self.usage.get(name)
        if isinstance(count, float) and count.is_integer():  # JSON has one kind of number
            count = int(count)
        return count if type(count) is int and count >= 0 else None
