"""The one answer extractor: training rewards and evaluation both use it to read what a completion answered.

It reads the answer region only: behind the thinking, in whichever marks of `gazal.answers.markup`, and before any
end-of-turn marker written as text. It either finds one answer or returns None with a reason. It never guesses: no fuzzy matching, no default, no random letter.

1. Anchored answers: `Answer: C`, `<answer>C</answer>`, `\\boxed{C}`, `"answer": "C"`, `The answer is (C)`,
   `The correct option is C`, `I choose C`. Each may give the letter, the letter and the option's text, or that text
   alone. All anchored answers must agree.
2. Without one, four ranks are tried in turn, and within a rank all must agree:
   lone letter lines and `Option C` lines;
   `C is correct` and `the best next step is C. <its text>`;
   paragraphs of one line that is `C. <its text>` or an option's text alone;
   any such lines, with more text or not.
3. What follows may undo it: `or A`, another lone letter, another option's text next, `not C`, `wait, ...`.

A bare letter is always read as a letter, even if another option's text is that letter. A text given with a letter must
not be another option's, or open with it; a text that is no option's is accepted. The work is linear in the
completion's length.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from gazal.answers.anchors import anchored_values
from gazal.answers.lines import contradicted, retracted, states_other, unanchored
from gazal.answers.markup import marks, part
from gazal.answers.statements import MAX_STATEMENT, Reason, read_value
from gazal.answers.text import NOT_GLUED, VISIBLE, fold, known_options

__all__ = ["Extraction", "Reason", "answer_region", "extract", "has_format", "has_think_block"]


class Extraction(NamedTuple):
    """`letter`: `A` to `J`, or None; `reason`: `Reason.OK` exactly when there is a letter."""

    letter: str | None
    reason: Reason


_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_ANSWER_LINE = re.compile(
    r"(?:(?:option|choice)\s+|[*_{\"']*(?:(?:the|final|correct|best)\s+){0,2}answer[*_\"']*\s*(?:is\b|:)[*_:\s\"']*"
    r"|<answer>\s*|[*$]*\\boxed\{)?"
    rf"(?:\\boxed\{{)?(?:\\text\{{)?[*(\[]*(?P<letter>[A-J]){NOT_GLUED}[*)\]]*"
    r"(?:[.:),\s-]\s*(?P<text>[^\s<].*?))?[*.\"'}$]*(?:\s*</answer>)?",
    re.I | re.A,
)


def extract(completion: str, options: Mapping[str, str | None], think_open: bool = False) -> Extraction:
    """Read what `completion` answered, as the module's docstring states.

    options: letters `A` to `J` to option texts (None: no such option). think_open: the prompt itself opened `<think>`.
    Takes any text and raises nothing; time is linear in its length.
    """
    region = answer_region(completion, think_open)
    if region is None:
        return Extraction(None, Reason.UNCLOSED_THINK)
    if not region:
        return Extraction(None, Reason.EMPTY)
    lower = region.lower()
    anchored = anchored_values(region, lower)
    if anchored is None:
        return Extraction(None, Reason.TOO_MANY_CANDIDATES)
    opts = known_options(options)
    letters: set[str] = set()
    denied: set[str] = set()
    named: set[str] = set()
    problem: Reason | None = None
    start = end = 0
    for value, cut, negated, value_start, value_end in anchored:
        reason, letter = read_value(cut, opts) if cut else (Reason.NO_ANSWER, None)
        if letter is None:
            reason, letter = read_value(value, opts)
        if letter and (negated or reason is Reason.NEGATED):
            denied.add(letter)
        elif letter:
            letters.add(letter)
            start, end = max((start, end), (value_start, value_end))
        elif reason is not Reason.NO_ANSWER:
            problem = problem or reason
        else:
            named.update(opts.prefix_of(opts.canon(value[: opts.longest + 40]), word=True)[0])
    if not letters and not problem:
        reason, letter, end = unanchored(region, lower, opts)
        if letter is None:
            return Extraction(None, Reason.NEGATED if denied else reason)
        letters = {letter}
        start = end
    if len(letters) > 1 or named - letters:
        problem = Reason.CONFLICTING_ANSWERS
    elif not problem and (letters & denied or retracted(lower, start, opts.letters[min(letters)])):
        problem = Reason.RETRACTED
    elif not problem and end < len(region):
        problem = contradicted(region, end, min(letters), opts)
    return Extraction(None, problem) if problem else Extraction(letters.pop(), Reason.OK)


def answer_region(completion: str, think_open: bool = False) -> str | None:
    """Return the folded text in which an answer counts, stripped; None if thinking is open at its end."""
    answer = part(completion, think_open).answer
    return None if answer is None else fold(answer).strip()


def has_format(
    completion: str, options: Mapping[str, str | None], think_open: bool = False, extraction: Extraction | None = None
) -> bool:
    """Return whether a completion is one think block and then, as its last line, exactly one answer, a letter.

    The answer line is plain (ASCII, no look-alikes, nothing invisible). It holds nothing but an accepted form, the
    letter and that option's text. Lines before it state no other option. think_open: the prompt opened the block, so
    the completion holds only its end. `extraction`: the result of `extract` for the completion, if it is known.
    """
    text = completion.strip()
    if not has_think_block(text, think_open):
        return False
    region = text.partition("</think>")[2]
    start = region.rfind("<answer>") if region.endswith("</answer>") else region.rfind("\n") + 1
    before, last = fold(region[:start]), region[start:]
    if len(last) > MAX_STATEMENT or before.rpartition("\n")[2].strip(" \t*"):
        return False
    line = _ANSWER_LINE.fullmatch(" ".join(last.split()))
    if line is None or not _closed(last) or (not region.replace("\n", " ").isprintable() and _CONTROL.search(region)):
        return False
    letter = (extraction or extract(completion, options, think_open)).letter
    opts = known_options(options)
    stated = line["text"]
    if (
        letter is None
        or letter != line["letter"].upper()
        or (stated and opts.canon(stated) not in ("", opts.texts.get(letter)))
        or states_other(before, letter, opts)
    ):
        return False
    announced = anchored_values(before, before.lower())
    return announced is not None and not any(True for _ in announced)


def _closed(line: str) -> bool:
    pairs = (("<answer>", "</answer>"), ("{", "}"), ("(", ")"), ("[", "]"))
    return all(line.count(opened) == line.count(shut) for opened, shut in pairs) and line.count('"') % 2 == 0


def has_think_block(completion: str, think_open: bool = False) -> bool:
    """Return whether a completion has exactly one closed think block, at its start and with visible text in it.

    A template token that is written as text counts against it.
    """
    text = completion.strip()
    tags = [mark[0] for mark in marks(text)]
    if tags != (["</think>"] if think_open else ["<think>", "</think>"]) or not (
        think_open or text.startswith("<think>")
    ):
        return False
    inside = VISIBLE.search(text, 0 if think_open else 7)
    return inside is not None and inside.start() < text.index("</think>")
