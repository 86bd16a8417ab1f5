"""The same items with their options in other orders: does the answer follow the text, or the letter?

Zheng et al. 2024, "Large Language Models Are Not Robust Multiple Choice Selectors" (arXiv 2309.03882); Pezeshkpour and
Hruschka 2024, "Large Language Models Sensitivity to The Order of Options" (arXiv 2308.11483).
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Callable, Iterator, Sequence

from gazal.common.errors import GazalError
from gazal.items.schema import Item

_OF_PLACE = re.compile(r"\b(?:above|below|preceding|following)\W*$|\b(?:the|all|none) (?:above|below)\b", re.I)
_LIST = r"[A-J]\b\W*(?:(?:[,&+/]|\band\b|\bor\b)\s*\W?[A-J]\b\W*)+"
_OF_LETTERS = re.compile(
    rf"\W*(?:(?:both|only|options?|all)\s+)*(?:{_LIST}(?:$|(?:both|only|are|is|true|false|correct)\b.*)"
    r"|[A-J] (?:is|are) (?:true|false|correct|right|wrong)\b.*)",
    re.I | re.S,
)


def names_letters(item: Item) -> bool:
    """Return whether an option names others by their letters (``A and C``), which another order would make false."""
    return any(_OF_LETTERS.fullmatch(text) for text in item.options.values())


def turned(item: Item) -> tuple[str, int, list[str]] | None:
    """Return a reordered item's original id, the number of its order, and the original letters in that order.

    Return None for any other item, also if it has a field ``order`` of its own.
    """
    order, (name, _, number) = getattr(item, "order", None), item.id.rpartition("#")
    if not isinstance(order, list) or not name or not number.isdecimal():
        return None
    return (name, int(number), order) if sorted(map(str, order)) == list(item.options) else None


def origin(item: Item) -> str:
    """Return the id of the item that a reordered one comes from; for any other item, its own id."""
    found = turned(item)
    return found[0] if found else item.id


def orders(item: Item, count: int, seed: int) -> Iterator[list[str]]:
    """Yield ``count`` orders of the option letters, each different from the original and from each other.

    They depend on the seed, the item's id and its options; a larger ``count`` only adds orders. ``All of the above``
    and its like keep their place. If there are too few orders (n! - 1 of n options that move), they come again. An item
    of which only one option could move keeps its original order.
    """
    free = [letter for letter, text in item.options.items() if not _OF_PLACE.search(text)]
    digest = hashlib.sha256(f"{seed}\n{item.id}\n{len(item.options)}".encode()).digest()
    drawn = random.Random(int.from_bytes(digest[:8]))
    seen, every = {tuple(free)}, math.factorial(len(free))
    for _ in range(count):
        if len(seen) == every > 1:
            seen = {tuple(free)}
        moved = tuple(free)
        while moved in seen and every > 1:
            moved = tuple(drawn.sample(free, len(free)))
        seen.add(moved)
        there = iter(moved)
        yield [next(there) if letter in free else letter for letter in item.options]


def reorder(item: Item, order: Sequence[str], number: int) -> Item:
    """Return the item with its options in ``order`` (original letters), as ``<id>#<number>``; the key follows.

    The extra field ``order`` holds the order. Fields that may name letters (``reasoning``, extra ones) are left out.
    Raises GazalError if ``order`` is none of the item's options.
    """
    if sorted(order) != list(item.options):
        raise GazalError(f"item {item.id}: {list(order)} is no order of its options")
    kept = item.model_dump(include={"question", "context", "reasoning_type", "subject", "source"})
    return Item.model_validate(
        {
            **kept,
            "id": f"{item.id}#{number}",
            "options": dict(zip(item.options, map(item.options.__getitem__, order), strict=True)),
            "answer_idx": list(item.options)[list(order).index(item.answer_idx)],
            "answer": item.options[item.answer_idx] if item.answer else None,
            "order": list(order),
        }
    )


def permuted(
    items: Sequence[Item], count: int, seed: int, benchmark: str, say: Callable[[str], None] = print
) -> list[Item]:
    """Return ``count`` reordered items of each item, in turn, but none of items that :func:`names_letters`.

    ``say`` is told how many those are.
    """
    kept = [item for item in items if not names_letters(item)]
    if len(kept) < len(items):
        left = f"{len(items) - len(kept)} of {len(items)} items"
        say(f"{benchmark}: {left} are not asked in other orders: an option names others by their letters")
    return [reorder(item, order, number) for item in kept for number, order in enumerate(orders(item, count, seed), 1)]
