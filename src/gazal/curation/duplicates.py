"""Exact and near duplicates inside training data and against test sets: like is compared with like.

Stems are compared with stems, option sets with option sets, a test item's context with whole training texts, and
PMIDs with PMIDs. Candidates come from MinHash LSH. Each is then judged on the words themselves, weighted by how rare
they are, so that a template's words weigh next to nothing. Other numbers or other listed elements make another
question, whatever the similarity. Separators of numbers do not count: 99.5 is 995. There is one exception, against
test sets only. A long stem with the same words and options gives the answer away, also if some of its numbers differ;
not so if the stem is short or the options are numbers. And a stem whose options are all those of a test item needs
fewer words in common, with the same numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from gazal.curation.compare import EXACT, FIELDS, NEAR, Compared, Corpus, Found
from gazal.curation.digest import Index, build_index, digest, digest_files
from gazal.curation.reading import batches, parse, pick
from gazal.curation.text import Question, asked, words
from gazal.recipe.data import CurationSection

CUT = 300  # characters of a text that a match shows
WHOLE_STEM_WORDS = 40  # a test stem of so many words is looked up in whole training texts


class Match(NamedTuple):
    """A training item (0-based item number ``row`` of file ``file``) and what it duplicates."""

    file: int
    row: int
    id: str
    kind: Literal["exact", "near"]
    field: Compared
    against: str  # "train" or the test set's name
    match_id: str
    score: float
    text: str
    match_text: str


def find_duplicates(
    train: Sequence[Path],
    tests: Mapping[str, Path],
    settings: CurationSection,
    skip: Sequence[np.ndarray] | None = None,
    say: Callable[[str], None] = print,
    processes: int = 2,
) -> list[Match]:
    """Return the training items that duplicate a test item or an earlier kept training item.

    There is one match for each test set, the best, or else one with a training item. ``skip[f]`` holds item numbers of
    file f that take no part. Texts are streamed: all are read for the digest, and those that match again. The result
    does not depend on ``processes``. Raises GazalError naming file and row.
    """
    began = time.monotonic()
    asked_tests, set_of = read_tests(tests)
    index = _index(asked_tests, settings)
    n_tests = len(asked_tests)
    left_out = [np.zeros(0, np.int64)] * len(train) if skip is None else [np.asarray(rows, np.int64) for rows in skip]

    def take(file: int, first: int, stop: int) -> np.ndarray | None:
        gone = left_out[file][(left_out[file] >= first) & (left_out[file] < stop)]
        if not len(gone):
            return None
        mask = np.ones(stop - first, bool)
        mask[gone - first] = False
        return mask

    digests, files, rows, hits, shares = [digest(asked_tests)], [], [], [], []
    n, told = n_tests, began
    for file, taken, part in digest_files(train, take, index, processes):
        digests.append(part._replace(hit=part.hit[:0], share=part.share[:0]))
        files.append(np.full(len(taken), file, np.int32))
        rows.append(taken)
        hits.append(part.hit + [n, 0])  # noqa: RUF005 - an array: numpy adds
        shares.append(part.share)
        n += len(taken)
        if time.monotonic() - told > 10:
            told = time.monotonic()
            say(f"read {n - n_tests} training items ({told - began:.0f} s)")
    corpus = Corpus(digests, settings, n_tests)
    file_of, row_of = (np.concatenate(parts) if parts else np.zeros(0, np.int64) for parts in (files, rows))
    read = time.monotonic()
    pair = corpus.candidates()
    paired = time.monotonic()
    found = _join([corpus.judge(pair), _from_hits(hits, shares, n_tests), _same_pmid(corpus, n_tests)])
    chosen = _choose(found, n_tests, set_of, len(corpus))
    say(
        f"{n - n_tests} training items, {n_tests} test items: read in {read - began:.1f} s, "
        f"{len(pair)} candidate pairs in {paired - read:.1f} s, "
        f"{len(chosen.i)} matches in {time.monotonic() - paired:.1f} s"
    )
    return _show(chosen, train, asked_tests, set_of, list(tests), file_of, row_of, n_tests)


def read_tests(tests: Mapping[str, Path]) -> tuple[list[Question], np.ndarray]:
    """Return all test items, and for each the number of its set."""
    found = [[asked(row) for batch in batches(Path(path)) for row in parse(batch)] for path in tests.values()]
    return [row for rows in found for row in rows], np.repeat(np.arange(len(found)), [len(rows) for rows in found])


def _index(tests: Sequence[Question], settings: CurationSection) -> Index:
    """Return the index of the tests: contexts are owners 0 … n - 1, long stems n … 2n - 1."""
    contexts = ((i, row.context, settings.context_share, False) for i, row in enumerate(tests) if row.context)
    # A generator's own items say what they ask; their wording is all template.
    stems = (
        (len(tests) + i, row.stem, settings.stem_share, True)
        for i, row in enumerate(tests)
        if not row.asks and len(words(row.stem)) >= WHOLE_STEM_WORDS
    )
    return build_index([*contexts, *stems], settings.shingle_words)


def _join(parts: Iterable[Found]) -> Found:
    return Found(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _from_hits(hits: Sequence[np.ndarray], shares: Sequence[np.ndarray], n_tests: int) -> Found:
    hit = np.concatenate([np.zeros((0, 2), np.int64), *hits])
    share = np.concatenate([np.zeros(0, np.float32), *shares]).astype(float)
    is_stem = hit[:, 1] >= n_tests
    kind = np.where((share == 1) & ~is_stem, EXACT, NEAR)
    field = np.where(is_stem, FIELDS.index("stem"), FIELDS.index("context"))
    return Found(hit[:, 1] % max(n_tests, 1), hit[:, 0], kind, field, share)


def _same_pmid(corpus: Corpus, n_tests: int) -> Found:
    known = np.flatnonzero(corpus.pmid[:n_tests])
    order = known[np.argsort(corpus.pmid[known], kind="stable")]
    j = n_tests + np.flatnonzero(corpus.pmid[n_tests:])
    at = np.searchsorted(corpus.pmid[order], corpus.pmid[j])
    same = at < len(order)
    same[same] = corpus.pmid[order[at[same]]] == corpus.pmid[j[same]]
    n = int(same.sum())
    return Found(order[at[same]], j[same], np.full(n, EXACT), np.full(n, FIELDS.index("pmid")), np.ones(n))


def _choose(found: Found, n_tests: int, set_of: np.ndarray, n: int) -> Found:
    """Return the matches that remove something.

    Against tests these are the best of each set. An item without one is removed for one earlier training item that
    stays.
    """
    order = np.lexsort((found.field, found.i, -found.score, -found.kind, found.j))
    removed = np.zeros(n, bool)
    chosen: list[int] = []
    contaminated = np.unique(found.j[found.i < n_tests])
    removed[contaminated] = True
    seen: set[tuple[int, int]] = set()
    for k in order:
        i, j = int(found.i[k]), int(found.j[k])
        if i < n_tests:
            if (j, int(set_of[i])) not in seen:
                seen.add((j, int(set_of[i])))
                chosen.append(int(k))
        elif not removed[i] and not removed[j]:
            removed[j] = True
            chosen.append(int(k))
    return Found(*(column[chosen] for column in found))


def _show(
    chosen: Found,
    train: Sequence[Path],
    tests: Sequence[Question],
    set_of: np.ndarray,
    names: Sequence[str],
    file_of: np.ndarray,
    row_of: np.ndarray,
    n_tests: int,
) -> list[Match]:
    """Read the matched training items again, for their ids and texts, and return the matches."""
    wanted = np.unique(np.concatenate([chosen.j, chosen.i[chosen.i >= n_tests]])) - n_tests
    fields: dict[int, set[int]] = {}
    context: dict[int, int] = {}
    for i, j, field in zip(*(column.tolist() for column in (chosen.i, chosen.j, chosen.field)), strict=True):
        for row in (i, j):
            fields.setdefault(row, set()).add(field)
        if field == FIELDS.index("context"):
            context[j] = i
    texts: dict[tuple[int, int], str] = {}
    ids: dict[int, str] = {}
    for file, path in enumerate(train):
        here = wanted[file_of[wanted] == file] if len(wanted) else wanted
        rows = (row for batch in pick(Path(path), row_of[here]) for row in parse(batch))
        for k, row in zip(here, rows, strict=True):
            item, at = asked(row), int(k) + n_tests
            ids[at] = item.id
            for field in fields[at]:
                texts[at, field] = excerpt(item, FIELDS[field], tests[context[at]].context if at in context else "")

    def text(row: int, field: int) -> str:
        return excerpt(tests[row], FIELDS[field]) if row < n_tests else texts[row, field]

    matches = []
    for i, j, kind, field, score in zip(*(column.tolist() for column in chosen), strict=True):
        k = j - n_tests
        against, match_id = (names[set_of[i]], tests[i].id) if i < n_tests else ("train", ids[i])
        name = "exact" if kind == EXACT else "near"
        place, both = (int(file_of[k]), int(row_of[k]), ids[j]), (text(j, field), text(i, field))
        matches.append(Match(*place, name, FIELDS[field], against, match_id, round(score, 4), *both))
    return matches


def excerpt(item: Question, field: str, context: str = "") -> str:
    """Return the text that was compared, at most ``CUT`` characters.

    Of a body that is compared with a ``context`` this is the part from the context's beginning on.
    """
    if field == "pmid":
        return f"PMID {item.pmid}"
    if field == "stem":
        return item.stem[:CUT]
    if field == "context":
        if not context:
            return (item.context or item.body)[:CUT]
        body, spoken = item.body.casefold(), context.casefold().split()
        starts = (body.find(" ".join(spoken[k : k + 5])) for k in range(len(spoken) - 4))
        return item.body[max(0, next((at for at in starts if at >= 0), 0)) :][:CUT]
    return f"{item.stem} | {'; '.join(item.options)}"[:CUT]


def find_within(path: Path | Sequence[Path], settings: CurationSection) -> list[tuple[str, str, str, float]]:
    """Return duplicate pairs inside one test set: ``(first id, later id, kind, score)``.

    ``path`` is a file, or the files of the set's parts. A pair is exact if stem and option set are the same, whatever
    the order of the options; every other duplicate is near.
    """
    paths = [Path(path)] if isinstance(path, str | Path) else [Path(part) for part in path]
    rows = [asked(row) for part in paths for batch in batches(part) for row in parse(batch)]
    corpus = Corpus([digest(rows)], settings)
    found = corpus.judge(corpus.candidates())
    sets = [{tuple(words(text)) for text in row.options} for row in rows]
    pairs = []
    for i, j, kind, score in zip(found.i, found.j, found.kind, found.score, strict=True):
        exact = kind == EXACT and sets[i] == sets[j]
        pairs.append((rows[i].id, rows[j].id, "exact" if exact else "near", round(float(score), 4)))
    return pairs
