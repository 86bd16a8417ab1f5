"""Where a completion has given its answer: what follows costs tokens only, and is cut off in evaluation.

Closed is, outside of think blocks, the first of ``</answer>``, a finished line ``**Answer:** X`` as the card writes it, and
a closed ``\\boxed{X}`` that announces a letter, and from which (with all before it) :func:`gazal.answers.extract.extract` reads
that letter. An answer given as an option's text alone is never cut: that would take the options to see. Where the prompt
itself ends with ``Answer:``, the completion's first line is such a line: base models go on with a next question.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from gazal.answers.extract import END_OF_TURN, extract

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ANY = dict.fromkeys("ABCDEFGHIJ", "")
_EVENT = re.compile(rf"</?think>|(?i:</answer>)|\}}|\n|{END_OF_TURN.pattern}")
_LINE = re.compile(r"[\s>#*_-]*(?:(?:the|my|final|correct|best)\s+){0,2}answer[\s*_]*:[\s*_]*[^\s*_].*", re.I)
_FIRST_LINE = re.compile(r"\s*(\S[^\n]*)\n")
_OPENED = re.compile("<answer>", re.I)
_HINT = re.compile(r"answer|\\boxed", re.I)
LONGEST = 2000  # characters of an announcement
TAIL = 64  # tokens looked at for a hint before a whole completion is decoded


def opens_answer(prompt: object) -> bool:
    """Whether a prompt is plain text that ends with ``Answer:``."""
    return isinstance(prompt, str) and prompt.rstrip().endswith("Answer:")


def closed_at(text: str, think_open: bool = False, answer_open: bool = False) -> int | None:
    """How many characters of ``text`` there are up to the end of its first closed answer; None where none is closed.

    A number once given stays, however the text goes on. ``think_open``: the prompt itself opened ``<think>``;
    ``answer_open``: it ended with ``Answer:``. Raises nothing; time is linear in the text's length.
    """
    if answer_open and (first := _FIRST_LINE.match(text)) and extract(f"Answer: {first[1]}", _ANY).letter:
        return closed_at(text[: first.end(1)], think_open) or first.end(1)  # a \boxed{X} may close before the line does
    if not _HINT.search(text):
        return None
    thinking, hopeless, start, line = think_open, False, 0, 0
    for event in _EVENT.finditer(text):
        kind, end = event[0], event.end()
        if END_OF_TURN.fullmatch(kind):
            return None  # what a model types after its turn counts nowhere
        if "think" in kind:
            thinking, hopeless, start, line = kind == "<think>", False, end, end
            continue
        announced, at = "", end
        if thinking or hopeless:
            continue
        if kind == "\n":
            announced, at, line = text[line : end - 1], end - 1, end
            announced = announced if len(announced) < LONGEST and _LINE.fullmatch(announced) else ""
        elif kind == "}":
            opened = text.rfind("\\boxed{", max(start, end - LONGEST), end)
            inside = text[opened + 7 : end - 1]
            announced = text[opened:end] if opened >= 0 and inside.count("{") == inside.count("}") else ""
        else:
            *_, opened = (-1, *(tag.start() for tag in _OPENED.finditer(text, max(start, end - LONGEST), end)))
            announced = text[opened:end] if opened >= 0 else ""
        letter = extract(announced, _ANY).letter if announced else None
        if letter and extract(text[start:at], _ANY).letter == letter:
            return at
        hopeless = letter is not None  # it contradicts what was said before, which nothing said later mends
    return None


class AnswerEnd:
    """Where the completions of one tokenizer close their answer. ``marks``: ids of the tokens that can close one."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, think_open: bool = False, answer_open: bool = False) -> None:
        self.tokenizer, self.think_open, self.answer_open = tokenizer, think_open, answer_open
        pieces = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
        self.marks = [i for i, piece in enumerate(pieces) if any(mark in piece for mark in "\n}>")]

    def text(self, ids: Sequence[int]) -> str:
        return cast(str, self.tokenizer.decode(cast(list[int], ids), skip_special_tokens=True))

    def at(self, text: str) -> int | None:
        """:func:`closed_at` of these prompts' completions."""
        return closed_at(text, self.think_open, self.answer_open)

    def reached(self, ids: Sequence[int]) -> bool:
        """Whether the completion ``ids`` holds a closed answer, as far as a look at its last tokens lets suppose one."""
        likely = self.answer_open or _HINT.search(self.text(ids[-TAIL:]))
        return bool(likely) and self.at(self.text(ids)) is not None

    def cut(self, ids: Sequence[int]) -> tuple[Sequence[int], str, bool]:
        """(the shortest prefix of ``ids`` whose text holds the closed answer, that text up to its end, True), or all of it and False."""
        text = self.text(ids)
        if self.at(text) is None:
            return ids, text, False
        count = 1 + bisect_left(range(1, len(ids)), True, key=lambda n: self.at(self.text(ids[:n])) is not None)
        text = self.text(ids[:count])
        return ids[:count], text[: self.at(text)], True
