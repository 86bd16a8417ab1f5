"""A completion's think block as typed claims, and whether the completion keeps the model card's structure.

The language is that of the knowledge-derived traces (:mod:`gazal.knowledge.parts`): ``Step 2: B. Disease: finding: 3;
absent finding: -1; total: 2``. Reading is tolerant (missing numbers, letters or labels, bullets, levels in words, odd spacing, a
minus sign of another kind) and knows no item: what is a claim by its form is one, be it about a name that nobody asked about
(but see :func:`gazal.knowledge.verdicts.judge` on ``bare`` lines). What cannot be read is kept as ``unread``, never dropped.
Prose makes no claims that can be read here, so all of it is unread.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from gazal.answers.extract import END_OF_TURN, has_think_block
from gazal.items.prompts import HEADING, SECTIONS
from gazal.knowledge.hpo import LEVEL_NAMES

KINDS = ("term", "level", "total", "gain", "range", "inside", "points", "sum", "count", "result")
"""What a claim is about: a lay term's finding; a finding's level in a disease; a disease's total; a finding's gain; an option's
clearance range, and whether it holds the patient's clearance; a criterion's points; the running sum after it; the number of
criteria; and what the last step concludes from (highest total or gain, total, range)."""

_STEP = re.compile(r"(?:^|(?<=\s))[*#]*\s?step\s+(\d+)\s*[:.)]\**[ \t]*", re.I)
_STRICT_STEP = re.compile(r"^Step (\d+):(?:[ \t]|$)", re.M)
_BULLET = re.compile(r"\s*[-–•*]\s+")
_LETTER = re.compile(r"[*(]*([A-J])[*]*[.)][*]*\s+(.*)", re.S)
_ANSWER = re.compile(r"[*(\s]*([A-J])(?![A-Za-z])")
_NUMBER = re.compile(r"\+?([-−–]?)(\d{1,9}(?:\.\d{1,6})?)(?:\s*points?)?", re.I)
_LEVEL = re.compile(rf"({'|'.join(LEVEL_NAMES.values())})(?:\s*\((\d)\))?")
_BETWEEN = re.compile(r"(\d{1,9})\s*(?:to|-|–|−)\s*(\d{1,9})", re.I)
_ABOVE = re.compile(r"(\d{1,9})\s*(?:and above|and more|or above|or more|\+)|(?:≥|>=)\s*(\d{1,9})", re.I)
_AGE = re.compile(r"age:?\s+(\d{1,3})", re.I)
_ANSWER_LINE = re.compile(r"\*\*Answer:\*\* [A-J]\b.*")
_SECTION = re.compile(rf"^\*\*({'|'.join(SECTIONS)}):?\*\*:?[ \t]*", re.M)
_LISTED = re.compile(r"^(\d+)[.)] ", re.M)
_LABELS = ("range", "absent", "total", "gain", "sum", "answer", "criteria", "inside", "highest total", "highest gain")

Value = float | str | bool | tuple[int, int | None] | tuple[bool, float]


class Claim(NamedTuple):
    """``about``: names as written, folded by :func:`fold`. ``value``: a number; ``term``: a folded name; ``range`` (and ``result`` of
    a range): low and high, None where there is no upper bound; ``inside``: bool; ``points``: whether "absent" is said, and the number."""

    kind: str
    about: tuple[str, ...]
    value: Value


@dataclass
class Step:
    """One line of a trace. ``letter`` and ``name``: the option it is about, as written; ``scored``: the last criterion. ``quotes``: what it repeats of the question,
    ``("age", 45)`` or ``("clearance", 54)``. ``unread``: the parts that no claim could be read from. ``bare``: the line has one part only."""

    text: str
    letter: str | None = None
    name: str | None = None
    scored: str = ""
    claims: list[Claim] = field(default_factory=list)
    quotes: list[tuple[str, float]] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    bare: bool = False


def fold(name: str) -> str:
    """A name as it is compared: case, spaces and marks of emphasis do not count."""
    return " ".join(name.replace("*", " ").casefold().split())


def number(text: str) -> float | None:
    """``3``, ``1.5``, ``-2`` (any minus sign), ``4 points``; else None."""
    found = _NUMBER.fullmatch(text.strip(" *."))
    return None if found is None else (-float(found[2]) if found[1] else float(found[2]))


def _level(text: str) -> float | None:
    """``Very frequent``, ``not reported (0)`` as the level's number; None for anything else, and where the two disagree."""
    found = _LEVEL.fullmatch(fold(text.strip(" *.")))
    return next(
        (
            float(level)
            for level, name in LEVEL_NAMES.items()
            if found and name == found[1] and found[2] in (None, str(level))
        ),
        None,
    )


def clearance_range(text: str) -> tuple[int, int | None] | None:
    """``10 to 49`` or ``50 and above`` as (low, high or None); else None."""
    text = text.strip(" *.")
    if found := _BETWEEN.fullmatch(text):
        return int(found[1]), int(found[2])
    found = _ABOVE.fullmatch(text)
    return (int(found[1] or found[2]), None) if found else None


def trace_text(completion: str, think_open: bool = False) -> str:
    """What stands in the think block; of one that is not closed, or of a completion without, what stands before the assessment."""
    marker = END_OF_TURN.search(completion)
    text = completion[: marker.start()] if marker else completion
    if not think_open and "<think>" in text:
        text = text.partition("<think>")[2]
    inside, closed, _ = text.partition("</think>")
    return inside if closed else inside.partition(HEADING)[0]


def read_steps(completion: str, think_open: bool = False) -> list[Step]:
    """The trace's lines in order, claims read; blank ones left out. A line may hold several numbered steps."""
    return [
        read_step(body)
        for line in trace_text(completion, think_open).splitlines()
        for body in _STEP.split(line)[::2]
        if body.strip()
    ]


def read_step(body: str) -> Step:
    """One step without its number."""
    if bullet := _BULLET.match(body):
        body = body[bullet.end() :]
    step, terms = Step(" ".join(body.split()), bare=";" not in body), False
    found = _LETTER.match(body.strip())
    if found:
        step.letter, body = found[1], found[2]
    for place, part in enumerate(body.split(";")):
        segments = [segment.strip(" *.\t") for segment in part.split(":")]
        if place == 0:
            terms = fold(segments[0]) in ("terms", "term")
            segments = segments[1:] if terms else segments
            named = bool(segments) and (len(segments) > 2 or (step.letter is not None and len(segments) > 1))
            if (
                named
                and fold(segments[0]) not in _LABELS
                and number(segments[0]) is None
                and not _AGE.fullmatch(segments[0])
            ):
                step.name = segments[0]
        if any(segments) and not (_read_term(step, segments) if terms else _read_part(step, place, segments)):
            step.unread.append(part.strip())
    return step


def _read_term(step: Step, segments: list[str]) -> bool:
    lay, equals, name = ":".join(segments).partition("=")
    if not (equals and fold(lay) and fold(name)):
        return False
    step.claims.append(Claim("term", (fold(lay),), fold(name)))
    return True


def _read_part(step: Step, place: int, segments: list[str]) -> bool:
    """Read ``name: … : value`` into the step; False where it is neither a claim nor an answer."""
    *names, last = segments
    if not names:
        return False
    label, value = fold(names[-1]), number(last)
    label, value = (
        "total" if label in ("total score", "total points") else label,
        _level(last) if value is None else value,
    )
    if label == "answer":
        found = _ANSWER.match(last)
        step.answers += [found[1]] if found else []
        return found is not None
    if label in ("range", "inside"):
        bounds = clearance_range(last)
        if bounds is not None:
            step.claims.append(
                Claim("range", (step.letter,), bounds)
                if step.letter and label == "range"
                else Claim("result", (), bounds)
            )
        return bounds is not None
    if fold(last) in ("inside", "outside"):
        quoted = number(names[-1])
        if quoted is None or step.letter is None:
            return False
        step.quotes.append(("clearance", quoted))
        step.claims.append(Claim("inside", (step.letter,), fold(last) == "inside"))
        return True
    if value is None:
        return False
    if label in ("highest total", "highest gain") or (label == "total" and step.name is None and step.letter is None):
        step.claims.append(Claim("result", (), value))
    elif label in ("total", "gain", "sum"):
        subject = _subject(step)
        if subject is None:
            return False
        step.claims.append(Claim(label, (subject,), value))
    elif label == "criteria":
        step.claims.append(Claim("count", (), value))
    else:
        return _read_named(step, place, names, value)
    return True


def _subject(step: Step) -> str | None:
    """What a total, gain or sum in this step is of: the criterion that has just been scored, else the name at its head, else its letter."""
    return step.scored or fold(step.name or step.letter or "") or None


def _read_named(step: Step, place: int, names: list[str], value: float) -> bool:
    """``head: finding: 3``, further on ``finding: 3``; ``criterion: 1``, ``criterion: absent: 0``, ``age 45: criterion: 1``."""
    if place == 0 and (found := _AGE.fullmatch(names[0])):
        step.quotes.append(("age", float(found[1])))
        names, step.name = names[1:], None
    if not all(map(fold, names)):
        return False
    absent = len(names) > 1 and fold(names[-1]) == "absent"
    if absent:
        names = names[:-1]
    if absent or (len(names) == 1 and place == 0 and step.letter is None):
        step.scored, step.name = fold(names[-1]), None
        step.claims.append(Claim("points", (step.scored,), (absent, value)))
    elif step.name and len(names) == (2 if place == 0 else 1):
        step.claims.append(Claim("level", (fold(step.name), fold(names[-1])), value))
    elif len(names) == 1 and place and step.letter is None and step.name is None:
        step.scored = fold(names[0])
        step.claims.append(Claim("points", (step.scored,), (False, value)))
    else:
        return False
    return True


def structure(completion: str, think_open: bool = False) -> dict[str, bool]:
    """Which parts of the card's structure a completion keeps.

    ``think``: one closed think block at the start. ``steps``: the block is steps numbered ``Step 1:`` to n in order, none empty.
    ``assessment``: what follows it begins with ``## Clinical Assessment``, once. ``answer``: the last line, and no other, is
    ``**Answer:** X``. ``sections``: the card's four are there, in order, none empty, and the management is numbered from 1.
    """
    text = completion.strip()
    pieces = _STRICT_STEP.split(trace_text(text, think_open).strip())
    numbers = [int(found) for found in pieces[1::2]]
    after = text.rpartition("</think>")[2].strip()
    answers = [at for at, line in enumerate(after.splitlines()) if _ANSWER_LINE.fullmatch(line.strip())]
    body = "\n".join(line for line in after.splitlines() if not _ANSWER_LINE.fullmatch(line.strip()))
    _, *rest = _SECTION.split(body)
    contents = dict(zip(rest[::2], (part.strip() for part in rest[1::2]), strict=True))
    listed = [int(found) for found in _LISTED.findall(contents.get("Immediate Management", ""))]
    return {
        "think": has_think_block(text, think_open),
        "steps": bool(numbers)
        and not pieces[0]
        and numbers == list(range(1, len(numbers) + 1))
        and all(piece.strip() for piece in pieces[2::2]),
        "assessment": after.startswith(HEADING) and after.count(HEADING) == 1,
        "answer": len(answers) == 1 and answers[0] == len(after.splitlines()) - 1,
        "sections": tuple(rest[::2]) == SECTIONS
        and all(contents.values())
        and bool(listed)
        and listed == list(range(1, len(listed) + 1)),
    }
