"""Near-copies among texts as they come: word-shingle Jaccard, found by MinHash bands and then computed exactly."""

from __future__ import annotations

import zlib
from array import array

import numpy as np

from gazal.curation.text import words

# 42 bands of 3 rows: two texts of Jaccard 0.5 share a band with probability 0.996, of 0.05 with 0.005.
BANDS, ROWS = 42, 3
_PRIME = np.uint64((1 << 31) - 1)
_MIX = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)


class NearCopies:
    """Texts under labels; ``find`` returns the label of one that is nearer than ``jaccard``.

    A text of fewer words than a shingle is one shingle. A text takes about 5 KB. Each band has a table from the band's
    rows to the last text that has them, and each text keeps its predecessor in every band.
    """

    def __init__(self, shingle: int, jaccard: float) -> None:
        self.shingle, self.jaccard = shingle, jaccard
        rng = np.random.default_rng(7)
        self._a, self._b = (rng.integers(1, int(_PRIME), BANDS * ROWS, dtype=np.uint64)[:, None] for _ in range(2))
        self._texts: list[tuple[str, np.ndarray, array[int]]] = []
        self._bands: list[dict[int, int]] = [{} for _ in range(BANDS)]

    def _shingles(self, text: str) -> np.ndarray:
        found = words(text)
        grams = (" ".join(found[at : at + self.shingle]) for at in range(max(1, len(found) - self.shingle + 1)))
        return np.array(sorted({zlib.crc32(gram.encode("utf-8", "surrogatepass")) for gram in grams}), np.uint32)

    def _keys(self, shingles: np.ndarray) -> list[int]:
        hashed = (self._a * (shingles.astype(np.uint64) % _PRIME) + self._b) % _PRIME  # below 2^62: no overflow
        # Three rows as one number, which may wrap: a false candidate costs one comparison.
        return (hashed.min(axis=1).reshape(BANDS, ROWS) @ _MIX).tolist()

    def add(self, label: str, text: str) -> None:
        shingles = self._shingles(text)
        keys = self._keys(shingles)
        before = array("i", [table.get(key, -1) for table, key in zip(self._bands, keys, strict=True)])
        for table, key in zip(self._bands, keys, strict=True):
            table[key] = len(self._texts)
        self._texts.append((label, shingles, before))

    def find(self, text: str) -> str | None:
        """Return the label of the first text added of which ``text`` is a near-copy, or None."""
        shingles = self._shingles(text)
        places: set[int] = set()
        for band, (table, key) in enumerate(zip(self._bands, self._keys(shingles), strict=True)):
            place = table.get(key, -1)
            while place >= 0:
                places.add(place)
                place = self._texts[place][2][band]
        for place in sorted(places):
            label, other, _ = self._texts[place]
            shared = len(np.intersect1d(shingles, other, assume_unique=True))
            if shared >= self.jaccard * (len(shingles) + len(other) - shared):
                return label
        return None
