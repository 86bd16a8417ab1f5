"""Rows digested to numbers in a stream, by several processes: texts never stay in memory.

A word is the first 32 bits of its xxh3 hash. A set of words, options or numbers is sorted before it is hashed, so
order never matters.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from xxhash import xxh3_64_intdigest

from gazal.curation.minhash import distinct
from gazal.curation.reading import Batch, batches, count_items, parse
from gazal.curation.text import (
    POLARITY,
    VAGUE,
    Question,
    asked,
    computed,
    enumeration,
    is_number,
    normal,
    number,
    plain_words,
    squeezed,
    words,
)

SMALL = 24 << 20  # bytes of input below which starting processes costs more than it gains
POLAR_WORDS = 30  # in longer stems one word of polarity no longer makes another question


class Words(dict[str, int]):
    """Word to 64-bit hash, remembered; all is forgotten once too many words have been seen."""

    def __missing__(self, word: str) -> int:
        if len(self) > 400_000:
            self.clear()
        value = self[word] = xxh3_64_intdigest(word.encode(errors="replace"))
        return value


WORDS = Words()


class Digest(NamedTuple):
    """A batch of rows in numbers: one value a row, or (…_sizes, …) ragged. A hash of 0 means there is none."""

    stem: np.ndarray  # uint64, the words in order
    numbers: np.ndarray  # uint64, the multiset of numbers in the stem, without their points
    ordered: np.ndarray  # uint64, the numbers in order
    polarity: np.ndarray  # uint64, which of "not", "more", "left" and so on a short stem says
    listed: np.ndarray  # uint64, the elements of its "a; b; c" lists
    n_listed: np.ndarray  # uint16
    n_words: np.ndarray  # uint16
    context: np.ndarray  # uint64
    asks: np.ndarray  # uint64, a generator's key
    pmid: np.ndarray  # int64
    option_numbers: np.ndarray  # uint64, the set of numbers in the options, without their points
    squeezed: np.ndarray  # uint64, the stem's letters and digits
    option_set: np.ndarray  # uint64, all the options, if there are two or more
    computed: np.ndarray  # bool, whether the options are numbers
    word_sizes: np.ndarray  # uint16
    word: np.ndarray  # uint32, sorted set of the stem's words, a row after another
    option_sizes: np.ndarray  # uint8
    option: np.ndarray  # uint64, sorted set of the options that say something
    option_word_sizes: np.ndarray  # uint16
    option_word: np.ndarray  # uint32, sorted set of their words
    hit: np.ndarray  # int64 [n, 2]: row in the batch, owner in the index
    share: np.ndarray  # float32 [n], share of the owner's shingles that the row's body holds


# Of the values one a row.
KINDS = [*[np.uint64] * 5, *[np.uint16] * 2, *[np.uint64] * 2, np.int64, *[np.uint64] * 3, np.bool_]
SET_KINDS = ((np.uint16, np.uint32), (np.uint8, np.uint64), (np.uint16, np.uint32))  # of the sets: sizes, values
NO_HITS = np.zeros((0, 2), np.int64), np.zeros(0, np.float32)


class Index(NamedTuple):
    """Shingles of the test sets' contexts and long stems, looked up in every training text.

    An ``owner`` is a context or a long stem (see ``gazal.curation.duplicates``).
    """

    size: int
    key: np.ndarray  # uint64, sorted; a shingle of two owners stands twice
    owner: np.ndarray  # int32
    total: np.ndarray  # int32, by owner
    threshold: np.ndarray  # float32, by owner
    sieve: np.ndarray  # bool [2**22], by the upper bits of a key
    numbers: dict[int, set[int]]  # by owner, its numbers, each with the word before and after: all must be in the body


def hashed(parts: Iterable[Any]) -> int:
    """Return the hash of a sequence of texts or numbers, 0 of an empty one."""
    joined = "\x1f".join(map(str, parts))
    return xxh3_64_intdigest(joined.encode(errors="replace")) if joined else 0


def shingles(tokens: np.ndarray, size: int) -> np.ndarray:
    """Return hashes of the ``size``-word windows of uint64 ``tokens``: [max(0, n - size + 1)] uint64."""
    n = max(0, len(tokens) - size + 1)
    mixed = np.zeros(n, np.uint64)
    for place in range(size):
        mixed = (mixed ^ tokens[place : place + n]) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return mixed


def build_index(texts: Iterable[tuple[int, str, float, bool]], size: int) -> Index:
    """Return the index of ``(owner, text, threshold, whether its numbers must be there)``.

    Texts with fewer than 8 shingles are left out.
    """
    keys, owners, thresholds, numbers = [], [], {}, {}
    for owner, text, threshold, strict in texts:
        spoken = plain_words(text)
        tokens = _tokens(spoken)
        unique = distinct(shingles(tokens, size))
        if len(unique) >= 8:
            if strict:
                around = shingles(tokens, 3).tolist()
                numbers[owner] = {
                    around[min(max(at - 1, 0), len(around) - 1)] for at, word in enumerate(spoken) if is_number(word)
                }
            keys.append(unique)
            owners.append(np.full(len(unique), owner, np.int32))
            thresholds[owner] = threshold
    key = np.concatenate([np.zeros(0, np.uint64), *keys])
    owner = np.concatenate([np.zeros(0, np.int32), *owners])
    order = np.argsort(key, kind="stable")
    n = max(thresholds, default=-1) + 1
    sieve = np.zeros(1 << 22, bool)
    sieve[(key >> np.uint64(42)).astype(np.int64)] = True
    limits = np.full(n, 2.0, np.float32)
    limits[list(thresholds)] = list(thresholds.values())
    total = np.bincount(owner, minlength=n).astype(np.int32)
    return Index(size, key[order], owner[order], total, limits, sieve, numbers)


def _tokens(spoken: list[str]) -> np.ndarray:
    return np.fromiter(map(WORDS.__getitem__, spoken), np.uint64, len(spoken))


def _look_up(bodies: list[str], index: Index) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(hit, share)`` of a Digest: whose shingles are in which bodies."""
    if not len(index.key) or not bodies:
        return NO_HITS
    texts = [_tokens(plain_words(body)) for body in bodies]
    found = shingles(np.concatenate(texts), index.size)
    at = np.flatnonzero(index.sieve[(found >> np.uint64(42)).astype(np.int64)])
    ends = np.cumsum([len(text) for text in texts])
    row = np.searchsorted(ends, at, side="right")
    inside = at + index.size <= ends[row] if len(at) else np.zeros(0, bool)  # not across two bodies
    at, row = at[inside], row[inside]
    first, last = np.searchsorted(index.key, found[at], "left"), np.searchsorted(index.key, found[at], "right")
    counts = last - first
    if not counts.sum():
        return NO_HITS
    entry = np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
    seen = distinct(np.repeat(row, counts) * len(index.key) + entry)  # each shingle once a body
    owners = len(index.total)
    pairs, n = np.unique(seen // len(index.key) * owners + index.owner[seen % len(index.key)], return_counts=True)
    pair = np.stack([pairs // owners, pairs % owners], 1)
    share = (n / index.total[pair[:, 1]]).astype(np.float32)
    enough = share >= index.threshold[pair[:, 1]]
    for k in np.flatnonzero(enough):
        if needed := index.numbers.get(int(pair[k, 1])):
            enough[k] = needed.issubset(shingles(texts[pair[k, 0]], 3).tolist())
    return pair[enough], share[enough]


def _asks(said: str) -> int:
    """Return a hash whose last bit says if it is of a bucket, not of a key: only like is compared with like."""
    return hashed((said,)) & ~1 | said.startswith("bucket") if said else 0


def digest(rows: Iterable[Question], index: Index | None = None) -> Digest:
    """Return ``rows`` in numbers, and what of ``index`` their bodies hold."""
    values: list[tuple[int, ...]] = []
    ragged: tuple[list[list[int]], ...] = ([], [], [])
    bodies = []
    for row in rows:
        stem = words(row.stem)
        letters = squeezed(stem)
        numbers = [number(word).replace(".", "") for word in stem if is_number(word)]
        if numbers:
            stem = [number(word) if is_number(word) else word for word in stem]
        listed = enumeration(row.stem)
        polar = sorted({POLARITY[word] for word in stem if word in POLARITY}) if len(stem) <= POLAR_WORDS else []
        context = squeezed(words(row.context)) if row.context else ""
        spoken = [said for said in (words(text) for text in row.options) if " ".join(said) not in VAGUE]
        if not spoken and row.options and len({normal(text).strip() for text in row.options} - VAGUE) > 1:
            spoken = [[normal(text).strip()] for text in row.options]  # signs only, such as + and ++
        options = sorted({hashed((squeezed(said),)) for said in spoken})[:255]
        values.append(
            (
                hashed(stem),
                hashed(sorted(numbers)),
                hashed(numbers),
                hashed(polar),
                hashed("; ".join(elements) for elements in listed),
                sum(map(len, listed)),
                min(len(stem), 65535),
                hashed((context,)),
                _asks(row.asks),
                row.pmid,
                hashed(sorted({number(word).replace(".", "") for said in spoken for word in said if is_number(word)})),
                hashed((letters,)),
                hashed(options) if len(options) > 1 else 0,
                computed(spoken),
            )
        )
        ragged[0].append(sorted({WORDS[word.replace(".", "")] >> 32 for word in stem})[:65535])
        ragged[1].append(options)
        ragged[2].append(sorted({WORDS[word] >> 32 for said in spoken for word in said})[:65535])
        bodies.append(row.body)
    columns = list(zip(*values, strict=True)) if values else [()] * len(KINDS)
    arrays = [np.array(column, kind) for column, kind in zip(columns, KINDS, strict=True)]
    for sets, (size, kind) in zip(ragged, SET_KINDS, strict=True):
        arrays += [np.array(list(map(len, sets)), size), np.array(list(chain.from_iterable(sets)), kind)]
    hit, share = _look_up(bodies, index) if index else NO_HITS
    return Digest(*arrays, hit, share)


_INDEX: Index | None = None


def _start(index: Index | None) -> None:
    global _INDEX
    _INDEX = index


def _digest_batch(batch: Batch, mask: np.ndarray | None) -> tuple[np.ndarray, Digest]:
    rows = parse(batch)
    taken = np.arange(len(rows)) if mask is None else np.flatnonzero(mask)
    return batch.item + taken, digest((asked(rows[i]) for i in taken), _INDEX)


def digest_files(
    paths: Iterable[Path], take: Callable[[int, int, int], np.ndarray | None], index: Index | None, processes: int
) -> Iterator[tuple[int, np.ndarray, Digest]]:
    """Digest files in order and yield ``(file, item numbers, digest)`` for each batch.

    ``take(file, first, stop)`` returns which of these items to take (bool array, None for all). Processes are started
    only for more than ``SMALL`` bytes, and each has at most two batches under way. The result is the same whatever
    their number.
    """
    paths = list(paths)
    tasks = ((file, batch) for file, path in enumerate(paths) for batch in batches(path))

    def chosen(file: int, batch: Batch) -> np.ndarray | None:
        return take(file, batch.item, batch.item + count_items(batch))

    if processes < 2 or sum(path.stat().st_size for path in paths if path.is_file()) < SMALL:
        _start(index)
        for file, batch in tasks:
            yield file, *_digest_batch(batch, chosen(file, batch))
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _start, (index,)) as pool:
        under_way: deque[tuple[int, Future[tuple[np.ndarray, Digest]]]] = deque()
        for file, batch in tasks:
            under_way.append((file, pool.submit(_digest_batch, batch, chosen(file, batch))))
            if len(under_way) > 2 * processes:
                file, future = under_way.popleft()
                yield file, *future.result()
        for file, future in under_way:
            yield file, *future.result()
