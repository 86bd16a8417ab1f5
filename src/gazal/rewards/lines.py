"""`gazal extract` and `gazal reward`: JSON lines in, JSON lines out, one at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import IO, Annotated, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetPydanticSchema,
    InstanceOf,
    ValidationError,
    field_validator,
    model_validator,
)

from gazal.answers.extract import extract
from gazal.common.errors import GazalError, first_problem
from gazal.common.json_text import RepeatedKey, load_json
from gazal.recipe.rewards import RewardConfig

_LETTERS = Literal["A", "B", "C", "D", "E", "F", "G", "H", "I", "J"]
Letter = Annotated[str, GetPydanticSchema(lambda _, handler: handler(_LETTERS))]
Text = InstanceOf[str]  # unlike str it takes half a surrogate pair too


class ExtractLine(BaseModel):
    """A line of `gazal extract`; unknown keys are ignored, and null stands for what is missing."""

    model_config = ConfigDict(strict=True)

    completion: Text
    options: dict[Letter, Text | None]
    think_open: bool | None = None

    @field_validator("options")
    @classmethod
    def _check_options(cls, options: dict[Letter, Text | None]) -> dict[Letter, Text | None]:
        if sum(text is not None for text in options.values()) < 2:
            raise ValueError("fewer than two")
        return options


class RewardLine(ExtractLine):
    """A line of `gazal reward`."""

    answer_idx: Text
    n_tokens: int | None = Field(None, ge=0)
    truncated: bool | None = None

    @model_validator(mode="after")
    def _check_answer(self) -> RewardLine:
        if self.options.get(self.answer_idx) is None:
            raise ValueError(f"answer_idx: {self.answer_idx!r} is not among the options")
        return self


Line = TypeVar("Line", bound=ExtractLine)


def extract_lines(lines_in: Iterable[str], out: IO[str]) -> None:
    """Write what `gazal extract` does: for JSON lines {completion, options, think_open?} lines {letter, reason}.

    Raise GazalError, naming row and field, at the first bad line.
    """
    for line in _read_lines(lines_in, ExtractLine):
        found = extract(line.completion, line.options, bool(line.think_open))
        out.write(json.dumps({"letter": found.letter, "reason": found.reason.value}) + "\n")


def reward_lines(lines_in: Iterable[str], out: IO[str], cfg: RewardConfig | None = None) -> None:
    """Write what `gazal reward` does: the scores of JSON lines {completion, options, answer_idx, think_open?, …}.

    A line may also have n_tokens and truncated. Without n_tokens the length is counted in words; n-grams always are,
    since there are no token ids here. Raise GazalError, naming row and field, at the first bad line.
    """
    from gazal.rewards.functions import score_completion  # brings numpy, which `gazal extract` does without

    for line in _read_lines(lines_in, RewardLine):
        scores = score_completion(
            line.completion,
            line.options,
            line.answer_idx,
            line.n_tokens,
            truncated=bool(line.truncated),
            cfg=cfg,
            think_open=bool(line.think_open),
        )
        out.write(json.dumps(scores._asdict()) + "\n")


def _read_lines(lines: Iterable[str], kind: type[Line]) -> Iterator[Line]:
    """Yield the lines that are not blank; skip a byte order mark."""
    row = 0
    try:
        for row, line in enumerate(lines, 1):
            text = line.removeprefix("\ufeff") if row == 1 else line
            if text.strip():
                yield kind.model_validate(load_json(text))
    except ValidationError as error:
        raise GazalError(f"<stdin>: row {row}: {first_problem(error)}") from error
    except UnicodeDecodeError as error:
        raise GazalError(f"<stdin>: not UTF-8 ({error.reason})") from error
    except RepeatedKey as error:
        raise GazalError(f"<stdin>: row {row}: {error}") from error
    except (ValueError, RecursionError) as error:
        what = getattr(error, "msg", "too deep or too long a value")
        raise GazalError(f"<stdin>: row {row}: not JSON ({what})") from error
