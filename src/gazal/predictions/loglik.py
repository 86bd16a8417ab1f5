"""Log-likelihoods as completions: written, and read as a letter."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gazal.common.errors import GazalError
from gazal.items.schema import Item

if TYPE_CHECKING:
    from gazal.models.likelihood import Scored


def choices(item: Item, choice: str) -> dict[str, str]:
    """What is compared, by letter: the letters themselves (``letter``), or the options' texts (``text``)."""
    return {letter: letter if choice == "letter" else text for letter, text in item.options.items()}


def read_letter(completion: str, norm: str = "sum") -> str | None:
    """The likeliest option's letter by a log-likelihood prediction's completion; None for an empty one (the prompt was too long).

    ``{"A": -1.5, "B": -0.5}`` holds sums, ``{"A": [-1.5, 3], …}`` sums with the lengths that ``norm`` divides by. Raises
    GazalError for anything else. ``read_letter('{"A": [-3, 3], "B": [-2, 1]}', "characters")`` is "A".
    """
    if not completion:
        return None
    try:
        found = json.loads(completion)
        if norm == "sum":
            by_letter = {letter: float(value) for letter, value in found.items()}
        else:
            by_letter = {letter: float(loglik) / length for letter, (loglik, length) in found.items()}
        return max(by_letter, key=by_letter.__getitem__)
    except (ValueError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise GazalError(f"completion {completion[:60]!r}: not the log-likelihoods of options, by {norm}") from error


def to_completion(asked: dict[str, str], scored: Sequence[Scored], norm: str) -> str:
    """What :func:`read_letter` reads: log-likelihoods to six places, with the lengths that ``norm`` needs (at least 1)."""
    pairs = list(zip(asked.items(), scored, strict=True))
    if norm == "sum":
        return json.dumps({letter: round(one.loglik, 6) for (letter, _), one in pairs})
    return json.dumps(
        {
            letter: [round(one.loglik, 6), one.tokens if norm == "tokens" else max(len(text), 1)]
            for (letter, text), one in pairs
        }
    )
