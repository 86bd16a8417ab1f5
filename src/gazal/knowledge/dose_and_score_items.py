"""Questions about one patient: treatment (renal dose tiers) and prognosis (additive risk scores)."""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np

from gazal.knowledge.balance import Batch
from gazal.knowledge.forms import PLAIN, RICH
from gazal.knowledge.parts import close_item
from gazal.knowledge.renal import Drug
from gazal.knowledge.scores import Score, points_text, totals

NEAR = 5  # an item is hard if the clearance is less than so many units inside its tier's bound
MAX_CLEARANCE = 130
FEWEST, MOST = 2, 5  # criteria present
AGE_SHARE = 0.5  # probability that a rich item states the age, if the score has age criteria


def score_weights(scores: tuple[Score, ...]) -> np.ndarray:
    """Return (scores,) probabilities of drawing each score, in proportion to its number of criteria."""
    sizes = np.array([len(score.criteria) for score in scores], float)
    return sizes / sizes.sum()


def _total_text(total: float, label: str) -> str:
    return f"{points_text(total)} points" + (f", {label}" if label else "")


class Treatment:
    """The dose tiers of a drug, one of which holds the patient's clearance.

    ``hard``: the clearance is near a bound between two tiers.
    """

    kind = "treatment"
    hard_share = 0.5
    popularity = None
    distinct = False  # 23 drugs and 131 clearances give too few keys

    def __init__(self, drugs: tuple[Drug, ...], rich: bool) -> None:
        self.drugs, self.rich = drugs, rich
        self.forms = (RICH if rich else PLAIN)[self.kind]
        self.texts = [tier.dose for drug in drugs for tier in drug.tiers]
        self.lengths = np.array([len(text) for text in self.texts])
        self.table = np.full((len(drugs), 4), -1)
        self.low = np.zeros((len(drugs), 4), np.int64)
        self.high = np.full((len(drugs), 4), MAX_CLEARANCE)
        number = count()
        for row, drug in enumerate(drugs):
            for column, tier in enumerate(drug.tiers):
                self.table[row, column] = next(number)
                self.low[row, column] = tier.low
                self.high[row, column] = MAX_CLEARANCE if tier.high is None else tier.high

    def propose(self, rng: np.random.Generator, size: int) -> Batch:
        drug = rng.integers(len(self.drugs), size=size)
        texts = self.table[drug]
        right = (rng.random(size) * (texts >= 0).sum(1)).astype(
            np.int64
        )  # drawn first, so that no dose is a likelier key
        low, high = self.low[drug, right], self.high[drug, right]
        value = rng.integers(low, high + 1)
        hard = ((low > 0) & (value - low < NEAR)) | ((high < MAX_CLEARANCE) & (high - value < NEAR))
        return Batch(texts, right, hard, None, (drug, value))

    def key(self, batch: Batch, row: int) -> str:
        return f"treatment|{self.drugs[batch.data[0][row]].name}|{batch.data[1][row]}"

    def build(self, batch: Batch, row: int, rng: np.random.Generator) -> dict[str, Any]:
        drug, value = self.drugs[batch.data[0][row]], int(batch.data[1][row])
        tier = drug.tiers[batch.right[row]]
        age, sex = int(rng.integers(19, 95)), ("woman", "man")[int(rng.integers(2))]
        form = self.forms[int(rng.integers(len(self.forms)))]
        return close_item(
            self,
            batch,
            row,
            form.name,
            form.fill(age=age, sex=sex, metric=drug.metric, value=value, unit=drug.unit, drug=drug.name),
            [t.dose for t in drug.tiers],
            [f"range: {t.range}; {value}: {'inside' if t.contains(value) else 'outside'}" for t in drug.tiers],
            [f"range: {tier.range}"],
            f"inside: {tier.range}",
            rng,
            f"open-medicine, doi:{drug.doi}",
            "pharmacology",
            brief_by_option=False,
            extra={},
            per_option={},
        )


class Prognosis:
    """Four neighbouring totals of a score; ``hard``: the total is not the number of criteria present."""

    kind = "prognosis"
    hard_share = 0.6
    popularity = None
    distinct = True

    def __init__(self, scores: tuple[Score, ...], rich: bool) -> None:
        self.scores, self.rich = scores, rich
        self.forms = (RICH if rich else PLAIN)[self.kind]
        self.weights = score_weights(scores)
        numbers: dict[str, int] = {}
        self.orders, self.columns, self.points, self.labels = [], [], [], []
        for score in scores:
            table = totals(score)
            texts = [_total_text(total, label) for total, label in table.items()]
            # Points are counted in halves: every score gives whole or half points.
            self.orders.append(np.rint([2 * total for total in table]).astype(np.int64))
            self.points.append(np.rint([2 * c.points for c in score.criteria]).astype(np.int64))
            self.columns.append(np.array([numbers.setdefault(text, len(numbers)) for text in texts]))
            self.labels.append(list(table.items()))
        self.texts = list(numbers)
        self.lengths = np.array([len(text) for text in self.texts])
        self.ages = [np.array([c.ages is not None for c in score.criteria]) for score in scores]
        self.births = [np.array([c.name.startswith("Pregnancy") for c in score.criteria]) for score in scores]
        self.old = [np.array([c.ages is not None and c.ages[0] > 60 for c in score.criteria]) for score in scores]

    def propose(self, rng: np.random.Generator, size: int) -> Batch:
        parts = []
        for which, rows in enumerate(rng.multinomial(size, self.weights).tolist()):
            order, points = self.orders[which], self.points[which]
            chosen = rng.random((rows, len(points))).argsort(1)[:, :MOST]
            number = rng.integers(FEWEST, MOST + 1, rows)
            used = np.arange(chosen.shape[1]) < number[:, None]
            total = (points[chosen] * used).sum(1)
            place = rng.integers(4, size=rows)  # 0: the key is the lowest of the four totals
            first = np.searchsorted(order, total) - place
            ok = (first >= 0) & (first + 3 < len(order)) & (number <= len(points))
            ok &= (self.ages[which][chosen] & used).sum(1) <= 1
            ok &= ~((self.births[which][chosen] & used).any(1) & (self.old[which][chosen] & used).any(1))
            window = np.clip(first[:, None] + np.arange(4), 0, len(order) - 1)
            chosen = np.pad(chosen, ((0, 0), (0, MOST - chosen.shape[1])))
            hard, score = total != 2 * number, np.full(rows, which)
            columns = (self.columns[which][window], place, hard, score, chosen, number, window)
            parts.append([column[ok] for column in columns])
        mixed = rng.permutation(sum(len(part[0]) for part in parts))
        texts, place, hard, *data = (np.concatenate(column)[mixed] for column in zip(*parts, strict=True))
        return Batch(texts, place, hard, place, tuple(data))

    def key(self, batch: Batch, row: int) -> str:
        score = self.scores[batch.data[0][row]]
        fields = (score.criteria[i].field for i in batch.data[1][row, : batch.data[2][row]].tolist())
        return f"prognosis|{score.name}|" + "|".join(sorted(fields))

    def build(self, batch: Batch, row: int, rng: np.random.Generator) -> dict[str, Any]:
        which, number = int(batch.data[0][row]), int(batch.data[2][row])
        score, chosen = self.scores[which], batch.data[1][row, :number].tolist()
        form = self.forms[int(rng.integers(len(self.forms)))]
        values = [self.labels[which][i] for i in batch.data[3][row].tolist()]
        present, absent, years, extra = [score.criteria[i] for i in chosen], [], None, {}
        if self.rich:
            years = self._years(which, chosen, rng)
            others = [c for i, c in enumerate(score.criteria) if i not in chosen and (years is None or not c.ages)]
            absent = [others[i] for i in rng.permutation(len(others))[: int(rng.integers(3))].tolist()]
            extra = {"negatives": len(absent), "age_stated": years is not None}
        shown = [c for c in present if years is None or not c.ages]
        lines, total = [], 0.0
        for c in present:
            total += c.points
            by_age = f"age {years}: " if years is not None and c.ages else ""
            lines.append(f"{by_age}{c.name}: {points_text(c.points)}; sum: {points_text(total)}")
        if years is not None and len(shown) == len(present):
            lines.append(f"age {years}: no age criterion: 0; sum: {points_text(total)}")
        lines += [f"{c.name}: absent: 0; sum: {points_text(total)}" for c in absent]
        question = form.findings([c.name for c in shown], [c.name for c in absent], score=score.name, years=years)
        return close_item(
            self,
            batch,
            row,
            form.name,
            question,
            [_total_text(*value) for value in values],
            lines,
            [f"criteria: {number}"],
            f"total: {points_text(total)}",
            rng,
            f"open-medicine, doi:{score.doi}",
            "risk scores",
            by_option=False,
            brief_by_option=False,
            extra=extra,
            per_option={"matches": [int(v == number) for v, _ in values]},
        )

    def _years(self, which: int, chosen: list[int], rng: np.random.Generator) -> int | None:
        """Return an age in years that meets the chosen age criterion, or none of the score's if none is chosen.

        None: the question states no age.
        """
        criteria = self.scores[which].criteria
        ranges = [c.ages for c in criteria if c.ages]
        wanted = [criteria[i].ages for i in chosen if criteria[i].ages]
        if not ranges or rng.random() >= AGE_SHARE:
            return None
        top = 45 if self.births[which][chosen].any() else 94
        fit = [age for age in range(19, top + 1) if [r for r in ranges if r[0] <= age <= r[1]] == wanted]
        return fit[int(rng.integers(len(fit)))] if fit else None
