"""One completion held against the source: which of its claims are true, whether its sums and its answer follow from what it says.

Three different things, each judged on its own:

* a *claim* is right where the source says the same of what the question asks about. A claim about something else (a finding
  or a disease that the question does not name, an unknown name) is wrong, be it true or not: it is no evidence here. Saying
  the same twice counts once; saying two different things of one subject is two claims.
* *arithmetic* takes the stated numbers as they are: a total is the sum of the levels in its step, a gain that of the two
  levels, a running sum the one before plus the points, "inside" that the stated clearance lies in the stated range, and the
  conclusion's number the highest total or gain, the last sum or the range called "inside".
* the answer *follows* where the stated numbers single its option out, be they true or not: the highest total or gain with
  every option weighed, the last running sum (else the stated total), the only range called "inside" with every option's
  range stated (else the concluding range). Among equals none is singled out (``leads_to`` then holds all of them; the key
  of an item is never tied). It does not follow either where the trace's own last answer is another letter.

The same step written again is one step. A line of one part with a name and a number, as others write too (``Age: 45``), is a claim
only where the item is of a score and a source knows the name: else it need not mean what it would mean in a trace, and is unread.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from gazal.knowledge.claims import KINDS, Claim, Step, Value, fold
from gazal.knowledge.parts import GAINS
from gazal.knowledge.truth import Key, Truth

SLACK = 1e-9


@dataclass
class Verdict:
    """``made`` and ``right``: claims by kind; ``beside``: true claims about what the question left out, in neither. ``needed`` and
    ``covered``: claims of the full trace, and those of them that are made, right and nowhere contradicted. ``relations`` and
    ``holding``: arithmetic. ``quotes`` and ``quoted_right``: repetitions of the question (a step's letter with its option's name, the age,
    the clearance). ``leads_to``: letters that the stated numbers single out. ``follows``: None without an answer or without claims."""

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
        """At least one claim, and none is wrong."""
        return self.claims > 0 and sum(self.right.values()) == self.claims

    def outcome(self, letter: str | None, key: str) -> str:
        """One of :data:`OUTCOMES`."""
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
"""What becomes of a completion, exactly one each. The right answer: *sound*, every claim and every quotation is right and the
answer follows; *for wrong reasons*, some claim or quotation is wrong or the answer does not follow; *without claims*, none could be
read. A wrong answer *from right steps*: every claim is right and the stated numbers single out the key and nothing else."""


def judge(steps: list[Step], truth: Truth, letter: str | None) -> Verdict:
    """Hold the steps of a completion that answers ``letter`` (None: nothing) against the source."""
    steps = [
        step if _speaks(step, truth) else replace(step, claims=[], unread=[step.text])
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


def _speaks(step: Step, truth: Truth) -> bool:
    """Whether what was read as claims is meant so."""

    def known(claim: Claim) -> bool:
        if claim.kind == "result":  # of several options each has its total; the highest is said to be it
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
        expected = (
            truth.running(scored) if claim.kind == "sum" and known else truth.needed.get(key, truth.others.get(key))
        )
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
    """Each relation between stated numbers, last whether it holds."""
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
        for claim in stated["result"]:
            best = (
                inside if isinstance(claim.value, tuple) else set(highest.values()) or ({running} if summed else set())
            )
            found += [(step.text, claim, claim.value in best)] if best else []
    return found


def _leads_to(steps: list[Step], truth: Truth) -> frozenset[str]:
    """The letters that the stated numbers single out; of an option's several numbers the last counts."""
    results = [claim.value for step in steps for claim in step.claims if claim.kind == "result"]
    if truth.kind == "prognosis":
        ends = [claim.value for step in steps for claim in step.claims if claim.kind == "sum"][-1:] or results[-1:]
        return frozenset(truth.letter_of[end] for end in ends if end in truth.letter_of)
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
    return (
        frozenset(letter for letter in letters if stated[letter] == top)
        if top or truth.kind != "treatment"
        else frozenset()
    )
