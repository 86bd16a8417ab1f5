"""The verdict on one completion: which claims are true, and whether its sums and its answer follow from its numbers.

Three different things, each judged on its own:

* A *claim* is right if the source says the same about a subject of the question. A claim about another finding,
  disease or unknown name is wrong even if it is true: it is no evidence here. The same claim twice counts once.
  Two different values for one subject are two claims.
* *Arithmetic* takes the stated numbers as they are. A total is the sum of the levels in its step.
  A gain is the information gain of the two levels in its step. A running sum is the one before plus the points.
  "inside" means that the stated clearance lies in the stated range.
  The conclusion's number is the highest total or gain, the last sum, or a range called "inside".
* The answer *follows* if the stated numbers, true or not, single out its option:

  * The highest total or gain, with a value for every option.
  * The last running sum, or the stated total if there is no sum.
  * The only range called "inside", with every option called "inside" or "outside".
    If no option is called either, the concluding range.

  Equals single out none: ``leads_to`` then holds all of them. An item's key is never one of several equals.
  The answer does not follow if the trace's own last answer is another letter.

A repeated step is one step. Other texts too have lines of one part with a name and a number (``Age: 45``).
Such a line is a claim only if the item is about a score and a source knows the name, else it is unread.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from gazal.knowledge.claims import KINDS, Claim, Step, Value, fold
from gazal.knowledge.parts import GAINS
from gazal.knowledge.truth import Key, Truth

SLACK = 1e-9


@dataclass
class Verdict:
    """The counts for one completion.

    ``made`` and ``right``: claims by kind. ``beside``: true claims about what the question leaves out (in neither).
    ``strange``: the claims among ``made`` about something else than the item.
    ``needed``: claims of the full trace. ``covered``: those made, right and nowhere contradicted.
    ``relations``: stated arithmetic. ``holding``: the part of it that is right.
    ``quotes``: repetitions of the question: a letter with its option's name, the age, the clearance.
    ``quoted_right``: those that are right. ``leads_to``: letters that the stated numbers single out.
    ``follows``: None without an answer or without claims.
    """

    steps: int = 0
    unread: int = 0
    made: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    right: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    strange: int = 0
    beside: int = 0
    needed: int = 0
    covered: int = 0
    relations: int = 0
    holding: int = 0
    quotes: int = 0
    quoted_right: int = 0
    leads_to: frozenset[str] = frozenset()
    follows: bool | None = None

    @property
    def claims(self) -> int:
        return sum(self.made.values())

    @property
    def faultless(self) -> bool:
        """Tell if there is at least one claim and none is wrong."""
        return self.claims > 0 and sum(self.right.values()) == self.claims

    def outcome(self, letter: str | None, key: str) -> str:
        """Return one of :data:`OUTCOMES` for the answer ``letter``, None without one, to an item with this key."""
        if letter is None:
            return "no_answer"
        if letter == key:
            sound = self.faultless and self.quoted_right == self.quotes and self.follows
            return "right_sound" if sound else "right_for_wrong_reasons" if self.claims else "right_without_claims"
        return "wrong_from_right_steps" if self.faultless and self.leads_to == {key} else "wrong"


OUTCOMES = (
    "right_sound",
    "right_for_wrong_reasons",
    "right_without_claims",
    "wrong_from_right_steps",
    "wrong",
    "no_answer",
)
"""The outcomes, exactly one per completion.

``right_sound``: every claim and quote is right, and the answer follows.
``right_for_wrong_reasons``: a claim or a quote is wrong, or the answer does not follow.
``right_without_claims``: no claim could be read.
``wrong_from_right_steps``: every claim is right, and the stated numbers single out the key and nothing else.
"""


def judge(steps: list[Step], truth: Truth, letter: str | None) -> Verdict:
    """Judge the steps of a completion that answers ``letter`` (None: no answer) by the source."""
    steps = [
        step if _makes_claims(step, truth) else replace(step, claims=[], unread=[step.text])
        for step in {step.text: step for step in steps}.values()
    ]
    verdict = Verdict(steps=len(steps), unread=sum(bool(step.unread) for step in steps), needed=len(truth.needed))
    _claims(verdict, steps, truth)
    _quotes(verdict, steps, truth)
    relations = set(_relations(steps))
    verdict.relations, verdict.holding = len(relations), sum(holds for *_, holds in relations)
    verdict.leads_to = _leads_to(steps, truth)
    if letter is not None and verdict.claims:
        said = [answer for step in steps for answer in step.answers]
        verdict.follows = verdict.leads_to == {letter} and (not said or said[-1] == letter)
    return verdict


def _makes_claims(step: Step, truth: Truth) -> bool:
    """Tell if the claims read from a step are meant as claims; only a ``bare`` step may mean something else."""

    def known(claim: Claim) -> bool:
        if claim.kind == "result":  # unless the step says "highest", the total may be any option's
            return isinstance(claim.value, tuple) or truth.kind == "prognosis" or "highest" in step.text.casefold()
        if claim.kind == "points" and truth.kind != "prognosis":
            return False
        return claim.kind not in ("points", "level") or all(truth.key(claim)[1 : 1 + len(claim.about)])

    return not step.bare or all(map(known, step.claims))


def _claims(verdict: Verdict, steps: list[Step], truth: Truth) -> None:
    seen: set[tuple[Key, tuple[str, ...], Value]] = set()
    right: set[Key] = set()
    wrong: set[Key] = set()
    scored: set[str] = set()
    for claim in (claim for step in steps for claim in step.claims):
        key = truth.key(claim)
        if claim.kind == "points":
            scored.add(key[1])
        known = key in truth.needed or key in truth.others or key in truth.beside
        expected = truth.running(scored) if claim.kind == "sum" else truth.needed.get(key, truth.others.get(key))
        holds = known and expected == claim.value
        mark = (key, () if known else claim.about, claim.value)
        if (*mark, holds) in seen:
            continue
        seen.add((*mark, holds))
        if holds and key in truth.beside:
            verdict.beside += 1
            continue
        verdict.made[claim.kind] += 1
        verdict.right[claim.kind] += holds
        verdict.strange += not known
        (right if holds else wrong).add(key)
    verdict.covered = len((right - wrong) & truth.needed.keys())


def _quotes(verdict: Verdict, steps: list[Step], truth: Truth) -> None:
    said: set[tuple[str, object, bool]] = set()
    for step in steps:
        said |= {(kind, value, truth.quoted.get(kind) == value) for kind, value in step.quotes}
        option = truth.options.get(fold(step.name)) if step.name else None
        if step.letter and step.name and truth.options:
            said.add((step.letter, fold(step.name), option == step.letter))
    verdict.quotes, verdict.quoted_right = len(said), sum(right for *_, right in said)


def _relations(steps: list[Step]) -> list[tuple[object, ...]]:
    """Return the relations between stated numbers; each is a tuple that ends with whether the relation holds."""
    found: list[tuple[object, ...]] = []
    running, summed = 0.0, any(claim.kind == "sum" for step in steps for claim in step.claims)
    highest: dict[str, float] = {}
    inside: set[Value] = set()
    for step in steps:
        stated: dict[str, list[Claim]] = {kind: [c for c in step.claims if c.kind == kind] for kind in KINDS}
        levels = tuple(c.value for c in stated["level"])
        for claim in (*stated["total"], *stated["gain"]):
            highest[claim.kind] = max(claim.value, highest.get(claim.kind, claim.value))
        inside |= {c.value for c, held in zip(stated["range"], stated["inside"], strict=False) if held.value}
        if levels:
            found += [(step.text, claim, abs(sum(levels) - claim.value) < SLACK) for claim in stated["total"]]
        if len(levels) == 2:
            found += [(step.text, claim, GAINS.get(levels) == claim.value) for claim in stated["gain"]]
        for points, claim in zip(stated["points"], stated["sum"], strict=False):
            found.append((step.text, claim, abs(running + points.value[1] - claim.value) < SLACK))
            running = claim.value
        values = [value for kind, value in step.quotes if kind == "clearance"]
        for bounds, claim, value in zip(stated["range"], stated["inside"], values, strict=False):
            low, high = bounds.value
            found.append((step.text, claim, (low <= value and (high is None or value <= high)) == claim.value))
        numbers = set(highest.values()) or ({running} if summed else set())
        for claim in stated["result"]:
            best = inside if isinstance(claim.value, tuple) else numbers
            found += [(step.text, claim, claim.value in best)] if best else []
    return found


def _leads_to(steps: list[Step], truth: Truth) -> frozenset[str]:
    """Return the letters that the stated numbers single out; an option's last number counts."""
    results = [claim.value for step in steps for claim in step.claims if claim.kind == "result"]
    if truth.kind == "prognosis":
        sums = [claim.value for step in steps for claim in step.claims if claim.kind == "sum"]
        return frozenset(truth.letter_of[end] for end in (sums or results)[-1:] if end in truth.letter_of)
    wanted = {"diagnosis": "total", "uncertainty": "gain", "treatment": "inside"}[truth.kind]
    stated: dict[str, float] = {}
    for step in steps:
        letter = step.letter or truth.options.get(fold(step.name or ""))
        for claim in step.claims:
            if claim.kind == wanted and letter:
                stated[letter] = claim.value
    if truth.kind == "treatment" and not stated:
        return frozenset(truth.letter_of[end] for end in results[-1:] if end in truth.letter_of)
    letters = set(truth.letter_of.values()) if truth.kind == "treatment" else set(truth.options.values())
    if not letters <= stated.keys():
        return frozenset()
    top = max(stated[letter] for letter in letters)
    if truth.kind == "treatment" and not top:  # no range is called "inside"
        return frozenset()
    return frozenset(letter for letter in letters if stated[letter] == top)
