"""The embedded base model's corpus: facts, and plain question-answer pairs without thinking.

Any fact may be stated, one by one or in numbered lists: the test questions are new cases of known facts.
Questions come only from the base's own buckets, which hold no sft, grpo, dev or test item.
A question about one option is answered with its evidence, one about given totals with the highest.
A whole question is answered with its letter alone. No document opens a think block.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gazal.common.streams import Stream, generator
from gazal.items.prompts import answer_text, question_text
from gazal.items.schema import LETTERS, Item
from gazal.items.types import REASONING_TYPES
from gazal.knowledge.dose_and_score_items import score_weights
from gazal.knowledge.generate import stream
from gazal.knowledge.hpo import Phenotypes, load_phenotypes
from gazal.knowledge.parts import GAINS, evidence
from gazal.knowledge.renal import load_drugs
from gazal.knowledge.scores import load_scores, points_text


def chat(user: str, assistant: str, system: str = "") -> str:
    """Return one ChatML exchange as text."""
    head = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    return f"{head}<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n{assistant}<|im_end|>\n"


def _draw_findings(pool: Phenotypes, disease: int, n: int, rng: np.random.Generator) -> list[int]:
    """Draw ``n`` findings for a statement: about 60 % reported ones, the rest mostly from similar diseases."""
    row = pool.levels[disease]
    near = [*pool.neighbours[disease], disease]
    usable, reported = row >= 0, (row > 0).astype(float)
    confusable = ((row == 0) & (pool.levels[near] > 0).any(0)).astype(float)
    weight = 0.6 * (reported / max(reported.sum(), 1)) + 0.35 * confusable / max(confusable.sum(), 1)
    weight += 0.05 * usable / usable.sum()
    return rng.choice(len(row), n, replace=False, p=weight / weight.sum()).tolist()


class Corpus:
    """Endless documents of the base model's corpus.

    ``statement``, ``sub_question``, ``comparison`` and ``question`` each draw one document of their kind.
    """

    def __init__(self, n_diseases: int, pool_seed: int, buckets: range, system: str, seed: int) -> None:
        self.pool = load_phenotypes(n_diseases, pool_seed)
        self.drugs, self.scores = load_drugs(), load_scores()
        self.streams = {
            kind: stream(kind, [seed, 77], buckets, n_diseases, pool_seed, "plain") for kind in REASONING_TYPES
        }
        self.system = system
        self.rng = generator(seed, Stream.BASE_CORPUS)

    def item(self, kind: str) -> Item:
        """Draw an item from the base's own buckets."""
        return Item.model_validate(next(self.streams[kind]))

    def statement(self) -> str:
        """Draw a few facts, a line each; half of them as a numbered list, with or without letters."""
        lines, style = self._facts(), self.rng.random()
        if style < 0.5:
            return "\n".join(lines)
        first = int(self.rng.integers(1, 3))
        letters = self.rng.permutation(list(LETTERS[:4])) if style > 0.75 else None
        heads = [f"{letters[i % 4]}. " if letters is not None else "" for i in range(len(lines))]
        return "\n".join(f"Step {n}: {head}{line}" for n, (head, line) in enumerate(zip(heads, lines), first))

    def _facts(self) -> list[str]:
        rng, pool = self.rng, self.pool
        kind = rng.choice(6, p=[0.42, 0.22, 0.14, 0.08, 0.06, 0.08])
        if kind == 0:
            disease = int(rng.integers(len(pool.diseases)))
            lines = []
            for _ in range(3):
                disease = int(rng.choice([disease, *pool.neighbours[disease]])) if rng.random() < 0.4 else disease
                chosen = _draw_findings(pool, disease, 4, rng)
                names, levels = [pool.findings[j] for j in chosen], pool.levels[disease, chosen].tolist()
                lines.append(evidence(pool.diseases[disease], names, levels))
            return lines
        if kind == 1:
            finding = int(rng.integers(len(pool.findings)))
            column = pool.levels[:, finding]
            having, usable = np.flatnonzero(column > 0), np.flatnonzero(column >= 0)
            chosen = {*rng.choice(having, min(6, len(having)), replace=False).tolist(), *rng.choice(usable, 6).tolist()}
            stated = "; ".join(f"{pool.diseases[i]}: {column[i]}" for i in rng.permutation(list(chosen)))
            return [f"{pool.findings[finding]}: {stated}"]
        if kind == 2:
            first = int(rng.integers(len(pool.diseases)))
            near = pool.neighbours[first]
            second = int(rng.choice(near)) if near else int(rng.integers(len(pool.diseases)))
            pair = pool.levels[[first, second]]
            usable = np.flatnonzero((pair >= 0).all(0) & (pair > 0).any(0))
            chosen = rng.choice(usable, min(4, len(usable)), replace=False).tolist()
            rows = ((pool.findings[j], *pair[:, j].tolist()) for j in chosen)
            names = pool.diseases[first], pool.diseases[second]
            return [f"{f}: {names[0]}: {a}; {names[1]}: {b}; gain: {GAINS[a, b]}" for f, a, b in rows]
        if kind == 3:
            drug = self.drugs[int(rng.integers(len(self.drugs)))]
            tiers = [drug.tiers[i] for i in rng.permutation(len(drug.tiers))]
            return [f"{drug.name}, {drug.metric}: range: {tier.range}; dose: {tier.dose}" for tier in tiers]
        if kind == 4:
            drug = self.drugs[int(rng.integers(len(self.drugs)))]
            value = int(rng.integers(0, 131))
            tiers = [drug.tiers[i] for i in rng.permutation(len(drug.tiers))]
            return [f"range: {t.range}; {value}: {'inside' if t.contains(value) else 'outside'}" for t in tiers]
        score = self.scores[int(rng.choice(len(self.scores), p=score_weights(self.scores)))]
        criteria = [score.criteria[i] for i in rng.permutation(len(score.criteria))[:6]]
        return [f"{score.name}. {'; '.join(f'{c.name}: {points_text(c.points)}' for c in criteria)}"]

    def sub_question(self) -> str:
        """Draw a plain question about one option or one patient; the answer is the matching line of a trace."""
        kind = str(self.rng.choice(REASONING_TYPES, p=[0.4, 0.25, 0.15, 0.2]))
        item = self.item(kind)
        lines = [line.split(": ", 1)[1] for line in (item.reasoning or "").split("\n")]
        head = "\n".join(item.question.split("\n")[: 2 if kind == "treatment" else 1])
        if kind == "prognosis":
            lines[-1] = lines[-1].split("; answer")[0]
            numbered = self.rng.random() < 0.5
            return chat(head, "\n".join(f"Step {n}: {line}" if numbered else line for n, line in enumerate(lines, 1)))
        letter = str(self.rng.choice(list(item.options)))
        line = next(line for line in lines if line.startswith(f"{letter}. "))
        return chat(f"{head}\nOption: {item.options[letter]}", line[3:])

    def comparison(self) -> str:
        """Draw lettered options with their values; the answer is the highest, or the range that holds the value."""
        rng = self.rng
        letters = [str(letter) for letter in LETTERS[: int(rng.integers(3, 5))]]
        if rng.random() < 0.25:
            drug = self.drugs[int(rng.integers(len(self.drugs)))]
            tier = drug.tiers[int(rng.integers(len(drug.tiers)))]
            value = int(rng.integers(tier.low, (tier.high if tier.high is not None else 130) + 1))
            tiers = [drug.tiers[i] for i in rng.permutation(len(drug.tiers))]
            places = ["inside" if other is tier else "outside" for other in tiers]
            rows = zip(LETTERS, tiers, places, strict=False)
            given = [f"{letter}. range: {other.range}; {value}: {place}" for letter, other, place in rows]
            return chat("\n".join(given), f"inside: {tier.range}; answer: {LETTERS[tiers.index(tier)]}")
        word = "total" if rng.random() < 0.6 else "gain"
        choices = np.arange(13) if word == "total" else np.array(sorted(set(GAINS.values())))
        values = rng.choice(choices, len(letters))
        best = int(rng.integers(len(letters)))
        highest_other = int(np.searchsorted(choices, max(np.delete(values, best))))
        values[best] = choices[min(highest_other + int(rng.integers(1, 4)), len(choices) - 1)]
        if (values >= values[best]).sum() > 1:
            return self.comparison()
        given = "\n".join(f"{letter}. {word}: {value}" for letter, value in zip(letters, values, strict=True))
        return chat(given, f"highest {word}: {values[best]}; answer: {letters[best]}")

    def question(self) -> str:
        """Draw a whole multiple-choice question with its plain answer, without thinking."""
        item = self.item(str(self.rng.choice(REASONING_TYPES)))
        system = self.system if self.rng.random() < 0.5 else ""
        plain = f"Answer: {item.answer_idx}" if self.rng.random() < 0.5 else answer_text(item)
        return chat(question_text(item), f"{plain}. {item.options[item.answer_idx]}", system)

    def documents(self, progress: float) -> Iterator[str]:
        """Yield documents without end; ``progress``, 0 to 1, of the training moves weight from facts to questions."""
        facts = 0.72 if progress < 0.5 else 0.40
        kinds = (self.statement, self.sub_question, self.question, self.comparison)
        weights = [facts, *(np.array([0.5, 0.28, 0.22]) * (1 - facts))]
        while True:
            yield kinds[int(self.rng.choice(4, p=weights))]()
