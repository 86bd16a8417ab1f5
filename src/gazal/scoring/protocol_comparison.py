"""How many points are protocol: ``protocols.json``, the same completions read by every protocol. A pure step.

Besides accuracies it holds two controls. On the run's own honest, well-formed completions protocols should agree with
our extractor. They should not be fooled by the red team, whose answers are faked, doubled or absent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from gazal.answers.extract import Reason, has_format
from gazal.answers.protocols import OURS, PROTOCOLS, SEEDS, Grades, grade
from gazal.common.files import write_json
from gazal.predictions.folder import Read, read_answers, regrade, with_grades
from gazal.scoring.cells import accuracy


def compare_protocols(eval_dir: str | Path, answers: Read | None = None) -> dict[str, Any]:
    """Write ``protocols.json`` beside the predictions (a run folder works too) and return it; same files, same bytes.

    ``answers``: what :func:`read_answers` gave for the folder, so that nothing is read twice. The file holds:

    * ``seeds``: draws over which a random letter is averaged.
    * ``benchmarks``: accuracy by benchmark, model and protocol.
    * ``honest``: ``completions`` and ``agreement``. The first is the number of this run's that keep the format and that
      ours reads. The second is, by protocol, the share of them in which its every reading is ours.
    * ``forms``: the same of :func:`honest_forms`.
    * ``red_team``: see :func:`red_team`.

    Benchmarks without items beside them are left out. If none is left, write nothing and return an empty dictionary.
    Raises GazalError as :func:`gazal.predictions.folder.read_answers` does.
    """
    root, frames, items = answers or read_answers(eval_dir)
    benchmarks: dict[str, dict[str, dict[str, float]]] = {}
    honest, agreed = 0, Counter[str]()
    for (model, benchmark), frame in frames.items():
        if not items[benchmark]:
            continue
        well_formed = ((frame["format"] == 1) & (frame["reason"] == Reason.OK.value)).to_numpy()
        honest += int(well_formed.sum())
        cells = benchmarks.setdefault(benchmark, {}).setdefault(model, {})
        for name in PROTOCOLS:
            grades = regrade(frame, items[benchmark], name)
            cells[name] = accuracy(with_grades(frame, grades))
            agreed[name] += int((_same(grades, frame["letter"]) & well_formed).sum())
    if not benchmarks:
        return {}
    agreement = {name: round(agreed[name] / honest, 6) for name in PROTOCOLS} if honest else {}
    report = {
        "seeds": SEEDS,
        "benchmarks": {name: benchmarks[name] for name in items if name in benchmarks},
        "honest": {"completions": honest, "agreement": agreement},
        "forms": honest_forms(),
        "red_team": red_team(),
    }
    write_json(root / "protocols.json", report)
    return report


def _same(grades: Grades, letters: Iterable[str | None]) -> np.ndarray:
    """Compare readings with the given letters: True if all of a completion's are its letter, shape (completions,)."""
    return (grades.readings == np.array(list(letters), dtype=object)[:, None]).all(axis=1)


@cache
def honest_forms() -> dict[str, Any]:
    """Return ``completions`` and ``agreement`` of the red team's honest answers that keep the format.

    They are written for every letter of the red team's item.
    """
    from gazal.rewards.red_team import OPTIONS, honest_completion, honest_wrong

    written = dict.fromkeys(
        text for letter in OPTIONS for text in (honest_completion(letter=letter), *honest_wrong(answer_idx=letter))
    )
    texts = [text for text in written if has_format(text, OPTIONS)]
    graded = {name: grade(name, texts, [OPTIONS] * len(texts), [""] * len(texts)) for name in PROTOCOLS}
    return {
        "completions": len(texts),
        "agreement": {name: round(float(_same(g, graded[OURS].letters).mean()), 6) for name, g in graded.items()},
    }


@cache
def red_team() -> dict[str, Any]:
    """Return how every protocol reads the red team's cases; empty if there are none (an install without tests).

    ``cases`` and ``families`` are counts, and so is ``null``, the cases in which ours reads no answer. ``protocols``
    holds, by protocol:

    * ``letter``: the share of the null cases that it gives a letter.
    * ``key``: the share that it counts as right; what it leaves out of its count is not right.
    * ``family`` and ``family_key``: the family with the highest such share (of equals the largest), and that share.
      Both are absent if no case is counted as right.
    """
    from gazal.common.paths import RED_TEAM_CASES
    from gazal.rewards.red_team import read_cases

    if not RED_TEAM_CASES.exists():
        return {}
    cases = read_cases()
    completions, options = [case.completion for case in cases], [case.options for case in cases]
    keys, opened = [case.answer_idx for case in cases], [case.think_open for case in cases]
    graded = {name: grade(name, completions, options, keys, opened) for name in PROTOCOLS}
    null = np.array([letter is None for letter in graded[OURS].letters])
    family = np.array([c.family for c in cases])
    families = sorted(set(family[null]))
    rows: dict[str, dict[str, Any]] = {}
    for name, grades in graded.items():
        lettered = np.array([letter is not None for letter in grades.letters])
        shares = {kind: float(grades.correct[null & (family == kind)].mean()) for kind in families}
        rows[name] = {
            "letter": round(float(lettered[null].mean()), 6),
            "key": round(float(grades.correct[null].mean()), 6),
        }
        worst = max(families, key=lambda kind: (shares[kind], int((null & (family == kind)).sum())))
        if shares[worst] > 0:
            rows[name] |= {"family": worst, "family_key": round(shares[worst], 6)}
    return {"cases": len(cases), "families": len(set(family)), "null": int(null.sum()), "protocols": rows}
