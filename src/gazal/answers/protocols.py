"""How others read an answer: four protocols re-implemented from their descriptions, to compare with ours.

Only their rules are to differ. Bold marks, ``<answer>`` tags and ``\\boxed{}`` are therefore removed before each of
them reads. All but ``last_letter`` read what follows the last ``</think>``, if there is one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

import numpy as np

from gazal.answers.extract import extract
from gazal.common.errors import GazalError

OURS = "ours"
SEEDS = 20
"""Draws over which a random letter is averaged: seeds 0 to 19."""

Options = Mapping[str, str | None]
How = Literal["read", "guessed", "no_letter", "dropped"]

_MARKS = re.compile(r"\*|</?answer>|\\boxed\{|\\text\{|[{}$]", re.I)
_ALONE = re.compile(r"\b[A-J]\b")
_IS = re.compile(r"answer is\s*([A-N])")
_LONE = re.compile(r"(?:(?<!\w)|(?<=[\u4e00-\u9fff]))(?!A )([A-N])(?:(?!\w)|(?=[\u4e00-\u9fff]))")
_IS_PRO = re.compile(r"answer is \(?([A-J])\)?")
_ANSWER = re.compile(r"[aA]nswer:\s*([A-J])")
_FIELD = (
    re.compile(r"^\s*[(\"]?([A-J])(?=[)\"]?\s*$|\s+(?:or|and)\b|[/,.:)\"])"),
    re.compile(r"[oO]ption \(?([A-J])\b"),
    re.compile(r":\s*[(\"]?([A-J])\b"),
    re.compile(r"answer is \(?([A-J])\b"),
)


def _plain(completion: str, whole: bool = False) -> str:
    return _MARKS.sub("", completion if whole else completion.rpartition("</think>")[2])


def _ours(completion: str, options: Options, think_open: bool) -> tuple[str, ...]:
    """Read by `gazal.answers.extract.extract`: one stated answer, or none."""
    letter = extract(completion, options, think_open).letter
    return (letter,) if letter else ()


def _first_and_last(completion: str, options: Options, think_open: bool) -> tuple[str, ...]:
    """Read as HuatuoGPT-o1's scorer (arXiv 2412.18925) does, which MedReason (2504.00993) copied.

    It takes the first and the last letter after "answer is"; any word's first letter will do. Else it takes the first
    and the last option letter that stands alone (but for the article "A"). Else it takes the option whose text comes
    first and the one whose text comes last.
    """
    text = _plain(completion).rpartition("## Final Response\n\n")[2]
    for found in (_IS.findall(text), [letter for letter in _LONE.findall(text) if letter in options]):
        if found:
            return found[0], found[-1]
    text = text.lower()
    stated = {letter: own.lower() for letter, own in options.items() if own is not None and own.lower() in text}
    if not stated:
        return ()
    return min(stated, key=lambda k: text.find(stated[k])), max(stated, key=lambda k: text.rfind(stated[k]))


def _most_similar(completion: str, options: Options) -> str:
    """Return that scorer's guess: the option most similar to all the text by difflib's ratio, of equals the later."""
    similarity = SequenceMatcher(None, "", _plain(completion).lower())

    def ratio(letter: str) -> float:
        similarity.set_seq1((options[letter] or "").lower())
        return similarity.ratio()

    return max(reversed([letter for letter, text in options.items() if text is not None]), key=ratio)


def _last_letter(completion: str, options: Options, think_open: bool) -> tuple[str, ...]:
    """Read the last stand-alone capital A to J of the whole completion, an option or not (the pronoun I is one).

    It is the common last resort of home-made scorers, and the last step of MMLU-Pro's.
    """
    return tuple(_ALONE.findall(_plain(completion, whole=True))[-1:])


def _mmlu_pro(completion: str, options: Options, think_open: bool) -> tuple[str, ...]:
    """Read as TIGER-AI-Lab's MMLU-Pro scripts (arXiv 2406.01574) do.

    They take the first `answer is (X`, else the last `Answer: X` of the first line that has one. In both any word's
    first letter will do. Else they take the last stand-alone letter.
    """
    text = _plain(completion)
    if match := _IS_PRO.search(text):
        return (match[1],)
    if match := _ANSWER.search(text):
        line_end = text.find("\n", match.start())
        return (_ANSWER.findall(text, match.start(), max(line_end, match.end()) if line_end >= 0 else len(text))[-1],)
    return tuple(_ALONE.findall(text)[-1:])


def _answer_field(completion: str, options: Options, think_open: bool) -> tuple[str, ...]:
    """Read as MIRAGE's scorer (arXiv 2402.13178) does.

    The answer field starts with a letter ("A or B" is A), else holds `Option X`, else `: X`. MIRAGE prompts for that
    field in JSON; here it is the last line, then all the text. `answer is X` is added.
    """
    text = _plain(completion).strip()
    for place in dict.fromkeys((text.rpartition("\n")[2], text)):
        for form in _FIELD:
            if match := form.search(place):
                return (match[1],)
    return ()


@dataclass(frozen=True, slots=True)
class Protocol:
    """One protocol.

    ``read`` returns the letters that its patterns find: none, one, or the first and the last, of which the better
    counts for a data set. If there is none, ``guess`` returns one, or with ``random`` one is drawn; else there is none.
    """

    label: str
    rule: str
    read: Callable[[str, Options, bool], tuple[str, ...]]
    guess: Callable[[str, Options], str] | None = None
    random: bool = False
    readings: int = 1
    drops_empty: bool = False


PROTOCOLS: dict[str, Protocol] = {
    OURS: Protocol("Ours", "one stated answer or none; never guesses", _ours),
    "best_of_first_and_last": Protocol(
        "First or last",
        "first and last match, the better of the two per data set; else the most similar option; "
        "empty completions do not count",
        _first_and_last,
        _most_similar,
        readings=2,
        drops_empty=True,
    ),
    "last_letter": Protocol("Last letter", "last stand-alone capital letter", _last_letter),
    "mmlu_pro": Protocol(
        "MMLU-Pro",
        f"three patterns in turn; else a random letter, averaged over {SEEDS} seeds",
        _mmlu_pro,
        random=True,
        readings=SEEDS,
    ),
    "default_a": Protocol("Default A", "patterns in turn; else A", _answer_field, lambda completion, options: "A"),
}


def protocol(name: str) -> Protocol:
    """Return the protocol of that name. Raise GazalError, listing the names, for an unknown one."""
    if name not in PROTOCOLS:
        raise GazalError(f"--protocol {name}: expected one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


@dataclass(frozen=True, slots=True)
class Grades:
    """One protocol's grades of some completions.

    ``readings``: letters, shape (completions, readings), None for no letter. ``letters`` and ``correct``: the reading
    that counts, and its share of right draws in [0, 1]. ``how``: how each letter was found.
    """

    readings: np.ndarray
    letters: list[str | None]
    correct: np.ndarray
    how: list[How]

    @property
    def counted(self) -> np.ndarray:
        """The mask of the completions in the denominator, shape (completions,)."""
        return np.array([how != "dropped" for how in self.how], dtype=bool)


def grade(
    name: str,
    completions: Sequence[str],
    options: Sequence[Options],
    keys: Sequence[str],
    think_open: bool | Sequence[bool] = False,
) -> Grades:
    """Grade one data set by the protocol ``name``; all sequences have one length.

    Random letters are drawn uniformly from each item's options, by place in the sequence: same order, same letters.
    Raise GazalError for an unknown name.
    """
    rule, rows = protocol(name), len(completions)
    opened = [think_open] * rows if isinstance(think_open, bool) else think_open
    readings, how = np.full((rows, rule.readings), None, dtype=object), []
    draws = (
        np.stack([np.random.default_rng(seed).random(rows) for seed in range(SEEDS)], axis=1) if rule.random else None
    )
    for row, (text, choices) in enumerate(zip(completions, options, strict=True)):
        if rule.drops_empty and not text.strip():
            how.append("dropped")
        elif found := rule.read(text, choices, opened[row]):
            readings[row] = found if len(found) > 1 else found * rule.readings
            how.append("read")
        elif draws is not None:
            letters = [letter for letter, option in choices.items() if option is not None]
            readings[row] = [letters[int(draw * len(letters))] for draw in draws[row]]
            how.append("guessed")
        elif rule.guess:
            readings[row] = rule.guess(text, choices)
            how.append("guessed")
        else:
            how.append("no_letter")
    right = readings == np.array(keys, dtype=object)[:, None]
    best = int(right.sum(axis=0).argmax()) if rule.readings == 2 else 0
    correct = right.mean(axis=1) if rule.random else right[:, best].astype(float)
    return Grades(readings, list(readings[:, best]), correct, how)
