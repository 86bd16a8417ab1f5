"""Rows that ask the same: candidate pairs by MinHash, each judged on its words, numbers, lists and options."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from gazal.curation.digest import WORDS, Digest
from gazal.curation.minhash import Ragged, band_keys, crossing, distinct, keep, pairs, shared
from gazal.curation.text import FUNCTION
from gazal.recipe.data import CurationSection

Compared = Literal["stem", "options", "stem+options", "context", "pmid"]
LIST_WORDS = 60  # in longer stems a "a; b; c" list is a small part
LONG_WORDS = 20  # in shorter stems a number may be what is asked about
TABLE = 1 << 20  # slots of the word-frequency table, by the lower bits of a word's hash
PAIRS = 20_000  # judged at a time
NONE, NEAR, EXACT = 0, 1, 2


class Found(NamedTuple):
    """Judged pairs of rows ``i < j``: arrays of one length."""

    i: np.ndarray
    j: np.ndarray
    kind: np.ndarray
    field: np.ndarray  # index into FIELDS
    score: np.ndarray


FIELDS: tuple[Compared, ...] = ("stem", "options", "stem+options", "context", "pmid")


class Corpus:
    """Digests of many rows, with the weights of their words; the first ``n_tests`` rows are test items.

    The list of digests is emptied, so that no column is held twice for long.
    """

    def __init__(self, digests: list[Digest], settings: CurationSection, n_tests: int = 0) -> None:
        parts = {name: [getattr(part, name) for part in digests] for name in Digest._fields}
        digests.clear()

        def column(name: str) -> np.ndarray:
            return np.concatenate(parts.pop(name))

        self.settings, self.n_tests = settings, n_tests
        self.stem, self.numbers, self.polarity, self.listed = map(column, ("stem", "numbers", "polarity", "listed"))
        self.n_listed, self.n_words, self.context, self.pmid = map(column, ("n_listed", "n_words", "context", "pmid"))
        self.asks, self.ordered, self.option_numbers = map(column, ("asks", "ordered", "option_numbers"))
        self.squeezed, self.option_set, computed = map(column, ("squeezed", "option_set", "computed"))
        self.words = Ragged(column("word"), column("word_sizes"))
        self.options = Ragged((column("option") >> np.uint64(32)).astype(np.uint32), column("option_sizes"))
        self.option_words = Ragged(column("option_word"), column("option_word_sizes"))
        n = len(self.stem)
        counts = np.bincount(self.words.values & (TABLE - 1), minlength=TABLE)
        function = np.array([WORDS[word] >> 32 for word in FUNCTION]) & (TABLE - 1)
        # Pseudo-counts: in a handful of rows no word is much rarer than another.
        self.weight = np.log((n + 3000) / (counts + 30)).astype(np.float32)
        self.weight[function] = 0.5
        frequent = counts > max(50, settings.frequent_share * n)
        frequent[function] = True
        specific = ~frequent[self.words.values & (TABLE - 1)]
        self.signed = keep(self.words, specific)
        self.specific = self.words.count(specific)
        # A list of two is a pair of diagnoses to tell apart: the findings are then among the options.
        self.short = (
            (self.n_words <= settings.short_stem_words)
            | (self.specific <= 1)
            | ((self.n_listed == 2) & (self.n_words <= LIST_WORDS))
        )
        # With its options, such a stem of a test gives the answer away whatever its numbers are.
        self.telling = ~self.short & (self.n_words >= LONG_WORDS) & (self.option_set > 0) & ~computed
        self.telling &= self.specific >= settings.long_stem_words

    def __len__(self) -> int:
        return len(self.stem)

    def candidates(self) -> np.ndarray:
        """Return candidate pairs, [n, 2] int64: i < j, with j no test item if there are any.

        A pair has equal stems, or equal lists and equal numbers, or equal numbers and a band of the MinHash signature.
        A test item and a training item may share all options. If both are telling, a band is enough.
        """
        rows = np.flatnonzero((self.n_words > 0) & ~self.short)
        chosen = np.flatnonzero((self.n_words > 0) & (self.option_set > 0))
        lists = np.flatnonzero(self.n_listed > 2)
        same = [
            pairs(self.stem[rows], rows, self.n_tests),
            pairs(self.squeezed[rows], rows, self.n_tests),
            pairs(self.squeezed[chosen] ^ self.option_set[chosen], chosen, self.n_tests),
            pairs(self.listed[lists] ^ self.numbers[lists], lists, self.n_tests),
        ]
        found = [*(pair[:, 0] << 32 | pair[:, 1] for pair in same), self._same_options()]
        found.append(self._bands(self.signed, np.flatnonzero(self.signed.sizes), 0))
        # Short stems: the words of stem and options together.
        rows = np.flatnonzero((self.options.sizes > 0) & (self.n_words <= 20))
        together, sizes = self.words.rows(rows), self.option_words.rows(rows)
        row = np.concatenate([np.repeat(np.arange(len(rows)), together[1]), np.repeat(np.arange(len(rows)), sizes[1])])
        unique = distinct(row << 32 | np.concatenate([together[0], sizes[0]]).astype(np.int64))
        both = Ragged((unique & 0xFFFFFFFF).astype(np.uint32), np.bincount(unique >> 32, minlength=len(rows)))
        if len(rows):
            found.append(self._bands(both, np.flatnonzero(both.sizes), 1, rows))
        together = distinct(np.concatenate(found))
        return np.stack([together >> 32, together & 0xFFFFFFFF], 1)

    def _bands(self, sets: Ragged, filled: np.ndarray, seed: int, rows: np.ndarray | None = None) -> np.ndarray:
        """Return the pairs as i << 32 | j, ascending; the ``filled`` sets are those of ``rows`` (None: of all)."""
        named = filled if rows is None else rows[filled]
        merged = np.zeros(0, np.int64)
        for keys in band_keys(sets, filled, self.settings.bands, self.settings.band_rows, seed):
            pair = pairs(keys ^ self.numbers[named], named, self.n_tests)
            told = self._crossing(keys[self.telling[named]], named[self.telling[named]])
            merged = distinct(np.concatenate([merged, pair[:, 0] << 32 | pair[:, 1], told]))
        return merged

    def _same_options(self) -> np.ndarray:
        """Return test and training items whose options are all the same, as i << 32 | j."""
        rows = np.flatnonzero((self.option_set > 0) & (self.n_words > 0))
        return self._crossing(self.option_set[rows], rows)

    def _crossing(self, keys: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return test and training items of ``rows`` with equal keys, as i << 32 | j; a generator's tests are left out."""
        of_test = rows < self.n_tests  # a generator's items say what they ask; their wording is all template
        tests, train = np.flatnonzero(of_test & (self.asks[rows] == 0)), np.flatnonzero(~of_test)
        i, j = crossing(keys[tests], keys[train])
        return rows[tests[i]] << 32 | rows[train[j]]

    def judge(self, pair: np.ndarray) -> Found:
        """Return kind, field and score of candidate pairs, without those that are no duplicates."""
        kept = [self._judge(part) for part in np.array_split(pair, range(PAIRS, len(pair), PAIRS))]
        return Found(*(np.concatenate(parts) for parts in zip(*kept, strict=True)))

    def _judge(self, pair: np.ndarray) -> Found:
        def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
            return np.divide(part, whole, out=np.zeros(len(pair)), where=whole > 0)

        s, i, j = self.settings, pair[:, 0], pair[:, 1]
        short = self.short[i] | self.short[j]
        both, first, second = shared(self.words.rows(i), self.words.rows(j), self.weight)
        union = first + second - both
        similar = np.divide(both, union, out=np.ones(len(pair)), where=union > 0)
        common, n_first, n_second = shared(self.options.rows(i), self.options.rows(j))
        smaller = np.minimum(n_first, n_second)
        with_options = smaller >= 2
        same_set = with_options & (common == smaller)
        # Options are often reworded: as much of the smaller set's words as of its options counts.
        said, by_first, by_second = shared(self.option_words.rows(i), self.option_words.rows(j), self.weight)
        fewer = np.minimum(by_first, by_second)
        pair_of_two = (self.n_listed[i] == 2) | (self.n_listed[j] == 2)
        said[(self.option_numbers[i] != self.option_numbers[j]) | pair_of_two & short] = 0
        overlap = np.maximum(ratio(common, smaller), ratio(said, fewer))
        identical, same_letters = self.stem[i] == self.stem[j], self.squeezed[i] == self.squeezed[j]
        other_context = (self.context[i] != self.context[j]) & (self.context[i] > 0) & (self.context[j] > 0)
        lists = np.minimum(self.n_listed[i], self.n_listed[j]) > 1
        lists &= np.minimum(self.n_words[i], self.n_words[j]) <= LIST_WORDS
        same_list = lists & (self.listed[i] == self.listed[j])
        same_numbers = (self.numbers[i] == self.numbers[j]) & (same_list | (self.ordered[i] == self.ordered[j]))
        alike = (self.polarity[i] == self.polarity[j]) & ~(lists & ~same_list) & ~other_context
        near = same_numbers & alike
        specific = np.minimum(self.specific[i], self.specific[j])
        # "All are true except"
        unspecific = (first < 0.5 * self.words.sizes[i] + 0.01) & (second < 0.5 * self.words.sizes[j] + 0.01)
        same_options = with_options & (overlap >= np.where(short, s.same_options_short, s.same_options))
        by_options = near & same_options & ((similar >= s.near_stem_same_options) | unspecific)
        # Without options in common a stem must say much, and twice as much if the options are others.
        enough = specific >= s.long_stem_words * np.where(with_options & (overlap < s.same_options), 2, 1)
        by_stem = near & ~short & (similar >= s.near_stem) & enough
        most_words = both >= s.near_stem_same_options * np.minimum(first, second)
        by_list = near & same_list & (self.n_listed[i] > 2) & most_words
        # Against tests: other numbers do not hide the answer to a long question with the same options, and of a
        # question with all the same options fewer words are enough.
        against = (i < self.n_tests) & (self.asks[i] == 0)
        told = alike & against & self.telling[i] & self.telling[j] & (overlap >= s.same_options_short)
        by_options |= told & (similar >= s.near_stem_same_options)
        whole_set = against & (self.option_set[i] == self.option_set[j]) & (smaller >= 3)
        by_options |= whole_set & near & (similar >= s.near_stem_all_options)
        whole = np.where(short, same_set & ~other_context, True) & (self.n_words[i] > 0)
        exact = identical & whole
        kind = np.where(exact, EXACT, np.where(by_options | by_stem | by_list | (same_letters & whole), NEAR, NONE))
        field = np.where(same_set | (by_options & ~exact), FIELDS.index("stem+options"), FIELDS.index("stem"))
        score = np.where(exact, 1.0, similar)
        said = (self.asks[i] > 0) & (self.asks[j] > 0) & ((self.asks[i] ^ self.asks[j]) & np.uint64(1) == 0)
        chosen = (kind > NONE) & ~(said & (self.asks[i] != self.asks[j]))  # a generator knows what its items ask
        return Found(i[chosen], j[chosen], kind[chosen], field[chosen], score[chosen])
