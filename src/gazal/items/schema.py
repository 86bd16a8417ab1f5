"""One item: a multiple-choice question with its key (the schema that every room shares)."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gazal.common.errors import first_problem
from gazal.items.types import REASONING_TYPES, ReasoningType

LETTERS = "ABCDEFGHIJ"
EXPECTED = {
    "options": 'letters and texts, as {"A": "…", "B": "…"}',
    "answer_idx": 'the letter of an option, as "B"',
    "context": "a list of texts",
    "reasoning_type": f"one of {', '.join(REASONING_TYPES)}",
}


class Item(BaseModel):
    """A question with 2 to 10 options and one key; unknown keys are kept as they are."""

    model_config = ConfigDict(extra="allow")

    id: str
    question: str
    options: dict[str, str]
    answer_idx: str
    context: list[str] | None = None
    answer: str | None = None
    reasoning_type: ReasoningType | None = None
    subject: str | None = None
    source: str | None = None
    reasoning: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Item:
        for field in ("id", "question"):
            if not getattr(self, field).strip():
                raise ValueError(f"{field}: empty")
        if not 2 <= len(self.options) <= len(LETTERS):
            raise ValueError(f"options: expected 2 to 10, found {len(self.options)}")
        if list(self.options) != list(LETTERS[: len(self.options)]):
            last, found = LETTERS[len(self.options) - 1], ", ".join(self.options)
            raise ValueError(f"options: expected the letters A to {last} in order, found {found}")
        if empty := next((letter for letter, text in self.options.items() if not text.strip()), None):
            raise ValueError(f"options.{empty}: empty")
        if self.answer_idx not in self.options:
            raise ValueError(f"answer_idx: {self.answer_idx!r} is not among the options {', '.join(self.options)}")
        return self


class TrainingExample(Item):
    """A free-text SFT example: ``question``, ``reasoning`` (inside ``<think>``) and ``response`` (after it).

    It has no options and no key; neither is written to a file.
    """

    reasoning: str  # pyright: ignore[reportGeneralTypeIssues]  # pydantic allows one without a default after others
    response: str
    options: dict[str, str] = Field(default={}, exclude=True, max_length=0)
    answer_idx: str = Field(default="", exclude=True, max_length=0)

    @model_validator(mode="after")
    def _check(self) -> TrainingExample:
        for field in ("question", "reasoning", "response"):
            if not getattr(self, field).strip():
                raise ValueError(f"{field}: empty")
        return self


def item_problem(error: ValueError) -> str:
    """Return the first thing wrong with an item, ``field: what``; of another ValueError its message."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"{field}: missing (found: {', '.join(map(str, first['input'])) or 'nothing'})"
    if first["type"] == "value_error":
        return first_problem(error)
    found = first["input"]
    shown = "null" if found is None else f"{type(found).__name__} {found!r:.40}"
    return f"{field}: expected {EXPECTED.get(field, 'text')}, found {shown}"


def parse_item(value: dict[str, Any]) -> Item:
    """Return a row as an Item, or with ``response`` in place of ``options`` as a TrainingExample.

    Raise ValidationError for a row that is neither.
    """
    return (TrainingExample if "response" in value and "options" not in value else Item).model_validate(value)
