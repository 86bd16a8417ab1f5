"""Which of several drawn questions to ask, so that no shortcut past the question leads to its key.

Left alone, some options are likelier keys than others: a finding that some disease shows very often, a
long dose text. Here each choice among ``WINDOW`` drawn candidates takes the one that most reduces what
has piled up so far: for each option text, how often it was the key beyond its fair share; likewise for the
longest and shortest option, the most and least annotated one, and the key's place in a natural order.
Hard and other items are kept in balance each on their own. All is counted in whole twelfths, so that
the same seed gives the same items on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np

UNIT = 12  # a key's credit: exact for two to four options and any tie among them
WINDOW = 24  # candidates of the wanted buckets for each item
SIZE = 3072  # candidates drawn at once
PLACES = 4
_GLOBAL = 4 + PLACES  # longest, shortest, most annotated, least annotated, places


class Batch(NamedTuple):
    """Candidate questions, a row each.

    ``texts``: (rows, 4) numbers of the option texts, -1 where there are fewer than four. ``right``: (rows,) column
    of the key. ``hard``: (rows,) bool. ``place``: (rows,) the key's place in the options' own order (0 to 3), or None.
    ``data``: the maker's own arrays, (rows, ...).
    """

    texts: np.ndarray
    right: np.ndarray
    hard: np.ndarray
    place: np.ndarray | None
    data: tuple[np.ndarray, ...]


class Maker(Protocol):
    """Draws and words the questions of one reasoning type.

    ``lengths`` and ``popularity`` (or None): for each option text. ``hard_share``: of the items, or None to
    take them as they come. ``distinct``: there are keys enough to ask each once.
    """

    lengths: np.ndarray
    popularity: np.ndarray | None
    hard_share: float | None
    distinct: bool

    def propose(self, rng: np.random.Generator, size: int) -> Batch:
        """About ``size`` fair candidates (fewer when draws fail)."""

    def key(self, batch: Batch, row: int) -> str:
        """What the candidate asks: two items of one key ask the same thing."""

    def build(self, batch: Batch, row: int, rng: np.random.Generator) -> dict[str, Any]:
        """The candidate as an item's fields."""


def credits(values: np.ndarray, right: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(rows,) twelfths by which choosing the highest of ``values`` (rows, 4), ties at random, beats chance."""
    best = values == values.max(1, keepdims=True)
    return UNIT // best.sum(1) * best[np.arange(len(right)), right] - UNIT // counts


def effects(maker: Maker, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """What choosing each candidate changes: (rows, 12) account numbers and (rows, 12) twelfths added to them."""
    rows, absent, total = len(batch.right), batch.texts < 0, len(maker.lengths)
    counts = (~absent).sum(1)
    side = batch.hard.astype(np.int64)[:, None]
    accounts = np.concatenate(
        [
            np.where(absent, 2 * total + 2 * _GLOBAL, batch.texts + side * total),  # the last account is nobody's
            2 * total + side * _GLOBAL + np.arange(_GLOBAL)[None],
        ],
        axis=1,
    )
    added = np.zeros(accounts.shape, np.int64)
    added[:, :4] = np.where(absent, 0, -(UNIT // counts)[:, None])
    added[np.arange(rows), batch.right] += UNIT
    for column, values in ((4, maker.lengths), (6, maker.popularity)):
        if values is not None:
            shown = values[batch.texts]
            added[:, column] = credits(np.where(absent, -1, shown), batch.right, counts)
            added[:, column + 1] = credits(np.where(absent, -(10**6), -shown), batch.right, counts)
    if batch.place is not None:
        added[:, 8:] = UNIT * (batch.place[:, None] == np.arange(PLACES)) - UNIT // PLACES
    return accounts, added


def choices(
    maker: Maker,
    state: np.ndarray,
    rng: np.random.Generator,
    wanted: Callable[[str], bool] | None = None,
    share: int = 100,
    distinct: bool = False,
) -> Iterator[tuple[Batch, int]]:
    """Endless (batch, row) of chosen candidates; ``state``, the accounts, is kept up to date in place.

    ``wanted`` (key -> bool, None: all) lets about ``share`` % of the candidates pass, so as many more are drawn.
    With ``distinct`` no key comes twice while a window holds a new one.
    """
    window = WINDOW * 100 // max(share, 1)
    other = 1 << 50  # more than any cost: an item that is not as hard as wanted comes last
    once, seen = distinct and maker.distinct, set()
    while True:
        batch = maker.propose(rng, max(SIZE, 2 * window))
        accounts, added = effects(maker, batch)
        for start in range(0, len(batch.right) - window + 1, window):
            rows = slice(start, start + window)
            cost = (state[accounts[rows]] * added[rows]).sum(1)
            if maker.hard_share is not None:
                cost += (batch.hard[rows] != (rng.random() < maker.hard_share)) * other
            row = start + int(cost.argmin())
            if wanted is not None or once:
                keys = (
                    (start + number, maker.key(batch, start + number))
                    for number in cost.argsort(kind="stable").tolist()
                )
                row = _first(((row, key) for row, key in keys if wanted is None or wanted(key)), seen)
                if row is not None and once:
                    seen.add(maker.key(batch, row))
            if row is not None:
                state[accounts[row]] += added[row]
                yield batch, row


def _first(rows: Iterator[tuple[int, str]], seen: set[str]) -> int | None:
    """The first row whose key is new, else the first row, else None."""
    spare = None
    for row, key in rows:
        if key not in seen:
            return row
        spare = row if spare is None else spare
    return spare


def warm_state(maker: Maker) -> np.ndarray:
    """The accounts' mean over the last three quarters of a long choosing: begun with it, no account drifts either way."""
    items = max(2000, 30 * len(maker.lengths))
    state = np.zeros(2 * len(maker.lengths) + 2 * _GLOBAL + 1, np.int64)
    total = np.zeros_like(state)
    for number, _ in enumerate(islice(choices(maker, state, np.random.default_rng(0)), items)):
        if number >= items // 4:
            total += state
    return np.rint(total / (items - items // 4)).astype(np.int64)
