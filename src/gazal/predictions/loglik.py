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
    """Return the continuations to compare, by letter: letters if ``choice`` is ``letter``, else the options' texts."""
    return {letter: letter if choice == "letter" else text for letter, text in item.options.items()}


def read_letter(completion: str, norm: str = "sum") -> str | None:
    """Return the likeliest option's letter from a completion of log-likelihoods.

    An empty completion gives None: the prompt was too long. ``{"A": -1.5, "B": -0.5}`` holds sums,
    ``{"A": [-1.5, 3], …}`` sums with the lengths that ``norm`` divides by. Raises GazalError for anything else.
    ``read_letter('{"A": [-3, 3], "B": [-2, 1]}', "characters")`` is "A".
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
    """Write log-likelihoods to six places as :func:`read_letter` reads them, with the lengths that ``norm`` needs.

    ``asked`` is what :func:`choices` gave. Lengths in characters are at least 1.
    """
    found = {}
    for (letter, text), one in zip(asked.items(), scored, strict=True):
        loglik, length = round(one.loglik, 6), one.tokens if norm == "tokens" else max(len(text), 1)
        found[letter] = loglik if norm == "sum" else [loglik, length]
    return json.dumps(found)
