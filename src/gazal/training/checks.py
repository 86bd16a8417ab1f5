"""One check before training: its name, its outcome, and the public issues of the same fault."""

from __future__ import annotations

from typing import Literal, NamedTuple

TEMPLATE, EOS, PAD, TAGGED = "template round trip", "end of turn is EOS", "pad is not EOS", "tags survive decoding"
LENGTH, LABELS, LONGEST = "length", "EOS in the labels", "longest batch"
REWARDS, ANSWERS = "rewards differ", "answers are found"
ISSUES = {
    TEMPLATE: "trl#1623, trl#6966, open-r1#235",
    EOS: "trl#1623, trl#7039",
    PAD: "trl#3091",
    TAGGED: "trl#2897",
    LENGTH: "trl#4698",
    LABELS: "trl#1623, trl#3091",
    LONGEST: "trl#2688, trl#4585",
    REWARDS: "trl#3708",
    ANSWERS: "open-r1#235, trl#6966",
}


class Check(NamedTuple):
    """The outcome of a check in :data:`ISSUES`; a warning is printed and does not stop training."""

    name: str
    outcome: Literal["pass", "warn", "fail", "skipped"]
    why: str

    @property
    def guards(self) -> str:
        """Return the public issues of the fault that the check guards against."""
        return ISSUES[self.name]

    def line(self) -> str:
        return f"{self.outcome:<7}  {self.name}: {self.why}  [{self.guards}]"
