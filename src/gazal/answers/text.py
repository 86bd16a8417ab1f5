"""Text folding and option comparison for the answer extractor, which takes all decisions.

The rule for odd characters has three parts:

- NFKC makes full-width, circled, mathematical and Roman-numeral letters plain ones.
- Invisible characters are dropped: zero-width, bidirectional marks, variation selectors, terminal escapes.
- A stand-alone Cyrillic or Greek capital that looks like a Latin letter is read as that letter.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Mapping
from functools import cached_property, lru_cache

_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u180b-\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\U000e0000-\U000e0fff]+"
)
_UNFIT = re.compile("[\ufdfa\ufdfb\ud800-\udfff]+")
"""Two ligatures that NFKC writes out as 18 and 8 characters, so that a megabyte would grow; and lone surrogates."""
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_DASHES = str.maketrans(dict.fromkeys("‐‑‒–—−", "-") | dict.fromkeys("’‘ʼ", "'") | dict.fromkeys("“”„", '"'))
_LOOK_ALIKES = dict(zip("АВСЕНІЈΑΒΕΗΙϹ", "ABCEHIJABEHIC", strict=True))
LETTER = "[A-Za-z" + "".join(_LOOK_ALIKES) + "]"
NOT_GLUED = r"(?![\w+\u0300-\u036f\u20d0-\u20ff]|[-'’]\w)"
"""May not follow a stand-alone letter: a word, an apostrophe, `D-dimer`, `A+`, a combining (strike-through) mark."""

VISIBLE = re.compile(r"[^\W_]")
"""A letter or a digit."""

_ENTITY = re.compile(r"&(?:#\w{1,7}|\w{2,8});")
_LEADING = " \t*_`\"'($[{"
_TRAILING = " \t*_`\"'$)]}.,;:!。"
_CLAUSE_END = re.compile(r"\s*(?:$|[.,;:](?!\d)|[!?。()\[\]{}\"'*`]|-\s|because\b|since\b|due to\b|given\b)")
_WORD_END = re.compile(r"(?![\w%]|[.,:/-]\w)")


def fold(text: str) -> str:
    """Return `text` under the module's rule, with `\\n` as its only line break; ASCII text without `\\r` as it is."""
    if not text.isascii():
        text = _fold_run(text) if len(text) > 20_000 else _fold_by_run(text)
    if "\x1b" in text:
        text = _ESCAPES.sub("", text)
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _fold_run(text: str) -> str:
    text = unicodedata.normalize("NFKC", _UNFIT.sub("\ufffd", _INVISIBLE.sub("", text))).replace("İ", "I")
    return text.replace("\u2028", "\n").replace("\u2029", "\n").replace("\x85", "\n")


_RUN = re.compile("[^\\x00-\\x7f]+")
_fold_known = lru_cache(maxsize=16384)(_fold_run)


def _fold_by_run(text: str) -> str:
    """Return `text` with `_fold_run` of each run of characters beyond ASCII.

    The character before a run belongs to it, since a combining mark may open the run.
    """
    parts = []
    done = 0
    for run in _RUN.finditer(text):
        start = max(run.start() - 1, done)
        piece = text[start : run.end()]
        parts += (text[done:start], _fold_known(piece) if len(piece) < 32 else _fold_run(piece))
        done = run.end()
    return "".join((*parts, text[done:]))


def plain_letter(char: str) -> str:
    """Return the Latin capital for which a character matched by `LETTER` stands."""
    return _LOOK_ALIKES.get(char) or char.upper()


def canon(text: str, keep_case: bool = False) -> str:
    """Return `text` as it is compared: folded, case-folded, single spaces, no markup or punctuation at its ends."""
    text = fold(html.unescape(text) if _ENTITY.search(text) else text)
    text = text if keep_case else text.casefold()
    if not text.isascii():
        text = text.translate(_DASHES)
    return " ".join(text.split()).lstrip(_LEADING).rstrip(_TRAILING)


_canon_option = lru_cache(maxsize=16384)(canon)


class Options:
    """The options of one item, letters `A` to `J` to texts, with their compared forms made on first use.

    Comparisons keep case if nothing else tells two options apart (genotypes: `Bb`, `bb`).
    """

    def __init__(self, options: Mapping[str, str | None]) -> None:
        self.letters = {letter: text for letter, text in options.items() if text is not None}
        self.longest = max(map(len, self.letters.values()), default=0)
        self.lettered: set[str] | None = None
        self.keep_case = False

    @cached_property
    def texts(self) -> dict[str, str]:
        """Letter to compared text; options without text are left out."""
        forms = {letter: _canon_option(text) for letter, text in self.letters.items()}
        if len(set(forms.values())) < len(forms):
            exact = {letter: _canon_option(text, keep_case=True) for letter, text in self.letters.items()}
            if len(set(exact.values())) > len(set(forms.values())):
                forms, self.keep_case = exact, True
        return {letter: text for letter, text in forms.items() if text}

    def canon(self, text: str) -> str:
        """Return `text` in the form in which this item's option texts are compared."""
        return canon(text, keep_case=bool(self.texts) and self.keep_case)

    def equal_to(self, text: str) -> list[str]:
        """Return the letters whose whole text equals `text` (already in its compared form)."""
        return [letter for letter, own in self.texts.items() if own == text] if text else []

    def prefix_of(self, text: str, word: bool = False) -> tuple[list[str], str]:
        """Return the letters of the longest option text that opens `text`, and the rest of `text`.

        The rest must be a new clause, or with `word` any new word.
        """
        found: list[str] = []
        length = 0
        boundary = _WORD_END if word else _CLAUSE_END
        for letter, own in self.texts.items():
            if len(own) >= max(length, 1) and text.startswith(own) and boundary.match(text, len(own)):
                found = [*found, letter] if len(own) == length else [letter]
                length = len(own)
        return found, text[length:]

    def mentioned_in(self, text: str) -> set[str]:
        """Return the letters whose compared text first stands in `text` (compared form) between word boundaries."""
        found = set()
        for letter, own in self.texts.items():
            before, at, after = text.partition(own)
            if at and not before[-1:].isalnum() and not after[:1].isalnum():
                found.add(letter)
        return found

    def opens_with(self, letter: str, tail: str) -> bool:
        """Return whether an option's text opens with `letter` and the first word of `tail`: `E. coli`, `B cells`."""
        word = tail.split(" ", 1)[0].rstrip(".,;:")
        return any(t[0].upper() == letter and t[1:].lstrip(". -").startswith(word) for t in self.texts.values())


@lru_cache(maxsize=4096)
def _known_options(options: tuple[tuple[str, str | None], ...]) -> Options:
    return Options(dict(options))


def known_options(options: Mapping[str, str | None]) -> Options:
    """Return the `Options` of an item, which are made once for all its completions."""
    return _known_options(tuple(options.items()))
