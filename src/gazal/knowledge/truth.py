"""What the source says of a knowledge-derived item: each claim that its full trace needs, with its true value.

Everything is looked up by name in the source (HPO, open-medicine) from what the item asks, which is read back from its
question and options: a wording is recognised where filling it with what was read gives the question to the byte. The item's
stored trace is never read. An item whose key is not what the source gives is not settled: its source was another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from gazal.items.schema import Item
from gazal.knowledge.claims import Claim, Value, fold
from gazal.knowledge.forms import PLAIN, RICH, Form
from gazal.knowledge.hpo import source_lay_terms, source_levels
from gazal.knowledge.parts import GAINS, LEVEL_RULE
from gazal.knowledge.renal import Drug, load_drugs
from gazal.knowledge.scores import Score, load_scores

NO_AGE = "no age criterion"
Key = tuple[str, ...]
"""A claim's kind and the source's own names for what it is about."""


@dataclass
class Truth:
    """``needed``: every claim of the full trace; of ``sum`` the value is the one in the question's order (see :meth:`running`).
    ``others``: true claims that a trace may make besides, such as the number of criteria. ``options``: folded names of what
    each option is, with its letter. ``letter_of``: the option that a concluding number or range leads to. ``quoted``: what the
    question says, by kind of quote. ``names``: folded names, with the source's own."""

    kind: str
    needed: dict[Key, Value] = field(default_factory=dict)
    others: dict[Key, Value] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    letter_of: dict[Value, str] = field(default_factory=dict)
    quoted: dict[str, float] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    beside: frozenset[Key] = frozenset()

    def name(self, written: str) -> str:
        """The source's name for a folded one; "" for a name that no source knows."""
        return self.names.get(written) or _known_names().get(written, "")

    def key(self, claim: Claim) -> Key:
        """The claim's key; a part of it is "" where the source knows no such name."""
        if claim.kind in ("range", "inside", "count", "result"):
            return (claim.kind, *claim.about)
        if claim.kind == "term":
            return ("term", claim.about[0])
        if claim.kind != "level":
            return (claim.kind, self.name(claim.about[0]))
        first, second = claim.about
        sign = ""
        if not self.name(second) and second.startswith("absent "):
            second, sign = second.removeprefix("absent "), "absent"
        first, second = self.name(first), self.name(second)
        either = (
            ("level", first, second, sign),
            ("level", second, first, sign),
        )  # some names are a disease's and a finding's
        return next((key for key in either if key in self.needed), either[self.kind == "uncertainty"])

    def running(self, scored: set[str]) -> float:
        """The true sum of the criteria scored so far, by name."""
        return sum(self._points(name) for name in scored)

    def _points(self, name: str) -> float:
        value = self.needed.get(("points", name), self.others.get(("points", name)))
        return value[1] if isinstance(value, tuple) and value[1] is not None else 0.0


@lru_cache(maxsize=1)
def _known_names() -> dict[str, str]:
    """Folded names of every disease, finding and criterion of the sources."""
    diseases = {fold(name): name for name in source_levels()}
    findings = {fold(name): name for rows in source_levels().values() for name in rows}
    lay = {fold(term): name for term, name in source_lay_terms().items()}
    return {fold(c.name): c.name for score in load_scores() for c in score.criteria} | lay | findings | diseases


def find_truth(item: Item) -> Truth | None:
    """What the source says of an item; None where it is no knowledge-derived item, where its question cannot be read back,
    or where the source does not give its key."""
    makers: dict[str, Callable[[Item, dict[str, Any]], Truth | None]] = {
        "diagnosis": _diagnosis,
        "uncertainty": _uncertainty,
        "treatment": _treatment,
        "prognosis": _prognosis,
    }
    if item.reasoning_type is None or not (item.source or "").startswith(("HPO", "open-medicine")):
        return None
    for asked in _asked(item.reasoning_type, item.question):
        truth = makers[item.reasoning_type](item, asked)
        if truth is not None and truth.letter_of.get(truth.needed["result",]) == item.answer_idx:
            return truth
    return None


def _asked(kind: str, question: str) -> Iterator[dict[str, Any]]:
    """What fills the slots of each wording that gives this question: texts; lists for ``present`` and ``absent``."""
    for form in (*PLAIN[kind], *RICH[kind]):
        for has_absent in (False, True) if form.absent else (False,):
            for has_age in (False, True) if form.age else (False,):
                found = _pattern(form, has_absent, has_age).fullmatch(question)
                if found is None:
                    continue
                slots: dict[str, Any] = found.groupdict()
                for name in {"present", "absent"} & slots.keys():
                    slots[name] = slots[name].split(form.join)
                yield slots


@lru_cache(maxsize=512)
def _pattern(form: Form, has_absent: bool, has_age: bool) -> re.Pattern[str]:
    """The wording with groups for its slots, clauses put in or left out as ``Form.findings`` does."""
    clauses = {
        "absent": form.absent.replace("{names}", "{missing}") if has_absent else "",
        "minus": form.minus if has_absent else "",
        "age": form.age if has_age else "",
        "rule": LEVEL_RULE,
    }
    patient = "{metric}" in form.text
    text = form.text if patient else re.sub(r"\{(absent|minus|age|rule)\}", lambda m: clauses[m[1]], form.text)
    groups = {
        "missing": "(?P<absent>.+)",
        "years": r"(?P<years>\d+)",
        "age": r"(?P<age>\d+)",
        "value": r"(?P<value>\d+)",
        "sex": "(?P<sex>woman|man)",
    }
    pieces = re.split(r"\{(\w+)\}", text)
    body = "".join(
        re.escape(piece) if n % 2 == 0 else groups.get(piece, f"(?P<{piece}>.+?)") for n, piece in enumerate(pieces)
    )
    return re.compile(body, re.S)


def _findings(shown: list[str]) -> dict[str, str] | None:
    """What the question calls each finding, with HPO's name; None where HPO knows one of them not."""
    lay, own = source_lay_terms(), _finding_names()
    found = {text: text if text in own else lay.get(text, "") for text in shown}
    return found if all(found.values()) else None


@lru_cache(maxsize=1)
def _finding_names() -> frozenset[str]:
    return frozenset(name for rows in source_levels().values() for name in rows)


def _terms(found: Mapping[str, str]) -> dict[Key, Value]:
    return {("term", fold(shown)): fold(name) for shown, name in found.items() if shown != name}


def _names(found: Mapping[str, str], diseases: list[str]) -> dict[str, str]:
    return {fold(key): name for shown, name in found.items() for key in (shown, name)} | {
        fold(name): name for name in diseases
    }


def _best(values: Mapping[str, float]) -> tuple[float, dict[Value, str]]:
    """The highest of the options' values, and the one letter that has it (none where several do)."""
    top = max(values.values())
    letters = [letter for letter, value in values.items() if value == top]
    return top, {top: letters[0]} if len(letters) == 1 else {}


def _diagnosis(item: Item, asked: dict[str, Any]) -> Truth | None:
    levels, diseases = source_levels(), list(item.options.values())
    present, absent = _findings(asked["present"]), _findings(asked.get("absent", []))
    if present is None or absent is None or any(disease not in levels for disease in diseases):
        return None
    needed, totals = {**_terms(present), **_terms(absent)}, {}
    for letter, disease in item.options.items():
        signed = [(name, "", 1) for name in present.values()] + [(name, "absent", -1) for name in absent.values()]
        stated = {
            ("level", disease, name, sign): factor * levels[disease].get(name, 0) for name, sign, factor in signed
        }
        totals[letter] = sum(stated.values())
        needed |= {**stated, ("total", disease): totals[letter]}
    needed["result",], letter_of = _best(totals)
    names = _names({**present, **absent}, diseases) | {
        fold(letter): disease for letter, disease in item.options.items()
    }
    return Truth(
        "diagnosis",
        needed,
        options={fold(d): letter for letter, d in item.options.items()},
        letter_of=letter_of,
        names=names,
    )


def _uncertainty(item: Item, asked: dict[str, Any]) -> Truth | None:
    levels, pair = source_levels(), [asked["first"], asked["second"]]
    found = _findings(list(item.options.values()))
    if found is None or any(disease not in levels for disease in pair):
        return None
    needed, gains = _terms(found), {}
    for letter, shown in item.options.items():
        rows = {("level", disease, found[shown], ""): levels[disease].get(found[shown], 0) for disease in pair}
        gains[letter] = GAINS.get(tuple(rows.values()), -1)
        needed |= {**rows, ("gain", found[shown]): gains[letter]}
    needed["result",], letter_of = _best(gains)
    options = {fold(name): letter for letter, shown in item.options.items() for name in (shown, found[shown])}
    names = _names(found, pair) | {fold(letter): found[shown] for letter, shown in item.options.items()}
    return Truth("uncertainty", needed, options=options, letter_of=letter_of, names=names)


def _treatment(item: Item, asked: dict[str, Any]) -> Truth | None:
    drug: Drug | None = next((drug for drug in load_drugs() if drug.name == asked["drug"]), None)
    tiers = {tier.dose: tier for tier in drug.tiers} if drug else {}
    if (
        drug is None
        or {*item.options.values()} != tiers.keys()
        or (asked["metric"], asked["unit"]) != (drug.metric, drug.unit)
    ):
        return None
    value, needed, letter_of = int(asked["value"]), {}, {}
    for letter, dose in item.options.items():
        tier = tiers[dose]
        needed |= {("range", letter): (tier.low, tier.high), ("inside", letter): tier.contains(value)}
        letter_of[tier.low, tier.high] = letter
    right = drug.tier(value)
    needed["result",] = (right.low, right.high)
    return Truth("treatment", needed, letter_of=letter_of, quoted={"clearance": value})


def _prognosis(item: Item, asked: dict[str, Any]) -> Truth | None:
    score: Score | None = next((score for score in load_scores() if score.name == asked["score"]), None)
    criteria = {c.name: c for c in score.criteria} if score else {}
    present, absent, years = (
        asked["present"],
        asked.get("absent", []),
        int(asked["years"]) if asked.get("years") else None,
    )
    if not criteria or any(name not in criteria for name in (*present, *absent)):
        return None
    met = [name for name, c in criteria.items() if years is not None and c.ages and c.ages[0] <= years <= c.ages[1]]
    lines = [(name, (False, criteria[name].points)) for name in (*present, *met)]
    lines += [(NO_AGE, (False, 0.0))] if years is not None and not met else []
    lines += [(name, (True, 0.0)) for name in absent]
    needed: dict[Key, Value] = {}
    total = 0.0
    for name, value in lines:
        total += value[1]
        needed |= {("points", name): value, ("sum", name): total}
    needed["result",] = total
    unsaid = [name for name in criteria if ("points", name) not in needed]
    others: dict[Key, Value] = {
        ("count",): float(len(present) + len(met)),
        **{("points", name): (True, 0.0) for name in unsaid},
    }
    letter_of: dict[Value, str] = {
        float(text.split()[0]): letter
        for letter, text in item.options.items()
        if re.match(r"-?\d+(\.\d+)? points", text)
    }
    return Truth(
        "prognosis",
        needed,
        others,
        letter_of=letter_of,
        quoted={} if years is None else {"age": years},
        names={fold(name): name for name in (*criteria, NO_AGE)},
        beside=frozenset((kind, name) for name in unsaid for kind in ("points", "sum")),
    )
