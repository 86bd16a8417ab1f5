"""The claims that a knowledge-derived item's full trace needs, each with its true value in the source.

The names are read back from the item's question and options, and looked up in the source (HPO, open-medicine).
A wording is recognised if its text, with the slots filled, gives the question to the byte.
The item's stored trace is never read. If the source does not give the item's key, there is no truth for the item:
it was made from another source.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
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
"""A claim's kind, then the source's own names for its subject."""


@dataclass
class Truth:
    """The true claims about one item.

    ``needed``: every claim of the full trace; a ``sum`` has its value in the question's order (see :meth:`running`).
    ``others``: true claims that a trace may add, such as the number of criteria.
    ``beside``: keys of ``points`` and ``sum`` claims about criteria that the question leaves out.
    ``options``: each option's folded names, with its letter. ``letter_of``: the option of a concluding number or range.
    ``quoted``: the question's numbers by kind of quote. ``names``: the source's names by folded name.
    """

    kind: str
    needed: dict[Key, Value] = field(default_factory=dict)
    others: dict[Key, Value] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    letter_of: dict[Value, str] = field(default_factory=dict)
    quoted: dict[str, float] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    beside: frozenset[Key] = frozenset()

    def name(self, written: str) -> str:
        """Return the source's name for a folded one; "" if no source knows the name."""
        return self.names.get(written) or _known_names().get(written, "")

    def key(self, claim: Claim) -> Key:
        """Return the claim's key, with "" for each name that no source knows."""
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
        """Return the true sum of the points of the criteria named in ``scored``."""
        return sum(self._points(name) for name in scored)

    def _points(self, name: str) -> float:
        value = self.needed.get(("points", name), self.others.get(("points", name)))
        return value[1] if isinstance(value, tuple) and value[1] is not None else 0.0


@lru_cache(maxsize=1)
def _known_names() -> dict[str, str]:
    """Return the source's name by folded name, of every disease, finding and criterion."""
    diseases = {fold(name): name for name in source_levels()}
    findings = {fold(name): name for rows in source_levels().values() for name in rows}
    lay = {fold(term): name for term, name in source_lay_terms().items()}
    return {fold(c.name): c.name for score in load_scores() for c in score.criteria} | lay | findings | diseases


def find_truth(item: Item) -> Truth | None:
    """Return the true claims about an item.

    None: the item is not knowledge-derived, its question cannot be read back, or the source does not give its key.
    """
    if item.reasoning_type is None or not (item.source or "").startswith(("HPO", "open-medicine")):
        return None
    for slots in _filled_slots(item.reasoning_type, item.question):
        truth = _TRUTH_OF[item.reasoning_type](item, slots)
        if truth is not None and truth.letter_of.get(truth.needed["result",]) == item.answer_idx:
            return truth
    return None


def _filled_slots(kind: str, question: str) -> Iterator[dict[str, Any]]:
    """Yield the slots' texts, for each wording that gives this question; lists for ``present`` and ``absent``."""
    for form, has_absent, has_age in product((*PLAIN[kind], *RICH[kind]), (False, True), (False, True)):
        if (has_absent and not form.absent) or (has_age and not form.age):
            continue
        if found := _pattern(form, has_absent, has_age).fullmatch(question):
            slots: dict[str, Any] = found.groupdict()
            for name in {"present", "absent"} & slots.keys():
                slots[name] = slots[name].split(form.join)
            yield slots


@lru_cache(maxsize=512)
def _pattern(form: Form, has_absent: bool, has_age: bool) -> re.Pattern[str]:
    """Return the wording as a pattern with a group per slot; its clauses are filled as ``Form.findings`` fills them."""
    clauses = {
        "absent": form.absent.replace("{names}", "{missing}") if has_absent else "",
        "minus": form.minus if has_absent else "",
        "age": form.age if has_age else "",
        "rule": LEVEL_RULE,
    }
    treatment = "{metric}" in form.text  # its age is a slot, not a clause
    text = form.text if treatment else re.sub(r"\{(absent|minus|age|rule)\}", lambda m: clauses[m[1]], form.text)
    groups = {
        "missing": "(?P<absent>.+)",
        "years": r"(?P<years>\d+)",
        "age": r"(?P<age>\d+)",
        "value": r"(?P<value>\d+)",
        "sex": "(?P<sex>woman|man)",
    }
    pieces = re.split(r"\{(\w+)\}", text)
    pieces[::2] = map(re.escape, pieces[::2])
    pieces[1::2] = [groups.get(slot, f"(?P<{slot}>.+?)") for slot in pieces[1::2]]
    return re.compile("".join(pieces), re.S)


def _findings(shown: list[str]) -> dict[str, str] | None:
    """Return HPO's name by the question's text for each finding; None if HPO does not know one of them."""
    lay, own = source_lay_terms(), _finding_names()
    found = {text: text if text in own else lay.get(text, "") for text in shown}
    return found if all(found.values()) else None


@lru_cache(maxsize=1)
def _finding_names() -> frozenset[str]:
    return frozenset(name for rows in source_levels().values() for name in rows)


def _terms(found: Mapping[str, str]) -> dict[Key, Value]:
    return {("term", fold(shown)): fold(name) for shown, name in found.items() if shown != name}


def _names(found: Mapping[str, str], diseases: list[str]) -> dict[str, str]:
    findings = {fold(key): name for shown, name in found.items() for key in (shown, name)}
    return findings | {fold(name): name for name in diseases}


def _best(values: Mapping[str, float]) -> tuple[float, dict[Value, str]]:
    """Return the highest of the options' values, and its letter by value; no letter if several have that value."""
    top = max(values.values())
    letters = [letter for letter, value in values.items() if value == top]
    return top, {top: letters[0]} if len(letters) == 1 else {}


def _diagnosis(item: Item, slots: dict[str, Any]) -> Truth | None:
    levels, diseases = source_levels(), list(item.options.values())
    present, absent = _findings(slots["present"]), _findings(slots.get("absent", []))
    if present is None or absent is None or any(disease not in levels for disease in diseases):
        return None
    needed, totals = {**_terms(present), **_terms(absent)}, {}
    for letter, disease in item.options.items():
        stated = {("level", disease, name, ""): levels[disease].get(name, 0) for name in present.values()}
        stated |= {("level", disease, name, "absent"): -levels[disease].get(name, 0) for name in absent.values()}
        totals[letter] = sum(stated.values())
        needed |= {**stated, ("total", disease): totals[letter]}
    needed["result",], letter_of = _best(totals)
    names = _names({**present, **absent}, diseases) | {fold(k): disease for k, disease in item.options.items()}
    options = {fold(disease): letter for letter, disease in item.options.items()}
    return Truth("diagnosis", needed, options=options, letter_of=letter_of, names=names)


def _uncertainty(item: Item, slots: dict[str, Any]) -> Truth | None:
    levels, pair = source_levels(), [slots["first"], slots["second"]]
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


def _treatment(item: Item, slots: dict[str, Any]) -> Truth | None:
    drug: Drug | None = next((drug for drug in load_drugs() if drug.name == slots["drug"]), None)
    tiers = {tier.dose: tier for tier in drug.tiers} if drug else {}
    if drug is None or {*item.options.values()} != tiers.keys():
        return None
    if (slots["metric"], slots["unit"]) != (drug.metric, drug.unit):
        return None
    value, needed, letter_of = int(slots["value"]), {}, {}
    for letter, dose in item.options.items():
        tier = tiers[dose]
        needed |= {("range", letter): (tier.low, tier.high), ("inside", letter): tier.contains(value)}
        letter_of[tier.low, tier.high] = letter
    right = drug.tier(value)
    needed["result",] = (right.low, right.high)
    return Truth("treatment", needed, letter_of=letter_of, quoted={"clearance": value})


def _prognosis(item: Item, slots: dict[str, Any]) -> Truth | None:
    score: Score | None = next((score for score in load_scores() if score.name == slots["score"]), None)
    criteria = {c.name: c for c in score.criteria} if score else {}
    present, absent = slots["present"], slots.get("absent", [])
    years = int(slots["years"]) if "years" in slots else None
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
    others: dict[Key, Value] = {("count",): float(len(present) + len(met))}
    others |= {("points", name): (True, 0.0) for name in unsaid}
    starts = {letter: re.match(r"(-?\d+(?:\.\d+)?) points", text) for letter, text in item.options.items()}
    letter_of: dict[Value, str] = {float(start[1]): letter for letter, start in starts.items() if start}
    return Truth(
        "prognosis",
        needed,
        others,
        letter_of=letter_of,
        quoted={} if years is None else {"age": years},
        names={fold(name): name for name in (*criteria, NO_AGE)},
        beside=frozenset((kind, name) for name in unsaid for kind in ("points", "sum")),
    )


_TRUTH_OF: dict[str, Callable[[Item, dict[str, Any]], Truth | None]] = {
    "diagnosis": _diagnosis,
    "uncertainty": _uncertainty,
    "treatment": _treatment,
    "prognosis": _prognosis,
}
