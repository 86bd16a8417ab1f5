"""The one error type that people see: a single clear line, never a traceback."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class GazalError(Exception):
    """Bad input or an impossible request; the message is one line naming file, row and field."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def first_problem(error: ValidationError) -> str:
    """Return the first thing that pydantic found wrong: ``field: what``, or ``what`` of the whole."""
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"]))
    what = first["msg"].removeprefix("Value error, ")
    return f"{field}: {what}" if field else what
