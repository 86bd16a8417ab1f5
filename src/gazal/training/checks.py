"""One check before training, and how it came out."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Check(NamedTuple):
    """``outcome``: a warning is shown and does not stop; ``guards``: public issues of the same fault."""

    name: str
    outcome: Literal["pass", "warn", "fail", "skipped"]
    why: str
    guards: str

    def line(self) -> str:
        return f"{self.outcome:<7}  {self.name}: {self.why}  [{self.guards}]"
