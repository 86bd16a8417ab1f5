"""From which number the keys of MedMCQA (``cop``) count: from 0 on the hub, from 1 in the original files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

NO_KEY = (None, -1)  # what stands for a key in a row without one
ORIGIN = {0: "as on the hub", 1: "as in the original files"}
# A letter: any of them before a sign or the end, a capital also before a word. A bare "A" there may be an article.
AFTER = r"(?=\s*(?:['’](?!\w)|[\"”`)\].,:;=]|i\.?\s?e\b|\n|\Z)|\s+[-–]|\s*[-–]\s)"
LETTER = rf"['\"‘’“”`(\[\s]*\b([A-Da-d]{AFTER}|[B-D]\b(?!['’-]\w))"
IS = r"\.?(?:\s+(?i:is|was))?[\s:=.,–-]*(?:(?i:option|choice)\b[\s:=.–-]*)?"
# How an explanation names the answer: "Ans. is 'b' i.e., Heparin", "Answer: B", "option B is correct".
NAMED = (
    re.compile(rf"\b(?i:ans|answer)\b{IS}{LETTER}"),
    re.compile(rf"\b(?i:correct|right)\s+(?i:option|choice)\b{IS}{LETTER}"),
    re.compile(rf"\b(?i:option|choice)\s*{LETTER}['\"’”)\]]*\s+(?i:is\s+(?:the\s+)?(?:correct|right|true|answer))\b"),
)
LISTED = re.compile(r"(?<!\w)\(?([A-Da-d])[).](?=\s)")  # at its beginning: "(b) Heparin", but not if "(c)" follows


def named_letter(explanation: Any) -> str | None:
    """Return the letter that an explanation names as the answer; None if it names none, or more than one."""
    if not isinstance(explanation, str):
        return None
    text = explanation.strip()
    found = [pattern.findall(text) for pattern in NAMED]
    if LISTED.match(text):
        found.append(LISTED.findall(text))
    named = {letter.upper() for letter in next(filter(None, found), ())}
    return named.pop() if len(named) == 1 else None


def key_base(rows: Iterable[tuple[int, dict[str, Any]]], given: int | None = None) -> int | None:
    """Return the number from which ``cop`` counts; None if no row has a key.

    ``rows`` come with their numbers, from 1. Keys 0 and 4 each decide it. If neither is there it is ``given``. Raise
    ValueError, naming the row, for any other key and for both 0 and 4. Raise it too if nothing is given: it then asks
    for the base, and says which one the explanations fit.
    """
    first: dict[int, int] = {}
    named = [0, 0, 0]  # explanations that name a letter: fitting base 0, base 1, neither
    for number, row in rows:
        key = row.get("cop")
        if key in NO_KEY:
            continue
        if type(key) is not int or not 0 <= key <= 4:
            raise ValueError(f"row {number}: cop: expected 0 to 3 or 1 to 4, found {key!r:.40}")
        first.setdefault(key, number)
        if letter := named_letter(row.get("exp")):
            base = key - "ABCD".index(letter)
            named[base if base in (0, 1) else 2] += 1
    if 0 in first and 4 in first:
        raise ValueError(
            f"row {max(first[0], first[4])}: cop: expected 0 to 3 or 1 to 4 in one file, "
            f"found 0 in row {first[0]} and 4 in row {first[4]}"
        )
    if not first:
        return None
    if 0 in first or 4 in first:
        return int(4 in first)
    if given is None:
        raise ValueError(_unsure(first, named))
    return given


def _unsure(first: dict[int, int], named: list[int]) -> str:
    """Return the line that asks for the base, with what the explanations say of it."""
    line = (
        f"row {min(first.values())}: cop: keys {', '.join(map(str, sorted(first)))} fit counting from 0 and from 1; "
        "say which by --key-base 0 or --key-base 1 (recipe: data.key_base)"
    )
    if named[0] == named[1]:
        return line
    base = int(named[1] > named[0])
    return f"{line}; the explanations fit --key-base {base} ({named[base]} of {sum(named)} that name a letter)"
