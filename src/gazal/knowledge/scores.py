"""Additive clinical risk scores from open-medicine's calculators (MIT; correctness not verified here).

This project writes down no point value. A criterion's points are what the calculator returns if only that criterion
is present. A patient's total is what it returns for all the patient's criteria.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

# The calculators whose parameters are all yes-or-no criteria with default "absent".
CALCULATORS = {
    "wells_pe": ("Wells score for pulmonary embolism", "WellsPEParams"),
    "wells_dvt": ("Wells score for deep vein thrombosis", "WellsDVTParams"),
    "padua": ("Padua score", "PaduaParams"),
    "timi_ua_nstemi": ("TIMI score for unstable angina", "TIMIUANSTEMIParams"),
    "hasbled": ("HAS-BLED score", "HASBLEDParams"),
    "stop_bang": ("STOP-Bang score", "STOPBangParams"),
    "rcri": ("Revised Cardiac Risk Index", "RCRIParams"),
    "caprini": ("Caprini score", "CapriniParams"),
}
_RISK = re.compile(
    r"\b(?:(lowest|low|moderate|intermediate|high|elevated)\b[^.;,(]{0,12}?\b(risk|probability)|PE ((?:un)?likely))\b",
    re.I,
)


@dataclass(frozen=True)
class Criterion:
    """A criterion: its field in the calculator and its name in questions.

    ``ages`` of an age criterion are its first and last year, both inclusive.
    """

    field: str
    name: str
    points: float
    ages: tuple[int, int] | None = None


@dataclass(frozen=True)
class Score:
    """An additive score; ``evaluate(fields)`` returns the calculator's (points, risk label or "")."""

    name: str
    criteria: tuple[Criterion, ...]
    evaluate: Callable[[frozenset[str]], tuple[float, str]]
    doi: str


def totals(score: Score) -> dict[float, str]:
    """Return every attainable total with the calculator's risk label for it, in ascending order."""
    subsets: dict[float, frozenset[str]] = {0.0: frozenset()}
    for criterion in score.criteria:
        for total, fields in list(subsets.items()):
            subsets.setdefault(total + criterion.points, fields | {criterion.field})
    return {total: score.evaluate(subsets[total])[1] for total in sorted(subsets)}


def points_text(points: float) -> str:
    """Return ``3`` or ``1.5``, as questions and traces write points."""
    return f"{points:g}"


def _name(field: str, description: str) -> str:
    """Return the description up to its first aside, or the field's own words if that is a question or says less."""
    text = re.sub(r"[,;]", "", re.split(r"\s?[—(:]", description)[0]).strip(" .")
    words = field.replace("_", " ").capitalize()
    says_less = len(text.split()) < len(words.split()) and not re.search(r"(^|_)(gte?|lte?|over)(_|$)", field)
    return words if "?" in description or says_less or not 3 <= len(text) <= 60 else text


def _ages(name: str) -> tuple[int, int] | None:
    """Return the first and last year in ``Age 41-60 years``, ``Age ≥ 70 years`` or ``Age over 50``; else None."""
    found = re.match(r"Age (?:(\d+)-(\d+)|(≥|>|over) ?(\d+))", name)
    if not found:
        return None
    low = int(found[1] or found[4]) + (found[3] in (">", "over"))
    return low, int(found[2] or 200)


@lru_cache(maxsize=1)
def load_scores() -> tuple[Score, ...]:
    """Return all scores whose calculator is additive, which 200 random patients each check."""
    scores = []
    for module_name, (title, params_name) in CALCULATORS.items():
        module = importlib.import_module(f"open_medicine.mcp.calculators.{module_name}")
        params = getattr(module, params_name)
        calculate = getattr(module, f"calculate_{module_name}")
        doi = calculate(params()).evidence.source_doi

        def evaluate(present: frozenset[str], calculate=calculate, params=params) -> tuple[float, str]:
            result = calculate(params(**dict.fromkeys(present, True)))
            found = _RISK.search(result.interpretation)
            label = (f"{found[1]} {found[2]}".lower() if found[1] else f"PE {found[3]}") if found else ""
            return float(result.value), label

        names = {field: _name(field, info.description or field) for field, info in params.model_fields.items()}
        criteria = tuple(Criterion(f, name, evaluate(frozenset([f]))[0], _ages(name)) for f, name in names.items())
        points = {c.field: c.points for c in criteria}
        rng = np.random.default_rng(0)
        draws = (rng.choice(list(points), rng.integers(1, len(points)), replace=False) for _ in range(200))
        patients = [frozenset(fields) for fields in draws]
        additive = all(abs(evaluate(p)[0] - sum(points[f] for f in p)) < 1e-9 for p in patients)
        if additive and len({c.name for c in criteria}) == len(criteria):
            scores.append(Score(title, criteria, evaluate, doi))
    return tuple(scores)
