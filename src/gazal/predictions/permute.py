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
    rf"\W*(?:(?:both|only|options?|all)\s+)*(?:{_LIST}(?:$|(?:both|only|are|is|true|false|correct)\b.*)|[A-J] (?:is|are) (?:true|false|correct|right|wrong)\b.*)",
    re.I | re.S,
)


def names_letters(item: Item) -> bool:
    """Whether an option speaks of others by their letters (``A and C``): in another order it would say something else."""
    return any(_OF_LETTERS.fullmatch(text) for text in item.options.values())


def turned(item: Item) -> tuple[str, int, list[str]] | None:
    """Of a reordered item the original's id, the number of the order and the original letters in it; None of any other, also
    where it has a field ``order`` of its own."""
    order, (name, _, number) = getattr(item, "order", None), item.id.rpartition("#")
    if not isinstance(order, list) or not name or not number.isdecimal():
        return None
    return (name, int(number), order) if sorted(map(str, order)) == list(item.options) else None


def origin(item: Item) -> str:
    """The id of the item that a reordered one comes from; any other's own."""
    found = turned(item)
    return found[0] if found else item.id


def orders(item: Item, count: int, seed: int) -> Iterator[list[str]]:
    """``count`` orders of the option letters, each different from the original and from each other.

    They depend on the item's id and options, ``count`` only says where they end. ``All of the above`` and its like keep
    their place. Where there are fewer orders (n! - 1 of n options that move), they come again, and an item of one
    option that moves has its original order alone.
    """
    free = [letter for letter, text in item.options.items() if not _OF_PLACE.search(text)]
    drawn = random.Random(
        int.from_bytes(hashlib.sha256(f"{seed}\n{item.id}\n{len(item.options)}".encode()).digest()[:8])
    )
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
    """The item with its options in ``order`` (original letters), as ``<id>#<number>``; the key and its text follow.

    The extra field ``order`` holds the order. What speaks of letters elsewhere (``reasoning``, extra fields) is left out.
    """
    if sorted(order) != list(item.options):
        raise GazalError(f"item {item.id}: {list(order)} is no order of its options")
    kept = item.model_dump(include={"question", "context", "reasoning_type", "subject", "source"})
    return Item.model_validate(
        {
            **kept,
            "id": f"{item.id}#{number}",
            "options": dict(zip(item.options, (item.options[letter] for letter in order), strict=True)),
            "answer_idx": list(item.options)[list(order).index(item.answer_idx)],
            "answer": item.options[item.answer_idx] if item.answer else None,
            "order": list(order),
        }
    )


def permuted(
    items: Sequence[Item], count: int, seed: int, benchmark: str, say: Callable[[str], None] = print
) -> list[Item]:
    """``count`` reordered items of each item, in turn; none of an item that :func:`names_letters` (how many, it says)."""
    asked = [item for item in items if not names_letters(item)]
    if len(asked) < len(items):
        say(
            f"{benchmark}: {len(items) - len(asked)} of {len(items)} items are not asked in other orders: an option names others by their letters"
        )
    return [reorder(item, order, number) for item in asked for number, order in enumerate(orders(item, count, seed), 1)]
