"""What the embedded base model reads: facts, and plain question-answer pairs without thinking.

Facts are stated freely (the test asks new cases about known facts), one by one or as numbered lists.
Questions come only from the buckets kept for the base, which no sft, grpo, dev or test item can be
in; a question about one option is answered with its evidence, one about given totals with the
highest, a whole one with its letter alone. Nothing here opens a think block.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gazal.common.streams import Stream, generator
from gazal.items.prompts import answer_text, question_text
from gazal.items.schema import LETTERS, Item
from gazal.items.types import REASONING_TYPES
from gazal.knowledge.dose_and_score_items import score_weights
from gazal.knowledge.generate import GAINS, evidence, stream
from gazal.knowledge.hpo import Phenotypes, load_phenotypes
from gazal.knowledge.renal import load_drugs
from gazal.knowledge.scores import load_scores, points_text


def chat(user: str, assistant: str, system: str = "") -> str:
    """One ChatML exchange as text."""
    head = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    return f"{head}<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n{assistant}<|im_end|>\n"


def _levels(pool: Phenotypes, disease: int, n: int, rng: np.random.Generator) -> list[int]:
    """``n`` findings for a statement: about 60 % reported ones, the rest from similar diseases."""
    row = pool.levels[disease]
    near = [*pool.neighbours[disease], disease]
    usable = row >= 0
    weight = np.where(row > 0, 1.0, 0.0) / max((row > 0).sum(), 1)
    confusable = (usable & (row == 0) & (pool.levels[near] > 0).any(0)).astype(float)
    weight = 0.6 * weight + 0.35 * confusable / max(confusable.sum(), 1) + 0.05 * usable / usable.sum()
    return [int(j) for j in rng.choice(len(row), n, replace=False, p=weight / weight.sum())]


class Corpus:
    """Endless documents of the base model's corpus; ``statement``, ``sub_question``, ``comparison`` and ``question`` draw one of each kind."""

    def __init__(self, n_diseases: int, pool_seed: int, buckets: range, system: str, seed: int) -> None:
        self.pool = load_phenotypes(n_diseases, pool_seed)
        self.drugs, self.scores = load_drugs(), load_scores()
        self.streams = {
            kind: stream(kind, [seed, 77], buckets, n_diseases, pool_seed, "plain") for kind in REASONING_TYPES
        }
        self.system = system
        self.rng = generator(seed, Stream.BASE_CORPUS)

    def item(self, kind: str) -> Item:
        """An item of the base's own buckets."""
        return Item.model_validate(next(self.streams[kind]))

    def statement(self) -> str:
        """A few facts, a line each; half of the time as a numbered or a numbered and lettered list."""
        lines, style = self._facts(), self.rng.random()
        if style < 0.5:
            return "\n".join(lines)
        first = int(self.rng.integers(1, 3))
        letters = self.rng.permutation(list(LETTERS[:4])) if style > 0.75 else None
        return "\n".join(
            f"Step {first + i}: {f'{letters[i % 4]}. ' if letters is not None else ''}{line}"
            for i, line in enumerate(lines)
        )

    def _facts(self) -> list[str]:
        rng, pool = self.rng, self.pool
        kind = rng.choice(6, p=[0.42, 0.22, 0.14, 0.08, 0.06, 0.08])
        if kind == 0:
            disease = int(rng.integers(len(pool.diseases)))
            lines = []
            for _ in range(3):
                disease = int(rng.choice([disease, *pool.neighbours[disease]])) if rng.random() < 0.4 else disease
                chosen = _levels(pool, disease, 4, rng)
                lines.append(
                    evidence(
                        pool.diseases[disease],
                        [pool.findings[j] for j in chosen],
                        pool.levels[disease, chosen].tolist(),
                    )
                )
            return lines
        if kind == 1:
            finding = int(rng.integers(len(pool.findings)))
            column = pool.levels[:, finding]
            having, usable = np.flatnonzero(column > 0), np.flatnonzero(column >= 0)
            chosen = {*rng.choice(having, min(6, len(having)), replace=False).tolist(), *rng.choice(usable, 6).tolist()}
            return [
                f"{pool.findings[finding]}: "
                + "; ".join(f"{pool.diseases[i]}: {column[i]}" for i in rng.permutation(list(chosen)))
            ]
        if kind == 2:
            first = int(rng.integers(len(pool.diseases)))
            second = (
                int(rng.choice(pool.neighbours[first]))
                if pool.neighbours[first]
                else int(rng.integers(len(pool.diseases)))
            )
            pair = pool.levels[[first, second]]
            usable = np.flatnonzero((pair >= 0).all(0) & (pair > 0).any(0))
            return [
                f"{pool.findings[j]}: {pool.diseases[first]}: {pair[0, j]}; {pool.diseases[second]}: {pair[1, j]}; gain: {GAINS[int(pair[0, j]), int(pair[1, j])]}"
                for j in rng.choice(usable, min(4, len(usable)), replace=False)
            ]
        if kind == 3:
            drug = self.drugs[int(rng.integers(len(self.drugs)))]
            return [
                f"{drug.name}, {drug.metric}: range: {drug.tiers[i].range}; dose: {drug.tiers[i].dose}"
                for i in rng.permutation(len(drug.tiers))
            ]
        if kind == 4:
            drug = self.drugs[int(rng.integers(len(self.drugs)))]
            value = int(rng.integers(0, 131))
            tiers = [drug.tiers[i] for i in rng.permutation(len(drug.tiers))]
            return [f"range: {t.range}; {value}: {'inside' if t.contains(value) else 'outside'}" for t in tiers]
        score = self.scores[int(rng.choice(len(self.scores), p=score_weights(self.scores)))]
        chosen = rng.permutation(len(score.criteria))[:6]
        return [
            f"{score.name}. "
            + "; ".join(f"{score.criteria[i].name}: {points_text(score.criteria[i].points)}" for i in chosen)
        ]

    def sub_question(self) -> str:
        """A plain question about one option or one patient, answered with the matching line of a trace."""
        kind = str(self.rng.choice(REASONING_TYPES, p=[0.4, 0.25, 0.15, 0.2]))
        item = self.item(kind)
        lines = [line.split(": ", 1)[1] for line in (item.reasoning or "").split("\n")]
        head = item.question.split("\n")[0] if kind != "treatment" else "\n".join(item.question.split("\n")[:2])
        if kind == "prognosis":
            lines[-1] = lines[-1].split("; answer")[0]
            numbered = self.rng.random() < 0.5
            return chat(head, "\n".join(f"Step {n}: {line}" if numbered else line for n, line in enumerate(lines, 1)))
        letter, line = str(self.rng.choice(list(item.options))), ""
        for candidate in lines[: len(item.options)]:
            if candidate.startswith(letter):
                line = candidate[3:]
        return chat(f"{head}\nOption: {item.options[letter]}", line)

    def comparison(self) -> str:
        """Given values of lettered options: which is the highest, or which range holds the value."""
        rng = self.rng
        letters = [str(letter) for letter in LETTERS[: int(rng.integers(3, 5))]]
        if rng.random() < 0.25:
            drug = self.drugs[int(rng.integers(len(self.drugs)))]
            tier = drug.tiers[int(rng.integers(len(drug.tiers)))]
            value = int(rng.integers(tier.low, (tier.high if tier.high is not None else 130) + 1))
            order = rng.permutation(len(drug.tiers))
            given = [
                f"{LETTERS[n]}. range: {drug.tiers[i].range}; {value}: {'inside' if drug.tiers[i] is tier else 'outside'}"
                for n, i in enumerate(order)
            ]
            right = next(LETTERS[n] for n, i in enumerate(order) if drug.tiers[i] is tier)
            return chat("\n".join(given), f"inside: {tier.range}; answer: {right}")
        word = "total" if rng.random() < 0.6 else "gain"
        choices = np.arange(13) if word == "total" else np.array(sorted(set(GAINS.values())))
        values = rng.choice(choices, len(letters))
        best = int(rng.integers(len(letters)))
        values[best] = choices[
            min(int(np.searchsorted(choices, max(np.delete(values, best)))) + int(rng.integers(1, 4)), len(choices) - 1)
        ]
        if (values >= values[best]).sum() > 1:
            return self.comparison()
        given = "\n".join(f"{letter}. {word}: {value}" for letter, value in zip(letters, values, strict=True))
        return chat(given, f"highest {word}: {values[best]}; answer: {letters[best]}")

    def question(self) -> str:
        """A whole multiple-choice question with its plain answer: no thinking."""
        item = self.item(str(self.rng.choice(REASONING_TYPES)))
        system = self.system if self.rng.random() < 0.5 else ""
        plain = f"Answer: {item.answer_idx}" if self.rng.random() < 0.5 else answer_text(item)
        return chat(question_text(item), f"{plain}. {item.options[item.answer_idx]}", system)

    def documents(self, progress: float) -> Iterator[str]:
        """Documents for one moment of training; ``progress`` in 0..1 moves the weight from facts to questions."""
        facts = 0.72 if progress < 0.5 else 0.40
        kinds = (self.statement, self.sub_question, self.question, self.comparison)
        weights = [facts, *(np.array([0.5, 0.28, 0.22]) * (1 - facts))]
        while True:
            yield kinds[int(self.rng.choice(4, p=weights))]()
