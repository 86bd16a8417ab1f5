"""Read one statement of an answer: a letter, a letter with a text, or a text; denied, hedged or not.

For `gazal.answers.extract` only. Every function here reads a bounded piece of text, so that the work stays linear.
"""

from __future__ import annotations

import re
from enum import Enum

from gazal.answers.text import LETTER, NOT_GLUED, Options, plain_letter

MAX_ANCHORS = 500
MAX_LINES = 2000
MAX_STATEMENT = 2000
"""Longest statement after an anchor, and longest unanchored line, in characters."""


class Reason(str, Enum):
    """Why an extraction gave its letter, or none. Each member's `__doc__` explains it; the value is the code."""

    def __new__(cls, value: str, doc: str) -> Reason:
        member = str.__new__(cls, value)
        member._value_ = value
        member.__doc__ = doc
        return member

    OK = "ok", "exactly one answer was stated"
    EMPTY = "empty", "the completion, or its answer region, has no visible text"
    UNCLOSED_THINK = "unclosed_think", "a think block, in whichever marks, is open at the end: reasoning, no answer"
    NO_ANSWER = "no_answer", "text, but no form that counts as an answer"
    DECLINED = "declined", "the text says that no answer can be given"
    NEGATED = "negated", "an option is named only to be ruled out, or by contrast ('heparin, not aspirin')"
    HEDGED = "hedged", "one statement offers several options ('A or B'), or asks instead of answering ('C?')"
    RETRACTED = "retracted", "an answer was stated and then taken back"
    CONFLICTING_ANSWERS = "conflicting_answers", "two anchored answers name different options"
    SEVERAL_CANDIDATES = "several_candidates", "no anchored answer, and unanchored lines name different options"
    LETTER_NOT_AN_OPTION = "letter_not_an_option", "the stated letter is not among the options"
    LETTER_TEXT_CONFLICT = "letter_text_conflict", "the letter's stated text is another option's text"
    AMBIGUOUS_TEXT = "ambiguous_text", "the text fits two options, or reads both as a letter and as a text ('E. coli')"
    TOO_MANY_CANDIDATES = "too_many_candidates", f"over {MAX_ANCHORS} anchors, or over {MAX_LINES} lines without one"


Reading = tuple[Reason, str | None]
"""What one statement says: OK or NEGATED with a letter, or another reason with None."""

_CLOSERS = " \t\n*_`\"'$)]}\\.,;:!。->|\ufffd"
_WRAP = r"(?:[\s*_\"'`$(\[{:]|\\(?:boxed|text|textbf|textit|mathrm|mathbf|mathsf|bf|rm)\s*\{|\\[(\[])"
_FILLER = (
    r"(?:it(?:'s|\s+is)\s)?(?:(?:most\s+likely|likely|probably|clearly|definitely|therefore|thus|indeed)[,\s]\s*)?"
)
_WRAPS = re.compile(rf"{_WRAP}{{0,24}}+")
_OPENERS = re.compile(rf"{_WRAP}{{0,24}}+{_FILLER}", re.I)
_VALUE = re.compile(
    rf"{_WRAP}{{0,24}}+{_FILLER}(?:(?:option|choice|letter)\b[\s:#]{{0,3}})?{_WRAP}{{0,8}}+({LETTER}){NOT_GLUED}", re.I
)
_SEPARATOR = re.compile(r"[\s*_\"'`$)\]}]*+(?:[.:,;(=|。]|-+>?(?=\s)|[–—→])?[\s*_\"'`$(\[{]*+")
_SECOND_LETTER = re.compile(
    rf"[^\w\n.?!]{{0,6}}(?:(?:and/or|or|and|vs\.?|versus)\b[^\w\n]{{0,6}}|/\s?)"
    rf"(?:option\s|choice\s)?({LETTER}){NOT_GLUED}"
    r"|(?-i:[*_\"'`)\]]{0,4}(?:\s?[,/&+;]\s?|\s)[*_\"'`(\[]{0,4}([A-J])"
    r"(?=\s*(?:$|[,.;:/&+)\]}*\"'`]|or\b|and\b|[A-J]\b)))",
    re.I,
)
_DENIED = re.compile(
    r"[^\w\n]{0,6}(?:is|are|was|would\s+be)"
    r"(?:\s+(?:not|never|incorrect|wrong|false|unlikely|excluded|ruled\s+out)\b|n't)",
    re.I,
)
_ALL_DENIED = re.compile(
    r"(?:[^\w\n]{1,4}(?:and\s|or\s|nor\s)?(?-i:[A-J])\b){1,9}[^\w\n]{1,4}"
    r"(?:are|is)\s(?:all\s|both\s)?(?:not|wrong|incorrect|excluded|ruled\sout)\b",
    re.I,
)
_CONTINUES = re.compile(
    r"(?:because|since|as|due|given|based|which|for|is|with|and\s+not|but\s+not|not|rather)\b", re.I
)
_NOT = re.compile(r"\W{0,6}(?:definitely\s|certainly\s)?(?:not|never|neither|anything\s+but)\b\s*", re.I)
_CONTRAST = re.compile(r"\b(?:not|never|nor|except|rather than|instead of|unlike)\b|n't\b")
_OFFERING = (
    r"and/or|and|or|else|rather|also|alternatively|otherwise|maybe|perhaps|possibly|equally|as\s+well(?:\s+as)?"
    r"|failing\s+that|if\s+(?:not|wrong)|no|plus|then|followed\s+by|vs\.?|versus"
)
_ALTERNATIVE = re.compile(
    rf"\W{{0,6}}(?:(?:and|or|but|and/or)\s+)?(?:{_OFFERING})\b\W{{0,6}}"
    r"(?:(?:option|choice|letter|it\s+is|it's|is|the)\s)?",
    re.I,
)
_MAY_OFFER = re.compile(rf"\W{{0,9}}(?:{LETTER}|{_OFFERING}|but|unless|except|if)\b", re.I)
_OTHER_LETTER = re.compile(
    rf"({LETTER}){NOT_GLUED}(?=\W*$|[*)\]\"']*"
    r"(?:[.,;:!?\n]|\s(?:is|would|could|may|might)\b(?!\s(?:not|wrong|incorrect))))",
    re.I,
)
_UNLESS = re.compile(r"[ ,(]{1,3}(?:unless|except|if)\b[^\n]{0,200}", re.I)
_JSON_KEY = re.compile(r"[\"']\s*:\s*[\d\"'\[{]")
SPEECH = set("says said claims claimed insists insisted thinks believes wrote told argues argued alleges".split())
_QUOTED = re.compile(rf"[.,]?[\"'”’»][\s,.-]*(?:\w+\s+){{0,4}}(?:{'|'.join(sorted(SPEECH))}|according\s+to)\b", re.I)
_SENTENCE_ENDS = re.compile(r"[)\]}*\"']+\.\s")
_ONE_MORE = re.compile(rf"[^\w\n]{{1,8}}({LETTER}){NOT_GLUED}")
_LETTERS = re.compile(rf"(?:[^\w\n]{{0,8}}{LETTER}{NOT_GLUED}[^\w\n]*)+", re.I)
_LETTER = re.compile(LETTER)
_ALSO_RIGHT = re.compile(
    rf"\W{{1,6}}([A-J]){NOT_GLUED}\W{{1,4}}(?:is|would\s+be|may\s+be|could\s+be)\s+(?:also|equally|just\s+as)\b"
)
_EITHER = re.compile(r"[\s,]*(?:and/or\b|or\b|and\b|vs\b|versus\b|/)")


def read_value(value: str, opts: Options) -> Reading:
    """Read the text after an anchor: a letter, a letter with a text, or an option's text."""
    match = _VALUE.match(value)
    if match and not value[match.end() :].strip(_CLOSERS):
        letter = plain_letter(match[1])
        if letter in opts.letters:
            return Reason.OK, letter
        hits = opts.equal_to(opts.canon(match[1]))
        return (Reason.OK, hits[0]) if len(hits) == 1 else (Reason.LETTER_NOT_AN_OPTION, None)
    if (
        match
        and plain_letter(match[1]) not in _lettered(opts)
        and (reading := _read_letter(plain_letter(match[1]), value[match.end() :], opts))
    ):
        return reading
    wrap = _WRAPS.match(value)
    opener = _OPENERS.match(value)
    bare = wrap.end() if wrap else 0
    start = opener.end() if opener else 0
    whole = opts.canon(value[bare:])
    hits = opts.equal_to(whole)
    if not hits and start != bare:
        hits = opts.equal_to(whole := opts.canon(value[start:]))
    body = value[start:]
    if hits:
        if match:
            letter, text = plain_letter(match[1]), opts.canon(tail_of(value[match.end() :])[0])
            if hits != [letter] and text and text == opts.texts.get(letter):
                return Reason.AMBIGUOUS_TEXT, None
        return (Reason.OK, hits[0]) if len(hits) == 1 else (Reason.AMBIGUOUS_TEXT, None)
    if denial := _NOT.match(body):
        return _read_denied(body[denial.end() :], opts)
    if match and (reading := _read_letter(plain_letter(match[1]), value[match.end() :], opts)):
        return reading
    return _read_text(whole, opts)


def _lettered(opts: Options) -> set[str]:
    """Return the letters as which an option's own text may be read (`E. coli`)."""
    if opts.lettered is None:
        opts.lettered = {plain_letter(match[1]) for text in opts.texts.values() if (match := _VALUE.match(text))}
    return opts.lettered


def tail_of(after: str) -> tuple[str, bool]:
    """Return the text that follows a letter, without what separates them, and whether that is more than white space."""
    parted = _SEPARATOR.match(after)
    end = parted.end() if parted else 0
    return after[end:], bool(after[:end].strip())


def _read_denied(rest: str, opts: Options) -> Reading:
    if match := _VALUE.match(rest):
        letter = plain_letter(match[1])
        if letter in opts.letters:
            return Reason.NEGATED, letter
    hits = opts.prefix_of(opts.canon(rest))[0]
    return (Reason.NEGATED, hits[0]) if hits else (Reason.NO_ANSWER, None)


def _read_letter(letter: str, after: str, opts: Options) -> Reading | None:
    """Read `letter` followed by the text `after`; return None if the letter is only a word (`a beta blocker`)."""
    known = letter in opts.letters
    own = opts.texts.get(letter)
    tail, parted = tail_of(after)
    text = opts.canon(tail)
    for _ in range(20):  # the same letter again: `(C)(C)`, but not `C. C. difficile`
        again = _ONE_MORE.match(after)
        if not again or plain_letter(again[1]) != letter or (own and text.startswith(own)):
            break
        after = after[again.end() :]
        tail, parted = tail_of(after)
        text = opts.canon(tail)
    if own and text == own:
        return Reason.OK, letter
    if after.lstrip(_CLOSERS).startswith("?") or _JSON_KEY.match(after):
        return Reason.HEDGED, None
    if _QUOTED.match(after):
        return Reason.NO_ANSWER, None
    second = _SECOND_LETTER.match(after)
    if known and _ALL_DENIED.match(after):
        return Reason.NEGATED, letter
    if known and second and is_other(second[1] or second[2], letter, opts):
        return Reason.HEDGED, None
    if known and offers_another(after, letter, opts):
        return Reason.HEDGED, None
    if known and _DENIED.match(after):
        return Reason.NEGATED, letter
    if known and opts.equal_to(text):
        return Reason.LETTER_TEXT_CONFLICT, None
    if parted and len(text) == 1 and text.upper() != letter and text.upper() in opts.letters:
        return Reason.HEDGED, None
    if known and own and text.startswith(own):
        rest = text[len(own) :]
        if (_EITHER.match(rest) and opts.mentioned_in(rest) - {letter}) or offers_another(rest, letter, opts):
            return Reason.HEDGED, None
    opening = opts.prefix_of(text, word=True)[0] if known else []
    if opening and letter not in opening and _SENTENCE_ENDS.match(after) and not opts.prefix_of(text)[0]:
        return Reason.OK, letter
    if opening:
        return (Reason.OK, letter) if letter in opening else (Reason.LETTER_TEXT_CONFLICT, None)
    if text and opts.opens_with(letter, text):
        return Reason.AMBIGUOUS_TEXT, None
    if parted or not text or _CONTINUES.match(tail):
        return (Reason.OK, letter) if known else (Reason.LETTER_NOT_AN_OPTION, None)
    return None


def offers_another(rest: str, letter: str, opts: Options) -> bool:
    """Return whether what follows an answer begins by offering another option.

    Examples are `, or else A`, ` (if not, A)` and `. A is also right`.
    """
    if not _MAY_OFFER.match(rest):
        return False
    also = _ALSO_RIGHT.match(rest)
    if also and is_other(also[1], letter, opts):
        return True
    opening = _ALTERNATIVE.match(rest)
    if opening:
        other = _OTHER_LETTER.match(rest, opening.end())
        line = rest[opening.end() : opening.end() + MAX_STATEMENT].partition("\n")[0]
        return bool(other and is_other(other[1], letter, opts)) or any(
            found != letter for found in opts.prefix_of(opts.canon(line))[0]
        )
    if condition := _UNLESS.match(rest):
        letters = (
            found[1]
            for found in _OTHER_LETTER.finditer(rest, condition.start() + 1, condition.end())
            if found[1].isupper()
        )
        return any(is_other(found, letter, opts) for found in letters) or bool(
            opts.mentioned_in(opts.canon(condition[0])) - {letter}
        )
    following = _LETTERS.match(rest)
    run = [plain_letter(found) for found in _LETTER.findall(following[0])] if following else []
    if following and any(is_other(found, letter, opts) for found in run):
        text = opts.canon(rest[following.end() : following.end() + MAX_STATEMENT].partition("\n")[0])
        own = opts.texts.get(run[-1], "")
        return not text or (
            text.startswith(own) and (not text[len(own) :].strip(_CLOSERS) or bool(_LETTERS.match(text[len(own) :])))
        )
    return False


def is_other(found: str, letter: str, opts: Options) -> bool:
    """Return whether the character `found` stands for another option than `letter`."""
    return (other := plain_letter(found)) != letter and other in opts.letters


def _read_text(whole: str, opts: Options) -> Reading:
    """Read a statement without a letter, in its compared form."""
    for letter, own in opts.texts.items():
        if whole.startswith(own) and _EITHER.match(rest := whole[len(own) :]) and opts.mentioned_in(rest) - {letter}:
            return Reason.HEDGED, None
    found, rest = opts.prefix_of(whole)
    if not found:
        return Reason.NO_ANSWER, None
    if _CONTRAST.search(rest):
        return Reason.NEGATED, None
    if len(found) > 1:
        return Reason.AMBIGUOUS_TEXT, None
    if opts.mentioned_in(rest) - set(found) or rest.lstrip().startswith("?"):
        return Reason.HEDGED, None
    closing = re.fullmatch(r"\W{0,4}(?:option )?([a-j])\W{0,4}", rest, re.I)
    if closing and closing[1].upper() != found[0]:
        return Reason.LETTER_TEXT_CONFLICT, None
    return Reason.OK, found[0]
