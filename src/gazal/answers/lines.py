"""Answers stated without an anchor: lone letter lines, `C is correct`, an option's own line.

For `gazal.answers.extract` only.
"""

from __future__ import annotations

import re
from functools import lru_cache

from ahocorasick_rs import AhoCorasick, MatchKind

from gazal.answers.statements import MAX_LINES, MAX_STATEMENT, Reason, is_other, offers_another, read_value, tail_of
from gazal.answers.text import LETTER, NOT_GLUED, Options, plain_letter

CLOSING = 20_000
"""Characters at the end of the region in which `C is correct` and `the best is C. <its text>` are looked for."""
_BULLET = r"[>#\s*_\"'`$(\[{•-]*+"
LONE = re.compile(
    rf"{_BULLET}(?:(?:therefore|thus|so|hence|it\s+is|it's)[,:]?\s+)?(?:(?:option|choice|letter)[\s:*(]{{1,4}})?"
    rf"({LETTER}){NOT_GLUED}[\s*_\"'`$)\]}}.:,!]*+",
    re.I,
)
_LONE_LINE = re.compile(
    rf"\n[># \t*_\"'`$(\[{{•-]*+(?:option\s)?((?-i:{LETTER})){NOT_GLUED}(?:[^\w\n]{{1,8}}\1{NOT_GLUED}){{0,20}}"
    r"[^\w\n?]{0,40}+(?=\n|$)",
    re.I,
)
_DENIAL = re.compile(
    rf"\n[>#\s*_-]{{0,9}}+(?:(?:it\s+is|it's|actually)\s+)?not\s+(?:option\s)?[(*]{{0,3}}({LETTER}){NOT_GLUED}", re.I
)
LETTERED = re.compile(rf"{_BULLET}(?:(?:option|choice)\s+)?[*(\[]*+({LETTER}){NOT_GLUED}", re.I)
_LEAD = re.compile(_BULLET)
_IS_CORRECT = re.compile(
    r"(?<![\w'-])(?:[Oo]ption\s|[Cc]hoice\s)?[(*\"]{0,3}([A-J])[)*\"]{0,3}(?:\s?\([^()\n]{0,200}\))?\s"
    r"(?:is|would be)\s(?:the\s)?(?:most\s|single\s|only\s)?(?:correct|best|right|likely|appropriate)\b"
)
_CALLED = re.compile(r" (?:is|would be) (?:the )?(?:most |single |only )?(?:correct|best|right|likely|appropriate)\b")
_PICKED = re.compile(rf" (?:is|would be|should be|:) [*_(\[]{{0,4}}([A-J]){NOT_GLUED}[)\].:*]{{1,4}}[ \t]*(?=\w)")
_PICKING = re.compile(r"\b(?:most|best|correct|right|next|of choice|first-line|preferred|likely|diagnosis)\b", re.I)
_PASSING = re.compile(
    r"\b(?:not|never|least|except|alternative|second|other|wrong|incorrect|unlikely"
    r"|if|unless|whether|could|might)\b|n't",
    re.I,
)
_NOT_ALONE = re.compile(r"(?:\b(?:or|and|nor|neither|if|whether|not|that|than)|\b[A-J][)*\"]{0,3}\s*,|/)\s*$", re.I)
_LABEL = re.compile(
    r"(?:the )?(?:most likely |primary |final |correct |best ){0,2}"
    r"(?:diagnosis|treatment|therapy|management|next step|option|choice)\W{0,4}?(?: is\b|:)\W*",
    re.I,
)
_DECLINE = re.compile(
    r"\b(?:cannot|can not|can't|could not|unable to|impossible to|not possible to) (?:be )?"
    r"(?:determine|answer|decide|say|tell|choose|select|know|conclude|help|provide)|\bdo(?:n't| not) know\b"
    r"|\b(?:insufficient|not enough) (?:information|data)\b|\bnone of the (?:above|options|choices)\b"
    r"|\bno (?:correct|valid) (?:answer|option)\b"
)
_HINTS = AhoCorasick((
    "cannot", "can not", "can't", "could not", "unable to", "possible to", "not know", "n't know", "insufficient",
    "not enough", "none of the", "no correct", "no valid", "not ", "wrong", "incorrect",
), matchkind=MatchKind.LeftmostFirst)  # fmt: skip
"""Without one of these a text neither declines nor denies a letter."""
_CONTRAST = re.compile(r"\b(?:not|never|nor|except|rather than|instead of)\b|n't\b")
_LETTER_OR_LETTER = re.compile(
    r"[A-J](?<!\w.)\b[^\w\n]{0,6}(?:or|and|and/or|/|,|vs)[^\w\n]{0,6}(?:option |or )?[A-J]\b"
)
_LETTER_DENIED = re.compile(
    r"\bnot (?:option )?[a-j]\b|(?<!\w)[a-j]\b[^\w\n]{0,3} (?:is|are) (?:not|wrong|incorrect)\b"
)
_CAPITAL = re.compile(r"(?<!\w)[A-J](?!\w)")
_ENDS_IN_LETTER = re.compile(r"(?<!\w)[a-j]$")
_ITEM = re.compile(r"^(?:\d+[.)]\s*)?(?:[\w ]{1,40}:\W*)?")
_EMPTY = r"(?:[a-j]{1,2}|or|and|the|so|then|it|is|not|answer|option|choice|correct|best|right)(?!\w)"
_NO_CONTENT = re.compile(rf"(?<!\w){_EMPTY}|[\W\d_]|(?<=<)/?\w+(?=>)")
_FIRST_WORD = re.compile(rf"[\W_]*(?:\d+[.)]\s*)?(?:[\w ]{{1,40}}:[\W_]*)?(?:{_EMPTY}[\W_]+)*([^\W_]+)", re.I)
_RETRACTIONS = AhoCorasick((
    "wait,", "wait.", "wait!", "wait -", "wait—", "wait–", "wait no", "wait:", "wait that", "wait i",
    "actually,", "actually no", "actually it", "correction:", "on second thought", "scratch that", "i take that back",
    "i take it back", "i was wrong", "i made a", "disregard", "ignore that", "ignore my", "ignore the above",
    "never mind", "nevermind", "let me reconsider", "let me rethink", "let me re-", "let me recheck", "let me correct",
    "hmm", "no, ", "sorry,", "oops", "that is wrong", "that's wrong",
    "that is incorrect", "that's incorrect", "this is wrong", "this is incorrect", "this answer is wrong",
    "i change my", "i disagree", "i retract", "just kidding", "or maybe", "or perhaps", "not really", "my mistake",
), matchkind=MatchKind.LeftmostLongest)  # fmt: skip


def unanchored(region: str, lower: str, opts: Options) -> tuple[Reason, str | None, int]:
    """Return reason, letter and the answer's end in a region without an anchored answer.

    The ranks are those of `gazal.answers.extract`.
    """
    if region.count("\n") >= MAX_LINES:
        return Reason.TOO_MANY_CANDIDATES, None, 0
    lone: dict[str, int] = {}
    stated: dict[str, int] = {}
    alone: dict[str, int] = {}
    bare: set[str] = set()
    unknown = offered = False
    problem: Reason | None = None
    lines = [line.strip() for line in region.split("\n")]
    end = -1
    for number, (raw, line) in enumerate(zip(region.split("\n"), lines, strict=True)):
        end += len(raw) + 1
        if not line or len(line) > MAX_STATEMENT:
            continue
        if len(line) < 60 and (match := LONE.fullmatch(line)):
            reason, letter = read_value(match[1], opts)
            if letter:
                lone[letter] = end
            unknown = unknown or not letter
            continue
        reason, letter, whole = _read_line(line, opts)
        if letter:
            stated[letter] = end
            if whole and not LETTERED.match(line):
                bare.add(letter)
            if whole and not any(lines[max(0, number - 1) : number]) and not any(lines[number + 1 : number + 2]):
                alone[letter] = end
        elif reason is not Reason.NO_ANSWER:
            problem = problem or reason
            offered = offered or (reason is Reason.HEDGED and len(line) < 40)
    if len(lone) == len(bare) == 1 and bare != lone.keys():
        return Reason.SEVERAL_CANDIDATES, None, 0
    called = {} if lone else _called_correct(region, lower, opts) | _picked(region, opts)
    for found in (lone, called, alone, stated):
        if len(found) > 1:
            return Reason.SEVERAL_CANDIDATES, None, 0
        if found:
            if problem is Reason.LETTER_TEXT_CONFLICT or offered:
                return problem or Reason.HEDGED, None, 0
            return Reason.OK, *next(iter(found.items()))
    if unknown:
        return Reason.LETTER_NOT_AN_OPTION, None, 0
    return problem or _why_none(region, lower, opts), None, 0


def _read_line(line: str, opts: Options) -> tuple[Reason, str | None, bool]:
    """Return reason, letter and whether the line holds nothing more, of a line that may be an option's own text.

    The text may follow a letter.
    """
    lead = _LEAD.match(line)
    statement = line[lead.end() :] if lead else line
    if len(line) <= opts.longest + 150:
        text = opts.canon(line)
        label = _LABEL.match(text)
        hits = opts.equal_to(text) or (opts.equal_to(text[label.end() :]) if label else [])
        if len(hits) == 1:
            return Reason.OK, hits[0], True
        if hits:
            return Reason.AMBIGUOUS_TEXT, None, False
        statement = text[label.end() :] if label else statement
    elif label := _LABEL.match(statement):
        statement = statement[label.end() :]
    match = LETTERED.match(statement)
    if not match:
        return Reason.NO_ANSWER, None, False
    reason, letter = read_value(statement, opts)
    if reason is Reason.OK:
        text = opts.canon(tail_of(statement[match.end() :])[0])
        own = letter in opts.prefix_of(text, word=True)[0]
        return (reason, letter, text == opts.texts.get(letter)) if own else (Reason.NO_ANSWER, None, False)
    return reason if reason in (Reason.HEDGED, Reason.LETTER_TEXT_CONFLICT) else Reason.NO_ANSWER, None, False


def states_other(before: str, letter: str, opts: Options) -> bool:
    """Return whether a line of `before`, the text before the answer line, states an option too.

    Another option counts, several count, and any does in a line of nothing else: `C` is refused like `A`. The answer's
    text alone (`Diagnosis: heparin`) is accepted.
    """
    lines = [line for line in before.split("\n") if line]
    if any((_short_says_little_else if len(line) <= 80 else _says_little_else)(line, letter, opts) for line in lines):
        return True
    lower = before.lower()
    if "answer" in lower:
        for line in lines:
            if "answer" in line.lower() and (
                opts.mentioned_in(opts.canon(line)) | (opts.letters.keys() & set(_CAPITAL.findall(line)))
            ) - {letter}:
                return True
    return bool(_CALLED.search(lower)) and any(_calls_other_correct(line, letter, opts) for line in lines)


def _calls_other_correct(line: str, letter: str, opts: Options) -> bool:
    for called in _CALLED.finditer(line.lower()):
        subject = opts.canon(line[: called.start()].rstrip(" ([{*_\"'`"))
        if _ENDS_IN_LETTER.search(subject) or any(
            subject.endswith(text) for other, text in opts.texts.items() if other != letter
        ):
            return True
    return False


def _says_little_else(line: str, letter: str, opts: Options) -> bool:
    if LONE.fullmatch(line) or ((match := LETTERED.match(line)) and line[match.end() :][:1] in (".", ":", ")")):
        return True
    if len(line) <= opts.longest + 60:
        reason, other, _ = _read_line(line.strip(), opts)
        if other not in (None, letter) or reason in (Reason.HEDGED, Reason.LETTER_TEXT_CONFLICT):
            return True
    word = _FIRST_WORD.match(line)
    if not word or not (
        _NO_CONTENT.match(word[1].lower()) or any(text.startswith(word[1].lower()) for text in opts.texts.values())
    ):
        return False
    rest = _ITEM.sub("", opts.canon(line[:MAX_STATEMENT]), count=1)
    if rest == opts.texts.get(letter):
        return False
    for text in sorted(opts.texts.values(), key=len, reverse=True):
        rest = rest.replace(text, " ")
    return not _NO_CONTENT.sub("", rest)


_short_says_little_else = lru_cache(maxsize=4096)(_says_little_else)  # most completions have the same headings


def _called_correct(region: str, lower: str, opts: Options) -> dict[str, int]:
    found: dict[str, int] = {}
    done = max(0, len(lower) - CLOSING)
    for called in _CALLED.finditer(lower, done):
        for match in _IS_CORRECT.finditer(region, max(done, called.start() - 230), called.end()):
            if match[1] in opts.letters and not _NOT_ALONE.search(region[max(0, match.start() - 12) : match.start()]):
                found[match[1]] = match.end()
        done = called.end()
    return found


def _picked(region: str, opts: Options) -> dict[str, int]:
    """Return letters with their own text in a sentence that picks: `The best next step is C. <its text>`."""
    found: dict[str, int] = {}
    for match in _PICKED.finditer(region, max(0, len(region) - CLOSING)):
        sentence = region[max(0, match.start() - 300) : match.start()]
        sentence = sentence[max(map(sentence.rfind, ".!?\n")) + 1 :]
        text = opts.canon(region[match.end() : match.end() + opts.longest + 20])
        if (
            match[1] in opts.prefix_of(text, word=True)[0]
            and _PICKING.search(sentence)
            and not _PASSING.search(sentence)
        ):
            found[match[1]] = match.end()
    return found


def _why_none(region: str, lower: str, opts: Options) -> Reason:
    """Return the reason code of a region that holds no answer; the extraction is None with any."""
    text = opts.canon(region[:4000]) if opts.keep_case or not lower.isascii() else lower[:4000].replace("\n", " ")
    hinted = bool(_HINTS.find_matches_as_indexes(text))
    if hinted and _DECLINE.search(text):
        return Reason.DECLINED
    mentioned = opts.mentioned_in(text)
    if (mentioned and _CONTRAST.search(text)) or (hinted and _LETTER_DENIED.search(text)):
        return Reason.NEGATED
    longest = [
        own for own in mentioned if not any(opts.texts[own] in opts.texts[other] for other in mentioned if other != own)
    ]
    if len(longest) > 1 or _LETTER_OR_LETTER.search(region[:4000]):
        return Reason.HEDGED
    return Reason.NO_ANSWER


def contradicted(region: str, end: int, letter: str, opts: Options) -> Reason | None:
    """Return how the text after the answer at `end` contradicts it: another option's text, a lone letter, `or A`."""
    rest = region[end : end + MAX_STATEMENT]
    following = rest.lstrip().partition("\n")[0]
    named = opts.equal_to(opts.canon(following)) if len(following) <= opts.longest + 80 else []
    if named and letter not in named:
        return Reason.LETTER_TEXT_CONFLICT
    if offers_another(rest, letter, opts):
        return Reason.HEDGED
    for line in _DENIAL.finditer(region, end, end + 50_000):
        if plain_letter(line[1]) == letter:
            return Reason.RETRACTED
    for line in _LONE_LINE.finditer(region, end, end + 50_000):
        if is_other(line[1], letter, opts):
            return Reason.CONFLICTING_ANSWERS
    return None


def retracted(lower: str, start: int, text: str) -> bool:
    """Return whether a sentence after the answer at `start` of the lower-case region opens by taking it back.

    text: the answer's option text. If it was given with the answer, only what follows it counts (`Wait and see`). The
    50,000 characters after the answer are searched.
    """
    text = text.lower().strip()
    own = lower.find(text, start, start + len(text) + 40) if text else -1
    end = own + len(text) if own >= 0 else start + 1
    if len(lower) - end < 3:
        return False
    after = lower[end : end + 50_000]
    for _, at, stop in _RETRACTIONS.find_matches_as_indexes(after):
        before = after[max(0, at - 8) : at].rstrip(" \t*_\"'>(")
        if (not before or before[-1] in ".!?;:\n–—-)") and not after[stop - 1 : stop + 1].isalpha():
            return True
    return False
