"""The choice among several drawn questions, so that no shortcut past the question leads to its key.

Without it some options are likelier keys than others: a finding that some disease shows very often, or a long dose.
Accounts record by how much each option text was the key more often than chance. Further accounts do so for the
longest, shortest, most and least annotated option, and for the key's place in the options' own order.
Of ``WINDOW`` candidates the one that brings the accounts nearest to zero is taken. Hard items and the others have
their own accounts. All counts are whole twelfths, so the same seed gives the same items on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np

UNIT = 12  # twelfths for a key: divisible by two, three and four options, and by any number of equals among them
WINDOW = 24  # candidates in the wanted buckets for each item
SIZE = 3072  # candidates drawn at once
PLACES = 4
_GLOBAL = 4 + PLACES  # accounts for longest, shortest, most annotated, least annotated, and each place


class Batch(NamedTuple):
    """Candidate questions, one per row.

    ``texts``: (rows, 4) numbers of the option texts, padded with -1 if there are fewer than four.
    ``right``: (rows,) the key's column. ``hard``: (rows,) bool. ``data``: the maker's own arrays, (rows, ...).
    ``place``: (rows,) the key's place, 0 to 3, in the options' own order; None if they have no such order.
    """

    texts: np.ndarray
    right: np.ndarray
    hard: np.ndarray
    place: np.ndarray | None
    data: tuple[np.ndarray, ...]


class Maker(Protocol):
    """The maker of one reasoning type's questions.

    ``lengths`` and ``popularity`` hold one number per option text; ``popularity`` may be None.
    ``hard_share`` is the wanted fraction of hard items, or None if any fraction will do.
    ``distinct`` says that there are enough keys to use each only once.
    """

    kind: str
    rich: bool
    lengths: np.ndarray
    popularity: np.ndarray | None
    hard_share: float | None
    distinct: bool

    def propose(self, rng: np.random.Generator, size: int) -> Batch:
        """Return about ``size`` fair candidates, fewer if draws fail."""

    def key(self, batch: Batch, row: int) -> str:
        """Return the candidate's key; questions with the same key ask the same thing."""

    def build(self, batch: Batch, row: int, rng: np.random.Generator) -> dict[str, Any]:
        """Return the candidate as an item's fields."""


def _credits(values: np.ndarray, right: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return (rows,) twelfths by which choosing the highest of ``values`` (rows, 4) beats chance.

    Of several equal highest values each is chosen with the same probability.
    """
    best = values == values.max(1, keepdims=True)
    return UNIT // best.sum(1) * best[np.arange(len(right)), right] - UNIT // counts


def _effects(maker: Maker, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows, 12) account numbers, and (rows, 12) twelfths that choosing each candidate adds to them."""
    rows, absent, total = len(batch.right), batch.texts < 0, len(maker.lengths)
    counts = (~absent).sum(1)
    side = batch.hard.astype(np.int64)[:, None]
    by_text = np.where(absent, 2 * (total + _GLOBAL), batch.texts + side * total)  # absent options use a spare account
    accounts = np.concatenate([by_text, 2 * total + side * _GLOBAL + np.arange(_GLOBAL)], axis=1)
    added = np.zeros(accounts.shape, np.int64)
    added[:, :4] = np.where(absent, 0, -(UNIT // counts)[:, None])
    added[np.arange(rows), batch.right] += UNIT
    for column, values in ((4, maker.lengths), (6, maker.popularity)):
        if values is not None:
            shown = values[batch.texts]
            added[:, column] = _credits(np.where(absent, -1, shown), batch.right, counts)
            added[:, column + 1] = _credits(np.where(absent, -(10**6), -shown), batch.right, counts)
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
    """Yield chosen candidates as (batch, row) without end, and update ``state``, the accounts, in place.

    ``wanted`` tells from a key if the candidate may be chosen; None lets all pass. ``share`` is the percentage that
    it lets pass: the window grows accordingly. With ``distinct`` no key repeats while a window holds a new one.
    """
    window = WINDOW * 100 // max(share, 1)
    last = 1 << 50  # more than any cost: a candidate of the wrong hardness is taken last
    once, seen = distinct and maker.distinct, set()
    while True:
        batch = maker.propose(rng, max(SIZE, 2 * window))
        accounts, added = _effects(maker, batch)
        for start in range(0, len(batch.right) - window + 1, window):
            rows = slice(start, start + window)
            cost = (state[accounts[rows]] * added[rows]).sum(1)
            if maker.hard_share is not None:
                cost += (batch.hard[rows] != (rng.random() < maker.hard_share)) * last
            row = start + int(cost.argmin())
            if wanted is not None or once:
                ranked = (start + cost.argsort(kind="stable")).tolist()
                keys = ((row, maker.key(batch, row)) for row in ranked)
                row = _first(((row, key) for row, key in keys if wanted is None or wanted(key)), seen)
                if row is None:
                    continue
                if once:
                    seen.add(maker.key(batch, row))
            state[accounts[row]] += added[row]
            yield batch, row


def _first(rows: Iterator[tuple[int, str]], seen: set[str]) -> int | None:
    """Return the first row whose key is new, else the first row; None if there is no row."""
    spare = None
    for row, key in rows:
        if key not in seen:
            return row
        spare = row if spare is None else spare
    return spare


def warm_state(maker: Maker) -> np.ndarray:
    """Return the accounts to start from: their mean over the last three quarters of a long run of choices.

    Started from these, no account drifts either way.
    """
    items = max(2000, 30 * len(maker.lengths))
    state = np.zeros(2 * len(maker.lengths) + 2 * _GLOBAL + 1, np.int64)
    total = np.zeros_like(state)
    for number, _ in enumerate(islice(choices(maker, state, np.random.default_rng(0)), items)):
        if number >= items // 4:
            total += state
    return np.rint(total / (items - items // 4)).astype(np.int64)
