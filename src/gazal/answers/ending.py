"""Find the place at which a completion has given its answer.

What follows costs tokens only, and is cut off in evaluation.

Three forms close an answer outside of think blocks: ``</answer>``, a finished line ``**Answer:** X`` as the card writes
it, and a closed ``\\boxed{X}``. The first one counts that announces a letter, if
:func:`gazal.answers.extract.extract` reads that letter from it and all before it. An answer given as an option's text
alone is never cut, since finding it needs the options. If the prompt itself ends with ``Answer:``, the completion's
first line is such a line: base models go on with a next question.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gazal.answers.decoding import Decoder
from gazal.answers.extract import extract
from gazal.answers.markup import part

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ANY = dict.fromkeys("ABCDEFGHIJ", "")
_EVENT = re.compile(r"(?i:</answer>)|\}|\n")
_LINE = re.compile(r"[\s>#*_-]*(?:(?:the|my|final|correct|best)\s+){0,2}answer[\s*_]*:[\s*_]*[^\s*_].*", re.I)
_FIRST_LINE = re.compile(r"\s*(\S[^\n]*)\n")
_OPENED = re.compile("<answer>", re.I)
_HINT = re.compile(r"answer|\\boxed", re.I)
LONGEST = 2000  # characters of an announcement
TAIL = 64  # last tokens that are searched for a hint before a whole completion is decoded


def opens_answer(prompt: object) -> bool:
    """Return whether a prompt is plain text that ends with ``Answer:``."""
    return isinstance(prompt, str) and prompt.rstrip().endswith("Answer:")


def closed_at(text: str, think_open: bool = False, answer_open: bool = False) -> int | None:
    """Return the number of characters of ``text`` up to the end of its first closed answer, None if none is closed.

    However the text goes on, that number stays. ``think_open``: the prompt itself opened ``<think>``;
    ``answer_open``: it ended with ``Answer:``. Raise nothing; the time is linear in the text's length.
    """
    if answer_open and (first := _FIRST_LINE.match(text)) and extract(f"Answer: {first[1]}", _ANY).letter:
        return closed_at(text[: first.end(1)], think_open) or first.end(1)  # a \boxed{X} may close before the line does
    if not _HINT.search(text):
        return None
    for start, stop in part(text, think_open).spans:
        if (at := _closed_in(text, start, stop)) is not None:
            return at
    return None


def _closed_in(text: str, start: int, stop: int) -> int | None:
    line = start
    for event in _EVENT.finditer(text, start, stop):
        kind, at, announced = event[0], event.end(), ""
        if kind == "\n":
            announced, at, line = text[line : at - 1], at - 1, at
            announced = announced if len(announced) < LONGEST and _LINE.fullmatch(announced) else ""
        elif kind == "}":
            opened = text.rfind("\\boxed{", max(start, at - LONGEST), at)
            inside = text[opened + 7 : at - 1]
            announced = text[opened:at] if opened >= 0 and inside.count("{") == inside.count("}") else ""
        else:
            *_, opened = (-1, *(tag.start() for tag in _OPENED.finditer(text, max(start, at - LONGEST), at)))
            announced = text[opened:at] if opened >= 0 else ""
        if letter := extract(announced, _ANY).letter if announced else None:
            # If it contradicts what stands before, no later text can mend that.
            return at if extract(text[start:at], _ANY).letter == letter else None
    return None


class AnswerEnd:
    """Finds the closed answers in completions of one tokenizer. ``marks``: ids of the tokens that can close one."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, think_open: bool = False, answer_open: bool = False) -> None:
        self.text, self.think_open, self.answer_open = Decoder(tokenizer), think_open, answer_open
        pieces = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
        self.marks = [i for i, piece in enumerate(pieces) if any(mark in piece for mark in "\n}>")]

    def at(self, text: str) -> int | None:
        """Return :func:`closed_at` of a completion of these prompts."""
        return closed_at(text, self.think_open, self.answer_open)

    def reached(self, ids: Sequence[int]) -> bool:
        """Return whether the completion ``ids`` holds a closed answer; without a hint in its last tokens, False."""
        likely = self.answer_open or _HINT.search(self.text(ids[-TAIL:]))
        return bool(likely) and self.at(self.text(ids)) is not None

    def cut(self, ids: Sequence[int]) -> tuple[Sequence[int], str, bool]:
        """Return the shortest prefix of ``ids`` that holds the closed answer, its text up to there, and True.

        Without a closed answer, return all ids, all text and False.
        """
        text = self.text(ids)
        if self.at(text) is None:
            return ids, text, False
        count = 1 + bisect_left(range(1, len(ids)), True, key=lambda n: self.at(self.text(ids[:n])) is not None)
        text = self.text(ids[:count])
        return ids[:count], text[: self.at(text)], True
