"""What the makers of knowledge-derived items share: levels, gains, the evidence line, the item itself."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import entr

from gazal.items.schema import LETTERS
from gazal.knowledge.hpo import PROBABILITY

LEVEL_RULE = "Levels: very frequent 3, frequent 2, occasional 1, not reported 0."


def information_gain(first: int, second: int) -> int:
    """Expected information gain, in hundredths of a bit, of asking about a finding whose levels in
    two equally likely diseases are ``first`` and ``second`` (probabilities: ``hpo.PROBABILITY``)."""
    p, q = PROBABILITY[first], PROBABILITY[second]

    def bits(rate: float) -> float:
        return float(entr(rate) + entr(1 - rate)) / float(np.log(2))

    return round(100 * (bits((p + q) / 2) - (bits(p) + bits(q)) / 2))


GAINS = {(a, b): information_gain(a, b) for a in PROBABILITY for b in PROBABILITY}


def bucket(key: str) -> int:
    """The split bucket, 0 to 99, of a question's key: a function of its content alone."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 100


def evidence(
    disease: str,
    findings: Sequence[str],
    levels: Sequence[int],
    absent: Sequence[str] = (),
    absent_levels: Sequence[int] = (),
) -> str:
    """``Disease: finding: 3; finding: 0; total: 3``: the line that statements and traces share.

    Absent findings follow as ``absent finding: -2``: their levels are subtracted.
    """
    parts = [f"{f}: {v}" for f, v in zip(findings, levels, strict=True)]
    parts += [f"absent {f}: {-v}" for f, v in zip(absent, absent_levels, strict=True)]
    return f"{disease}: {'; '.join(parts)}; total: {sum(levels) - sum(absent_levels)}"


def lay_line(shown: Sequence[str], names: Sequence[str]) -> list[str]:
    """The trace's first line where lay terms were shown, in HPO's own terms: ``terms: Blood in urine = Hematuria``."""
    told = [f"{lay} = {name}" for lay, name in zip(shown, names, strict=True) if lay != name]
    return [f"terms: {'; '.join(told)}"] if told else []


def close_item(
    kind: str,
    key: str,
    question: str,
    options: Sequence[str],
    right: int,
    steps: Sequence[str],
    brief: Sequence[str],
    conclusion: str,
    rng: np.random.Generator,
    source: str,
    subject: str,
    *,
    by_option: bool,
    brief_by_option: bool,
    first: Sequence[str] = (),
    extra: dict[str, Any],
    per_option: dict[str, list[int]],
) -> dict[str, Any]:
    """Shuffle the options, close the traces, and return the item's fields.

    ``steps`` and ``brief`` hold one line per option where ``by_option`` / ``brief_by_option`` (they are put in
    letter order, behind their letters), else any number of lines; ``first`` stands before both. ``per_option``: lists
    in the order of ``options``, kept under the options' letters.
    """
    order = rng.permutation(len(options)).tolist()
    letters = {old: LETTERS[new] for new, old in enumerate(order)}
    answer = letters[right]

    def trace(lines: Sequence[str], lettered: bool) -> str:
        body = [f"{letters[i]}. {lines[i]}" for i in order] if lettered else list(lines)
        return "\n".join(
            f"Step {n}: {line}" for n, line in enumerate([*first, *body, f"{conclusion}; answer: {answer}"], 1)
        )

    texts = {LETTERS[new]: options[old] for new, old in enumerate(order)}
    digest = hashlib.sha256("\n".join([question, *texts.values()]).encode()).hexdigest()[:12]
    return {
        "id": f"{kind}-{digest}",
        "question": question,
        "options": texts,
        "answer_idx": answer,
        "answer": options[right],
        "reasoning_type": kind,
        "subject": subject,
        "source": source,
        "reasoning": trace(steps, by_option),
        "reasoning_brief": trace(brief, brief_by_option),
        "bucket": bucket(key),
        "question_key": hashlib.sha256(key.encode()).hexdigest()[:16],
        **extra,
        **{name: {letters[i]: values[i] for i in order} for name, values in per_option.items()},
    }
