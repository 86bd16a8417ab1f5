"""MinHash signatures of word sets, and the pairs that share a band of them, found by sorting.

Broder 1997, "On the resemblance and containment of documents"; banding as in Leskovec et al., "Mining of Massive
Datasets", 3.4.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gazal.common.streams import Stream, generator

CHUNK = 2000  # rows signed at a time, so that their words stay in the cache
NEAREST = FIRST = 24  # in a bucket every row meets this many before it and the bucket's first ones: never quadratic


def distinct(values: np.ndarray) -> np.ndarray:
    """Return the sorted distinct values; np.unique of NumPy 2.4 hashes them, ten times slower."""
    ordered = np.sort(values, kind="stable")
    return ordered[np.append(True, ordered[1:] != ordered[:-1])] if len(ordered) else ordered


class Ragged:
    """Rows of values behind each other: ``values[starts[i] : starts[i + 1]]`` is row i."""

    def __init__(self, values: np.ndarray, sizes: np.ndarray) -> None:
        self.values = values
        self.starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def sizes(self) -> np.ndarray:
        return np.diff(self.starts)

    def count(self, mask: np.ndarray) -> np.ndarray:
        """Return for each row the number of its values that ``mask`` selects."""
        sums = np.zeros(len(mask) + 1, np.int32)
        np.cumsum(mask, out=sums[1:])
        return np.diff(sums[self.starts])

    def rows(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ``(values, sizes)`` of the chosen rows, behind each other."""
        first, sizes = self.starts[chosen], self.starts[chosen + 1] - self.starts[chosen]
        ends = np.cumsum(sizes)
        return self.values[np.repeat(first - ends + sizes, sizes) + np.arange(ends[-1] if len(ends) else 0)], sizes


def keep(sets: Ragged, mask: np.ndarray) -> Ragged:
    """Return the sets with only the values of ``mask``; rows that would keep fewer than 3 stay whole."""
    mask = mask | np.repeat(sets.count(mask) < 3, sets.sizes)
    return Ragged(sets.values[mask], sets.count(mask))


def band_keys(sets: Ragged, rows: np.ndarray, bands: int, size: int, seed: int) -> Iterator[np.ndarray]:
    """Yield for each band uint64 keys of ``rows``, none of which may be empty.

    A key mixes the ``size`` minima of the row's set.
    """
    rng = generator(seed, Stream.MINHASH)
    a = rng.integers(0, 1 << 63, (bands, size), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    b = rng.integers(0, 1 << 63, (bands, size), dtype=np.uint64)
    for band in range(bands):
        keys = np.zeros(len(rows), np.uint64)
        for at in range(0, len(rows), CHUNK):
            values, sizes = sets.rows(rows[at : at + CHUNK])
            starts = np.cumsum(sizes) - sizes
            values = values.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
            part = keys[at : at + CHUNK]
            for i in range(size):
                part ^= np.minimum.reduceat((values * a[band, i] + b[band, i]) >> np.uint64(32), starts)
                part *= np.uint64(0xD6E8FEB86659FD93)
                part ^= part >> np.uint64(32)
        yield keys


def pairs(keys: np.ndarray, rows: np.ndarray, first_pairable: int) -> np.ndarray:
    """Return pairs i < j of ``rows`` (ascending) with equal keys and j at least ``first_pairable``: [n, 2] int64.

    In a bucket of more than ``NEAREST + FIRST`` rows, a row is paired with those just before it and the bucket's first.
    """
    order = np.argsort(keys, kind="stable")
    sorted_keys = keys[order]
    new = np.concatenate([[True], sorted_keys[1:] != sorted_keys[:-1]]) if len(keys) else np.zeros(0, bool)
    if new.all():
        return np.zeros((0, 2), np.int64)
    place = np.arange(len(keys))
    start = np.maximum.accumulate(np.where(new, place, 0))
    sharing = np.flatnonzero(place > start)  # everything but the first of a bucket
    found = []
    for lag in range(1, NEAREST + 1):
        at = sharing[sharing - lag >= start[sharing]]
        if not len(at):
            break
        found.append(np.stack([rows[order[at - lag]], rows[order[at]]], 1))
    for first in range(FIRST):
        at = sharing[start[sharing] + first < sharing - NEAREST]
        if not len(at):
            break
        found.append(np.stack([rows[order[start[at] + first]], rows[order[at]]], 1))
    both = np.concatenate(found)
    return both[both[:, 1] >= first_pairable]


def crossing(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the places i and j at which ``first[i]`` equals ``second[j]``, for each j at most the ``FIRST`` ones."""
    order = np.argsort(first, kind="stable")
    start = np.searchsorted(first[order], second, "left")
    counts = np.minimum(np.searchsorted(first[order], second, "right") - start, FIRST)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return order[np.repeat(start, counts) + within], np.repeat(np.arange(len(second)), counts)


def shared(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray], weight: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for pairs of sets (ragged, values below 2**32) the weights ``(in both, in the first, in the second)``.

    ``weight`` is a table whose length is a power of two, indexed by a value's lower bits. Without it each value weighs
    1.
    """

    def weights(values: np.ndarray) -> np.ndarray:
        return np.ones(len(values)) if weight is None else weight[values.astype(np.int64) & (len(weight) - 1)]

    n = len(first[1])
    keys, sums = [], []
    for values, sizes in (first, second):
        pair = np.repeat(np.arange(n, dtype=np.uint64), sizes)
        keys.append(pair << np.uint64(32) | values.astype(np.uint64))
        sums.append(np.bincount(pair.astype(np.int64), weights(values), n))
    merged = np.sort(np.concatenate(keys), kind="stable")
    twice = merged[1:][merged[1:] == merged[:-1]]
    both = np.bincount((twice >> np.uint64(32)).astype(np.int64), weights(twice & np.uint64(0xFFFFFFFF)), n)
    return both, sums[0], sums[1]
