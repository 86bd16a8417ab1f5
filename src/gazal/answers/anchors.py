"""Anchors, the words that announce an answer (`Answer:`, `\\boxed{`, `I choose`), and the statements after them.

For `gazal.answers.extract` only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ahocorasick_rs import AhoCorasick, MatchKind

from gazal.answers.statements import MAX_ANCHORS, MAX_STATEMENT, SPEECH

Anchored = tuple[str, str, bool, int, int]
"""The text after an anchor; its part before the next anchor, if that stands in it, else an empty text; whether the
anchor denies it; where the text starts and ends in the region."""

_VERBS = ("choose", "select", "pick", "go with")
_BOXES = ("boxed{", "fbox{", "framebox{")
_KEYS = (
    "answer", *_BOXES, "ans:", "ans.", "option", "choice", "response", *_VERBS,
    "respuesta", "antwort", "答案", "réponse", "ответ",
)  # fmt: skip
_SCANNER = AhoCorasick(_KEYS, matchkind=MatchKind.LeftmostFirst)
_QUALITIES = {"correct", "best", "right", "final", "chosen", "selected", "appropriate", "likely", "my"}
_FIRST_PERSON = re.compile(r"(?<![a-z0-9])i(?:\s+would|\s+will|\s+must|'d|'ll)?\s+$")
_CONNECTIVE = re.compile(
    r"(?:[_ ](?:idx|index|letter|choice|option|key))?(?![a-z0-9])"
    r"(?:\s*[(\[][^()\[\]\n]{2,60}[)\]])?(?:\s+(?:to|for|of|in|here|from|among|that)\b[^\n.:;?!]{0,80}?)?"
    r"[ \t*_\"'`\])]*+"
    r"(?:\b(?:(?P<no>(?:(?:is|would|could)(?:n't|\s+not)|can(?:not|'t|\s+not))(?:\s+be)?)"
    r"|is|would\s+be|should\s+be|must\s+be|will\s+be|remains)"
    r"(?!\w)|:|=+>?|-+>|→|>|\||是|为|[–—]|-(?=\s))[ \t*_:]*+",
    re.I,
)
_HEADING = re.compile(r"[ \t*_\"'`:#]*+(?=\n)|[ \t*_]++(?=\W?[A-J]\W{0,6}(?:\n|$))")
_HEADING_BEFORE = re.compile(r"^[\W_]*(?:(?:the|my|final|correct|best)\s+){0,2}$")
_ANOTHER = set(
    "wrong incorrect other another alternative worst previous initial tempting "
    "no any an each every which what not non".split()
)
_IF = {"if", "unless", "suppose", "assuming", "else", "otherwise"}
_SPEECH_OR_DOUBT = SPEECH | {"whether"}
_ASKING = {"if", "could", "would", "might", "is"}
_DOUBTED = re.compile(
    r"(?:(?:not|n't|never)\s+(?:think|believe|say|agree|mean|sure|certain)\s+(?:that\s+|if\s+)?(?:the\s+|my\s+)?"
    r"|\bdoubt\s+(?:that\s+)?(?:the\s+)?)"
    rf"(?:(?:{'|'.join(sorted(_QUALITIES))})\s+)?$"
)
_EQUATION = re.compile(r"\W*[A-Za-z]\w*\s*[/*+^:-]\s*[A-Za-z]\w*\s*=")
_FIRST_VIEW = re.compile(
    rf"\b(?:at first(?: sight| glance)?|initially|tentatively)\W*(?:(?:the|my|{'|'.join(sorted(_QUALITIES))})\s+)*$"
)
_DOUBTS = {"not", "cannot", "never", "doubt"}
_LEAD_IN = re.compile(r"[\s\W]*(?:(?:the|my|so|thus|hence|therefore|final|correct|best|right)\b\W{0,4}){0,4}$", re.I)
_MARKS = " \t*_\"'`([{#>,;:-"
_WORDS = re.compile(r"[^\W_]+(?:'[a-z]+)?")
_BLANK = re.compile(r"[\s*_\"'`:#>]*+")


def anchored_values(region: str, lower: str) -> Iterator[Anchored] | None:
    """Yield one entry per anchor, in order; return None if there are more than `MAX_ANCHORS` anchor words.

    lower: region.lower(), of the same length.
    """
    if len(lower) > 20_000 and sum(map(lower.count, _KEYS)) > MAX_ANCHORS:
        return None
    hits = _SCANNER.find_matches_as_indexes(lower)
    return _values(region, lower, hits) if len(hits) <= MAX_ANCHORS else None


def _values(region: str, lower: str, hits: list[tuple[int, int, int]]) -> Iterator[Anchored]:
    found = []
    for number, at, after in hits:
        if start := _value_start(_KEYS[number], region, lower, at, after):
            found.append((_KEYS[number], at, *start))
    nexts = [at for _, at, _, _ in found[1:]]
    for (key, _, start, denied), following in zip(found, [*nexts, len(region)], strict=False):
        value, begin, end = _statement(region, start, "}" if key in _BOXES else "\n")
        if key in _BOXES and _EQUATION.match(value):
            continue
        cut = value[: following - begin] if begin < following < end else ""
        yield value, cut[:-60] + _LEAD_IN.sub("", cut[-60:]), denied, begin, end


def _value_start(key: str, region: str, lower: str, at: int, after: int) -> tuple[int, bool] | None:
    """Return the start of the value of the anchor word at `at`, and whether it is denied; None if it is no anchor."""
    if key in _BOXES:
        return (after, False) if lower[at - 1 : at] == "\\" else None
    if "a" <= lower[after : after + 1] <= "z" and key[-1] not in ":.":
        return None
    before = lower[max(0, at - 100) : at]
    before = before[max(map(before.rfind, ".!?\n")) + 1 :]
    parts: list[str] = []
    words: list[str] = []
    if before.strip(_MARKS):
        parts = before.split()
        words = _WORDS.findall(before, max(0, len(before) - 48, *map(before.rfind, ",;:{[(")))[-3:]
    if key in _VERBS:
        return (after, False) if _FIRST_PERSON.search(before[-12:]) else None
    if key[:3] == "ans" and key != "answer":
        return (after, False) if _HEADING_BEFORE.search(before) else None
    if key in ("option", "choice", "response"):
        if words and not (
            before[-1].isspace() and _QUALITIES.intersection(words[-1:] if words[-1] != "answer" else words[-2:])
        ):
            return None
    elif parts and _of_another(before, parts, words):
        return None
    elif _HEADING_BEFORE.search(before) and (heading := _HEADING.match(region, after)):
        return heading.end(), False
    if not (connective := _CONNECTIVE.match(region, after, after + 160)):
        return None
    doubted = ("n't" in before or not _DOUBTS.isdisjoint(parts)) and _DOUBTED.search(before)
    return connective.end(), bool(connective["no"] or doubted)


def _of_another(before: str, parts: list[str], words: list[str]) -> bool:
    """Return whether the words before an anchor make it another's, or a question: `wrong answer`, `if the answer`."""
    last = before[-1]
    if (
        last == "/"
        or "a" <= last <= "z"
        or parts[0].strip(_MARKS) in _IF
        or not _SPEECH_OR_DOUBT.isdisjoint(parts)
        or "according to" in before
        or _FIRST_VIEW.search(before)
    ):
        return True
    if (
        not words
        or words[-1] in _ANOTHER
        or (last == "_" and not _ANOTHER.isdisjoint(parts[-1].strip(_MARKS).split("_")))
    ):
        return bool(words)
    if words[-1] not in ("the", "my"):
        words = words[:-1]
    return len(words) > 1 and words[-1] in ("the", "my") and words[-2] in _ASKING


def _statement(region: str, start: int, stop: str) -> tuple[str, int, int]:
    """Return the value from `start` to `stop`, its start and its end.

    If the rest of the line is blank, the value is the next line that is not.
    """

    def value_to(stop: str) -> tuple[str, int]:
        end = region.find(stop, start, start + MAX_STATEMENT)
        end = min(len(region), start + MAX_STATEMENT) if end < 0 else end
        return region[start:end], end

    value, end = value_to(stop)
    if not value.strip(" \t*_\"'`:#>"):
        blank = _BLANK.match(region, start, start + 80)
        start = blank.end() if blank else start
        value, end = value_to("\n")
    return value.partition("</")[0], start, end
