"""Items of a set that repeat the question of an earlier one."""

from __future__ import annotations

import re
from collections.abc import Iterable

from gazal.curation.text import normal
from gazal.items.schema import Item

PUNCTUATION = re.compile(r"[\s.,;:!?'\"`´‘’“”„«»()\[\]{}…·•_/\\–—]+")  # signs that carry meaning (+ - < > = % ±) stay

Asking = tuple[str, tuple[str, ...], str]


def _plain(text: str) -> str:
    return PUNCTUATION.sub(" ", normal(text)).strip()


def asking(item: Item) -> Asking:
    """Return what an item asks: question, option texts in any order, and context.

    Case, accents, white space and punctuation are left out.
    """
    return (
        _plain(item.question),
        tuple(sorted(map(_plain, item.options.values()))),
        _plain("\n".join(item.context or ())),
    )


def repeats(items: Iterable[Item]) -> set[str]:
    """Return the ids of items that repeat an earlier item (exactly, after :func:`asking`), whatever their keys say.

    An accuracy without them counts each question once: MMLU-Pro has 95 such pairs in health and biology.
    """
    seen: set[Asking] = set()
    found: set[str] = set()
    for item in items:
        key = asking(item)
        if key in seen:
            found.add(item.id)
        seen.add(key)
    return found
