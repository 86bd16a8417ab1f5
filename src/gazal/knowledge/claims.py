"""The typed claims of a completion's think block, and the parts of the model card's structure that it keeps.

The language is that of the knowledge-derived traces (:mod:`gazal.knowledge.parts`):
``Step 2: B. Disease: finding: 3; absent finding: -1; total: 2``.
Missing numbers, letters or labels, bullets, levels in words, other spacing and other minus signs are accepted.
Reading knows no item: the form alone makes a claim, even about a name that the question does not hold.
(:mod:`gazal.knowledge.verdicts` then tells which ``bare`` lines are claims.)
Text that cannot be read is kept as ``unread``, never dropped. That includes all prose.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from gazal.answers.extract import has_think_block
from gazal.answers.markup import OWN, part
from gazal.items.prompts import HEADING, SECTIONS
from gazal.knowledge.hpo import LEVEL_NAMES

KINDS = ("term", "level", "total", "gain", "range", "inside", "points", "sum", "count", "result")
"""The kinds of claims.

``term``: a lay term's finding. ``level``: a finding's level in a disease. ``total``: a disease's total.
``gain``: a finding's gain. ``range``: an option's clearances. ``inside``: if that range holds the patient's clearance.
``points``: a criterion's points. ``sum``: the running sum after a criterion. ``count``: the number of criteria.
``result``: the highest total or gain, the total, or the range that the last step concludes from.
"""

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
    """A statement that can be true or false; ``about`` holds names as written, folded by :func:`fold`.

    ``value`` is a number, with these exceptions. ``term``: a folded name. ``inside``: a bool.
    ``range``, and ``result`` of a range: (low, high), high None if there is no upper bound.
    ``points``: whether "absent" is said, and the number.
    """

    kind: str
    about: tuple[str, ...]
    value: Value


@dataclass
class Step:
    """One line of a trace.

    ``letter`` and ``name``: the option that it is about, as written. ``scored``: the last criterion given points.
    ``quotes``: numbers repeated from the question, ``("age", 45)`` or ``("clearance", 54)``.
    ``unread``: the parts without a claim that can be read. ``bare``: the line has only one part.
    """

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
    """Return the name for comparison: in lower case, with single spaces, without marks of emphasis."""
    return " ".join(name.replace("*", " ").casefold().split())


def number(text: str) -> float | None:
    """Return the number in ``3``, ``1.5``, ``-2`` (any minus sign) or ``4 points``; None for other text."""
    found = _NUMBER.fullmatch(text.strip(" *."))
    return None if found is None else (-float(found[2]) if found[1] else float(found[2]))


def _level(text: str) -> float | None:
    """Return the level in ``Very frequent`` or ``not reported (0)``.

    None: another text, or a name and a number that disagree.
    """
    found = _LEVEL.fullmatch(fold(text.strip(" *.")))
    level = next((level for level, name in LEVEL_NAMES.items() if found and name == found[1]), None)
    return None if level is None or found[2] not in (None, str(level)) else float(level)


def clearance_range(text: str) -> tuple[int, int | None] | None:
    """Return (low, high) of ``10 to 49``, (low, None) of ``50 and above``; None for other text."""
    text = text.strip(" *.")
    if found := _BETWEEN.fullmatch(text):
        return int(found[1]), int(found[2])
    found = _ABOVE.fullmatch(text)
    return (int(found[1] or found[2]), None) if found else None


def trace_text(completion: str, think_open: bool = False) -> str:
    """Return the think block's text; if no block is closed, the text before the assessment.

    ``think_open`` says that the prompt has opened the block.
    """
    parted = part(completion, think_open)
    if parted.thought is not None and parted.markup is not OWN:
        return parted.thought if parted.answer is not None else parted.thought.partition(HEADING)[0]
    text = completion[: parted.end]
    if not think_open and "<think>" in text:
        text = text.partition("<think>")[2]
    inside, closed, _ = text.partition("</think>")
    return inside if closed else inside.partition(HEADING)[0]


def read_steps(completion: str, think_open: bool = False) -> list[Step]:
    """Return the trace's steps in order, without blank ones. A line may hold several numbered steps."""
    return [
        read_step(body)
        for line in trace_text(completion, think_open).splitlines()
        for body in _STEP.split(line)[::2]
        if body.strip()
    ]


def read_step(body: str) -> Step:
    """Read one step, given without its number."""
    if bullet := _BULLET.match(body):
        body = body[bullet.end() :]
    step, terms = Step(" ".join(body.split()), bare=";" not in body), False
    found = _LETTER.match(body.strip())
    if found:
        step.letter, body = found[1], found[2]
    for place, piece in enumerate(body.split(";")):
        segments = [segment.strip(" *.\t") for segment in piece.split(":")]
        if place == 0:
            terms = fold(segments[0]) in ("terms", "term")
            segments = segments[1:] if terms else segments
            head = segments[0] if len(segments) > (1 if step.letter else 2) else None
            if head is not None and not (fold(head) in _LABELS or number(head) is not None or _AGE.fullmatch(head)):
                step.name = head
        if any(segments) and not (_read_term(step, segments) if terms else _read_part(step, place, segments)):
            step.unread.append(piece.strip())
    return step


def _read_term(step: Step, segments: list[str]) -> bool:
    lay, equals, name = ":".join(segments).partition("=")
    if not (equals and fold(lay) and fold(name)):
        return False
    step.claims.append(Claim("term", (fold(lay),), fold(name)))
    return True


def _read_part(step: Step, place: int, segments: list[str]) -> bool:
    """Read ``name: … : value`` into the step; return False if it is neither a claim nor an answer."""
    *names, last = segments
    if not names:
        return False
    label, value = fold(names[-1]), number(last)
    label = "total" if label in ("total score", "total points") else label
    value = _level(last) if value is None else value
    if label == "answer":
        found = _ANSWER.match(last)
        step.answers += [found[1]] if found else []
        return found is not None
    if label in ("range", "inside"):
        bounds = clearance_range(last)
        if bounds is None:
            return False
        of_option = step.letter and label == "range"
        step.claims.append(Claim("range", (step.letter,), bounds) if of_option else Claim("result", (), bounds))
        return True
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
    """Return what a total, gain or sum in this step belongs to: the last criterion, else the name, else the letter."""
    return step.scored or fold(step.name or step.letter or "") or None


def _read_named(step: Step, place: int, names: list[str], value: float) -> bool:
    """Read a level or a criterion's points into the step; return False if the part is neither.

    Levels: ``head: finding: 3``, in later parts ``finding: 3``.
    Points: ``criterion: 1``, ``criterion: absent: 0``, ``age 45: criterion: 1``.
    """
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
    """Return which parts of the model card's structure a completion keeps.

    ``think``: one closed think block at the start. ``steps``: the block is steps ``Step 1:`` to n in order, none empty.
    ``assessment``: the text after it begins with ``## Clinical Assessment``, and has that heading once.
    ``answer``: the last line, and no other, is ``**Answer:** X``.
    ``sections``: the card's four, in order, none empty, with the management numbered from 1.
    """
    text = completion.strip()
    pieces = _STRICT_STEP.split(trace_text(text, think_open).strip())
    after = text.rpartition("</think>")[2].strip()
    is_answer = [bool(_ANSWER_LINE.fullmatch(line.strip())) for line in after.splitlines()]
    body = "\n".join(line for line, answer in zip(after.splitlines(), is_answer, strict=True) if not answer)
    _, *rest = _SECTION.split(body)
    contents = dict(zip(rest[::2], (part.strip() for part in rest[1::2]), strict=True))
    listed = _LISTED.findall(contents.get("Immediate Management", ""))
    return {
        "think": has_think_block(text, think_open),
        "steps": not pieces[0] and _count_up(pieces[1::2]) and all(map(str.strip, pieces[2::2])),
        "assessment": after.startswith(HEADING) and after.count(HEADING) == 1,
        "answer": sum(is_answer) == 1 and is_answer[-1],
        "sections": tuple(rest[::2]) == SECTIONS and all(contents.values()) and _count_up(listed),
    }


def _count_up(numbers: list[str]) -> bool:
    """Return True if the numbers are 1, 2, 3 and so on, at least one of them."""
    return bool(numbers) and list(map(int, numbers)) == list(range(1, len(numbers) + 1))
