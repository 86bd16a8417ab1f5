"""What the makers of knowledge-derived items share: levels, gains, the evidence line, and the item's fields."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import entr

from gazal.items.schema import LETTERS
from gazal.knowledge.balance import Batch, Maker
from gazal.knowledge.hpo import PROBABILITY

LEVEL_RULE = "Levels: very frequent 3, frequent 2, occasional 1, not reported 0."


def information_gain(first: int, second: int) -> int:
    """Return the expected information gain, in hundredths of a bit, of looking for one finding.

    ``first`` and ``second`` are the finding's levels in two equally likely diseases. ``hpo.PROBABILITY`` gives
    the probability of each level.
    """
    p, q = PROBABILITY[first], PROBABILITY[second]

    def bits(rate: float) -> float:
        return float(entr(rate) + entr(1 - rate)) / float(np.log(2))

    return round(100 * (bits((p + q) / 2) - (bits(p) + bits(q)) / 2))


GAINS = {(a, b): information_gain(a, b) for a in PROBABILITY for b in PROBABILITY}


def bucket(key: str) -> int:
    """Return the split bucket, 0 to 99, of a question's key: a hash of the key alone."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 100


def evidence(
    disease: str,
    findings: Sequence[str],
    levels: Sequence[int],
    absent: Sequence[str] = (),
    absent_levels: Sequence[int] = (),
) -> str:
    """Return ``Disease: finding: 3; finding: 0; total: 3``, the line that both statements and traces use.

    Absent findings follow as ``absent finding: -2``: their levels are subtracted.
    """
    parts = [f"{f}: {v}" for f, v in zip(findings, levels, strict=True)]
    parts += [f"absent {f}: {-v}" for f, v in zip(absent, absent_levels, strict=True)]
    return f"{disease}: {'; '.join(parts)}; total: {sum(levels) - sum(absent_levels)}"


def lay_line(shown: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the line ``terms: Blood in urine = Hematuria``, or no line if every text is HPO's name.

    ``shown`` are the texts in the question, ``names`` HPO's names of the same findings.
    """
    told = [f"{lay} = {name}" for lay, name in zip(shown, names, strict=True) if lay != name]
    return [f"terms: {'; '.join(told)}"] if told else []


def close_item(
    maker: Maker,
    batch: Batch,
    row: int,
    form: str,
    question: str,
    options: Sequence[str],
    steps: Sequence[str],
    brief: Sequence[str],
    conclusion: str,
    rng: np.random.Generator,
    source: str,
    subject: str,
    *,
    by_option: bool = True,
    brief_by_option: bool = True,
    first: Sequence[str] = (),
    extra: dict[str, Any],
    per_option: dict[str, list[int]],
) -> dict[str, Any]:
    """Shuffle the options, close both traces, and return the item's fields.

    ``steps`` and ``brief`` are the lines of the full and of the brief trace; ``first`` stands before both.
    With ``by_option`` (``brief_by_option``) they hold one line per option and are set out in letter order.
    ``per_option`` holds lists in the order of ``options``; the item keeps them by letter.
    """
    key, right = maker.key(batch, row), int(batch.right[row])
    order = rng.permutation(len(options)).tolist()
    letters = {old: LETTERS[new] for new, old in enumerate(order)}
    answer = letters[right]

    def trace(lines: Sequence[str], lettered: bool) -> str:
        body = [f"{letters[i]}. {lines[i]}" for i in order] if lettered else lines
        closed = [*first, *body, f"{conclusion}; answer: {answer}"]
        return "\n".join(f"Step {n}: {line}" for n, line in enumerate(closed, 1))

    texts = {letters[i]: options[i] for i in order}
    digest = hashlib.sha256("\n".join([question, *texts.values()]).encode()).hexdigest()[:12]
    return {
        "id": f"{maker.kind}-{digest}",
        "question": question,
        "options": texts,
        "answer_idx": answer,
        "answer": options[right],
        "reasoning_type": maker.kind,
        "subject": subject,
        "source": source,
        "reasoning": trace(steps, by_option),
        "reasoning_brief": trace(brief, brief_by_option),
        "bucket": bucket(key),
        "question_key": hashlib.sha256(key.encode()).hexdigest()[:16],
        "hard": bool(batch.hard[row]),
        "variety": "rich" if maker.rich else "plain",
        "form": form,
        **extra,
        **{name: {letters[i]: values[i] for i in order} for name, values in per_option.items()},
    }
