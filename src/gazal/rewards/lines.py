"""`gazal extract` and `gazal reward`: JSON lines in, JSON lines out, one at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import IO, Any

from gazal.answers.extract import extract
from gazal.common.errors import GazalError
from gazal.recipe.rewards import RewardConfig
from gazal.rewards.functions import score_completion

LETTERS = "ABCDEFGHIJ"


def extract_lines(lines_in: Iterable[str], out: IO[str]) -> None:
    """`gazal extract`: JSON lines {completion, options, think_open?} to {letter, reason}.

    Raises GazalError naming row and field at the first bad line.
    """
    for row, item in _read_lines(lines_in):
        found = extract(item["completion"], item["options"], _optional(row, item, "think_open", bool, False))
        out.write(json.dumps({"letter": found.letter, "reason": found.reason.value}) + "\n")


def reward_lines(lines_in: Iterable[str], out: IO[str], cfg: RewardConfig | None = None) -> None:
    """`gazal reward`: JSON lines {completion, options, answer_idx, think_open?, n_tokens?, truncated?} to the scores.

    Without n_tokens the length is counted in words; n-grams always are, since there are no token ids here. Raises
    GazalError naming row and field at the first bad line.
    """
    for row, item in _read_lines(lines_in):
        answer = item.get("answer_idx")
        if not isinstance(answer, str) or item["options"].get(answer) is None:
            raise _bad(row, "answer_idx", f"{answer!r} is not among the options")
        n_tokens = _optional(row, item, "n_tokens", int, None)
        if n_tokens is not None and n_tokens < 0:
            raise _bad(row, "n_tokens", "is negative")
        truncated = _optional(row, item, "truncated", bool, False)
        think_open = _optional(row, item, "think_open", bool, False)
        scores = score_completion(
            item["completion"], item["options"], answer, n_tokens, truncated=truncated, cfg=cfg, think_open=think_open
        )
        out.write(json.dumps(scores._asdict()) + "\n")


def _bad(row: int, field: str, what: str) -> GazalError:
    return GazalError(f"<stdin>: row {row}: {field}: {what}")


def _optional(row: int, item: dict[str, Any], field: str, kind: type, default: Any) -> Any:
    value = item.get(field)
    if value is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        raise _bad(row, field, f"expected {kind.__name__}, found {type(value).__name__}")
    return default if value is None else value


def _read_lines(lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row from 1, object with a valid completion and options) per line; blank lines are skipped."""
    numbered = enumerate(lines, 1)
    while True:
        try:
            row, line = next(numbered)
        except StopIteration:
            return
        except UnicodeDecodeError as error:
            raise GazalError(f"<stdin>: not UTF-8 ({error.reason})") from error
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise GazalError(
                f"<stdin>: row {row}: not JSON ({getattr(error, 'msg', 'too deep or too long a value')})"
            ) from error
        if not isinstance(item, dict):
            raise GazalError(f"<stdin>: row {row}: expected an object, found {type(item).__name__}")
        if not isinstance(item.get("completion"), str):
            raise _bad(row, "completion", "expected text" if "completion" in item else "is missing")
        _check_options(row, item.get("options"))
        yield row, item


def _check_options(row: int, options: Any) -> None:
    if not isinstance(options, dict):
        raise _bad(row, "options", "expected an object of letters and texts" if options is not None else "is missing")
    for letter, text in options.items():
        if len(letter) != 1 or letter not in LETTERS:
            raise _bad(row, "options", f"{letter!r} is not one of the letters A to J")
        if text is not None and not isinstance(text, str):
            raise _bad(row, f"options.{letter}", f"expected text, found {type(text).__name__}")
    if sum(text is not None for text in options.values()) < 2:
        raise _bad(row, "options", "fewer than two")
