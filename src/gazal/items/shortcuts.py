"""Shortcuts: the scores of an answerer that does not reason. A model's accuracy means little below them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from gazal.items.schema import Item

Shortcut = Callable[[Item], dict[str, float] | None]  # letter -> how much it is preferred; None: no opinion


def credit(item: Item, preference: dict[str, float] | None) -> float:
    """Return the expected accuracy of the most preferred option, ties at random; chance without a preference."""
    if not preference:
        return 1 / len(item.options)
    best = max(preference.values())
    tied = [letter for letter, value in preference.items() if value == best]
    return (item.answer_idx in tied) / len(tied)


def _counts(name: str) -> Shortcut:
    """Prefer by the item's own extra field ``name``: letter -> count (see ``gazal.knowledge.generate``)."""

    def preference(item: Item) -> dict[str, float] | None:
        field = getattr(item, name, None)
        field = field if isinstance(field, dict) else {}
        return {k: float(v) for k, v in field.items() if k in item.options and isinstance(v, (int, float))}

    return preference


def _fitted(training: list[Item]) -> dict[str, Shortcut]:
    letters = Counter(item.answer_idx for item in training)
    shown = Counter(text for item in training for text in item.options.values())
    right = Counter(item.options[item.answer_idx] for item in training)

    def prior(item: Item) -> dict[str, float]:
        unseen = 1 / len(item.options)
        return {k: right[text] / shown[text] if shown[text] else unseen for k, text in item.options.items()}

    return {
        "most_frequent_letter": lambda item: {k: float(k == letters.most_common(1)[0][0]) for k in item.options},
        "option_prior": prior,
    }


def baselines(items: list[Item], training: Iterable[Item] = ()) -> dict[str, dict[str, Any]]:
    """Return the accuracy of each shortcut on ``items``.

    The form is ``{name: {"accuracy", "n", "by": {reasoning_type: accuracy}}}``.

    * ``chance``: 1 / number of options.
    * ``most_frequent_letter``: the commonest key letter of ``training``.
    * ``longest_option``: the option with most characters.
    * ``most_annotated``: the option with the highest ``popularity`` in the item.
    * ``matched_findings``: the option with the highest ``matches``, the findings that fit it. In prognosis that is 1
      for a total that is the number of criteria. Here and above, items without the field count at chance.
    * ``option_prior`` (disease prior): the option text that is the key in the highest share of the training items that
      show it. A text never seen counts 1 / number of options.

    Ties share. The two fitted shortcuts are left out if ``training`` has no multiple-choice item.
    """
    seen = [item for item in training if item.options]
    shortcuts: dict[str, Shortcut] = {
        "chance": lambda item: None,
        "longest_option": lambda item: {k: float(len(text)) for k, text in item.options.items()},
        "most_annotated": _counts("popularity"),
        "matched_findings": _counts("matches"),
        **(_fitted(seen) if seen else {}),
    }
    kinds = sorted({item.reasoning_type for item in items if item.reasoning_type})
    result = {}
    for name, shortcut in shortcuts.items():
        credits = np.array([credit(item, shortcut(item)) for item in items])
        by = {kind: float(credits[[item.reasoning_type == kind for item in items]].mean()) for kind in kinds}
        result[name] = {"accuracy": float(credits.mean()), "n": len(items), "by": by}
    return result
