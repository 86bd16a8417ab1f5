"""Questions about diseases and findings: diagnosis and uncertainty."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from gazal.knowledge.balance import Batch
from gazal.knowledge.forms import PLAIN, RICH
from gazal.knowledge.hpo import Phenotypes, content_words
from gazal.knowledge.parts import GAINS, LEVEL_RULE, close_item, evidence, lay_line

N_FINDINGS = 4  # findings of a plain diagnosis item, and options of an uncertainty item
MARGIN = 5  # hundredths of a bit by which the key's gain exceeds the next highest
TRIES = 16  # draws of findings for each group of four diseases with its key
LAY_SHARE = 0.4  # probability that a lay term is tried in place of HPO's name


class Shown:
    """The texts that findings may be shown as: their HPO names, then the lay terms.

    ``owner``: (texts,) the finding of each text. ``variants``: (findings, 3) the texts of each, padded with -1.
    ``leaks``: (texts, diseases) bool, True if a lay term shares a word with the disease's name.
    """

    def __init__(self, pool: Phenotypes, rich: bool) -> None:
        lay = [(finding, text) for finding, texts in enumerate(pool.lay) for text in texts] if rich else []
        self.texts = [*pool.findings, *(text for _, text in lay)]
        self.owner = np.array([*range(len(pool.findings)), *(finding for finding, _ in lay)])
        self.variants = np.full((len(pool.findings), 3), -1)
        self.variants[:, 0] = np.arange(len(pool.findings))
        self.leaks = np.zeros((len(self.texts), len(pool.diseases)), bool)
        names = [content_words(disease) for disease in pool.diseases]
        for number, (finding, text) in enumerate(lay, len(pool.findings)):
            self.variants[finding, (self.variants[finding] >= 0).sum()] = number
            own = content_words(text)
            self.leaks[number] = [bool(own & words) for words in names]

    def choose(self, findings: np.ndarray, diseases: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return (rows, n) text numbers for ``findings`` (rows, n) in questions about ``diseases`` (rows, m).

        A lay term is chosen at random, unless it leaks a disease's name.
        """
        column = np.where(rng.random(findings.shape) < LAY_SHARE, rng.integers(1, 3, findings.shape), 0)
        found = self.variants[findings, column]
        unfair = (found < 0) | self.leaks[found[:, :, None], diseases[:, None]].any(2)
        return np.where(unfair, findings, found)


def _draw_weighted(weight: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return (rows, *shape) columns drawn with replacement by the whole weights ``weight`` (rows, n)."""
    rows, size = weight.shape
    running = weight.cumsum(1, dtype=np.int64)
    row = np.arange(rows).reshape(rows, *[1] * len(shape))
    base = row * (int(running[:, -1].max()) + 1)  # keeps the rows apart, so that one search serves all
    drawn = (rng.random((rows, *shape)) * running[:, -1].reshape(row.shape)).astype(np.int64)
    found = np.searchsorted((running + base.reshape(rows, 1)).ravel(), (drawn + base).ravel(), side="right")
    return found.reshape(drawn.shape) - row * size


class Diagnosis:
    """Four similar diseases, one of which has the highest summed level; ``hard``: others match as many findings."""

    kind = "diagnosis"
    distinct = True

    def __init__(self, pool: Phenotypes, rich: bool) -> None:
        self.pool, self.rich = pool, rich
        self.forms = (RICH if rich else PLAIN)[self.kind]
        self.hard_share = 0.75 if rich else 0.5
        near = enumerate(pool.neighbours)
        groups = {tuple(sorted((start, *three))) for start, all_near in near for three in combinations(all_near, 3)}
        table = np.array(sorted(groups)).reshape(-1, 4)
        fair = ~pool.conflict[table[:, :, None], table[:, None]][:, ~np.eye(4, dtype=bool)].any(1)
        self.groups = table[fair]
        self.lengths = np.array([len(name) for name in pool.diseases])
        self.popularity = pool.annotation_counts()
        self.shown = Shown(pool, rich)

    def propose(self, rng: np.random.Generator, size: int) -> Batch:
        size = size // 4 + 1  # each group gives about four candidates
        group = self.groups[rng.integers(len(self.groups), size=size)]
        right = rng.integers(4, size=size)  # drawn first, so that no disease is a likelier key
        rows = np.arange(size)
        levels = self.pool.levels[group]  # (size, 4, findings)
        usable = (levels >= 0).all(1)
        total, own = levels.sum(1, dtype=np.int32), levels[rows, right].astype(np.int32)
        n_present = rng.integers(3, 6, size) if self.rich else np.full(size, N_FINDINGS)
        n_absent = rng.choice(3, size, p=[0.4, 0.35, 0.25]) if self.rich else np.zeros(size, int)
        most = 7 if self.rich else N_FINDINGS
        present, absent = np.where(usable, total + own, 0), np.where(usable, total - own, 0)
        keep = (np.count_nonzero(present, axis=1) >= 5) & (absent.any(1))
        chosen = np.empty((size, TRIES, most), np.int64)
        chosen[:, :, : min(most, 5)] = _draw_weighted(present, (TRIES, min(most, 5)), rng)
        if self.rich:
            chosen[:, :, 5:] = _draw_weighted(absent, (TRIES, 2), rng)
        np.minimum(chosen, len(self.pool.findings) - 1, out=chosen)  # rows that are not kept may run over
        column = np.arange(most)
        sign = np.where(column < 5, column < n_present[:, None], -1 * (column - 5 < n_absent[:, None])).astype(np.int8)
        used = np.where(sign[:, None] != 0, chosen, -1 - column)
        ordered = np.sort(used, axis=2)
        distinct = (ordered[:, :, 1:] != ordered[:, :, :-1]).all(2)
        table = levels[rows[:, None, None], :, chosen]  # (size, tries, most, 4)
        sums = (table * sign[:, None, :, None]).sum(2)
        best = (sums >= sums[rows, :, right][:, :, None]).sum(2) == 1
        row, attempt = np.nonzero(distinct & best & keep[:, None])
        mixed = rng.permutation(len(row))  # else a window would be full of the same four diseases
        row, attempt = row[mixed], attempt[mixed]
        chosen, table, sums = (array[row, attempt] for array in (chosen, table, sums))
        sign, group, right = sign[row], group[row], right[row]
        matches = ((table > 0) * sign[:, :, None]).sum(1)
        hard = (matches >= np.take_along_axis(matches, right[:, None], 1)).sum(1) > 1
        ok = np.ones(len(row), bool)
        if self.rich:  # no finding used may be a kind of another one used
            used = sign != 0
            pairs = self.pool.related[chosen[:, :, None], chosen[:, None]] & used[:, :, None] & used[:, None]
            ok = pairs.sum((1, 2)) == used.sum(1)
        return Batch(group[ok], right[ok], hard[ok], None, (chosen[ok], sign[ok], table[ok], sums[ok], matches[ok]))

    def _findings(self, batch: Batch, row: int) -> tuple[list[int], list[int]]:
        """Return the numbers of the present and of the absent findings."""
        chosen, sign = batch.data[0][row], batch.data[1][row]
        return chosen[sign > 0].tolist(), chosen[sign < 0].tolist()

    def key(self, batch: Batch, row: int) -> str:
        names = self.pool.findings
        present, absent = self._findings(batch, row)
        return "diagnosis|" + "|".join([*sorted(names[f] for f in present), *sorted(f"not {names[f]}" for f in absent)])

    def build(self, batch: Batch, row: int, rng: np.random.Generator) -> dict[str, Any]:
        pool, (_, sign, table, sums, matches) = self.pool, (array[row] for array in batch.data)
        present, absent = self._findings(batch, row)
        group = batch.texts[row]
        names = [pool.diseases[i] for i in group.tolist()]
        findings, missing = [pool.findings[f] for f in present], [pool.findings[f] for f in absent]
        shown, extra = [*findings, *missing], {}
        form = self.forms[int(rng.integers(len(self.forms)))]
        if self.rich:
            texts = self.shown.choose(np.array([[*present, *absent]]), group[None], rng)[0].tolist()
            shown = [self.shown.texts[text] for text in texts]
            extra = {"lay_terms": sum(text >= len(pool.findings) for text in texts), "negatives": len(absent)}
        levels, gone = table[sign > 0].T.tolist(), table[sign < 0].T.tolist()
        totals = sums.tolist()
        return close_item(
            self,
            batch,
            row,
            form.name,
            form.findings(shown[: len(present)], shown[len(present) :], LEVEL_RULE),
            names,
            [evidence(name, findings, a, missing, b) for name, a, b in zip(names, levels, gone, strict=True)],
            [f"{name}: total: {value}" for name, value in zip(names, totals, strict=True)],
            f"highest total: {totals[int(batch.right[row])]}",
            rng,
            f"HPO {pool.release}",
            "rare disease",
            first=lay_line(shown, [*findings, *missing]),
            extra=extra,
            per_option={"popularity": self.popularity[group].tolist(), "matches": matches.tolist()},
        )


class Uncertainty:
    """Four findings, one of which separates two diseases best.

    All are ``hard``: several findings are reported in only one of the two diseases, or the key is reported in both.
    """

    kind = "uncertainty"
    distinct = True
    hard_share = None

    def __init__(self, pool: Phenotypes, rich: bool) -> None:
        self.pool, self.rich = pool, rich
        self.forms = (RICH if rich else PLAIN)[self.kind]
        self.shown = Shown(pool, rich)
        pairs = np.array([(first, second) for first, near in enumerate(pool.neighbours) for second in near])
        levels = pool.levels[pairs]
        usable = (levels >= 0).all(1) & (levels > 0).any(1)
        enough = usable.sum(1) >= N_FINDINGS
        self.pairs, usable = pairs[enough], usable[enough]
        self.counts = usable.sum(1)
        self.columns = np.nonzero(usable)[1]
        self.starts = np.concatenate([[0], self.counts.cumsum()[:-1]])
        self.gains = np.array([[GAINS[a, b] for b in range(4)] for a in range(4)])
        self.lengths = np.array([len(text) for text in self.shown.texts])
        self.popularity = (pool.levels > 0).sum(0)[self.shown.owner]

    def propose(self, rng: np.random.Generator, size: int) -> Batch:
        tries = size * 4
        number = rng.integers(len(self.pairs), size=tries)
        pair = self.pairs[number]
        drawn = (rng.random((tries, N_FINDINGS)) * self.counts[number][:, None]).astype(np.int64)
        chosen = self.columns[drawn + self.starts[number][:, None]]
        levels = self.pool.levels[pair[:, :, None], chosen[:, None]]  # (tries, 2, 4)
        gains = self.gains[levels[:, 0], levels[:, 1]]
        ordered, ranked = np.sort(chosen, axis=1), np.sort(gains, axis=1)
        right = gains.argmax(1)
        reported = (levels > 0).sum(1)
        hard = ((reported == 1).sum(1) > 1) | (reported[np.arange(tries), right] == 2)
        ok = (ordered[:, 1:] != ordered[:, :-1]).all(1) & (ranked[:, -1] >= ranked[:, -2] + MARGIN) & hard
        ok[np.flatnonzero(ok)[size:]] = False
        texts = self.shown.choose(chosen[ok], pair[ok], rng) if self.rich else chosen[ok]
        return Batch(texts, right[ok], hard[ok], None, (pair[ok], levels[ok], gains[ok], reported[ok]))

    def key(self, batch: Batch, row: int) -> str:
        names = [self.pool.diseases[i] for i in batch.data[0][row].tolist()]
        findings = [self.pool.findings[f] for f in self.shown.owner[batch.texts[row]].tolist()]
        return "uncertainty|" + "|".join([*sorted(names), *sorted(findings)])

    def build(self, batch: Batch, row: int, rng: np.random.Generator) -> dict[str, Any]:
        pool, (pair, levels, gains, reported) = self.pool, (array[row].tolist() for array in batch.data)
        texts = batch.texts[row]
        names = [pool.diseases[i] for i in pair]
        shown = [self.shown.texts[t] for t in texts.tolist()]
        findings = [pool.findings[f] for f in self.shown.owner[texts].tolist()]
        form = self.forms[int(rng.integers(len(self.forms)))]
        extra = {"lay_terms": int((texts >= len(pool.findings)).sum())} if self.rich else {}
        rows = zip(findings, *levels, gains, strict=True)
        return close_item(
            self,
            batch,
            row,
            form.name,
            form.fill(first=names[0], second=names[1], rule=LEVEL_RULE),
            shown,
            [f"{f}: {names[0]}: {a}; {names[1]}: {b}; gain: {g}" for f, a, b, g in rows],
            [f"{f}: gain: {g}" for f, g in zip(findings, gains, strict=True)],
            f"highest gain: {gains[int(batch.right[row])]}",
            rng,
            f"HPO {pool.release}",
            "rare disease",
            first=lay_line(shown, findings),
            extra=extra,
            per_option={"popularity": self.popularity[texts].tolist(), "matches": reported},
        )
