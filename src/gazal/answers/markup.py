"""How models mark their thinking and the end of their turn: the one table for the extractor, checker and viewer.

Rewards accept the recipe's own marks alone, ``<think>`` and ``</think>``. Evaluation reads all of these, and those that
a model writes unopened because its template opened the block.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple


class Markup(NamedTuple):
    """One way to set thinking apart: patterns of what opens it, and of what stands before the final answer."""

    name: str
    opens: str
    closes: str


_TAG = r"(?i:think|thinking|thoughts?|reasoning|reflection|scratchpad|analysis|seed:think|seed:cot_think|antthinking)"
_WORD = r"(?i:thoughts?|thinking|think|reasoning)"
_SENDER = r"(?:<\|start\|>\s{0,9}assistant\s{0,9})?"
_MESSAGE = r"[^<]{0,80}(?:<\|constrain\|>[^<]{0,40})?<\|message\|>"
_HEADING = r"#{1,6}[ \t]{1,9}"

OWN = Markup("think", "<think>", "</think>")
HARMONY = Markup(
    "harmony channels (gpt-oss)",
    rf"{_SENDER}<\|channel\|>\s{{0,9}}(?:analysis|commentary){_MESSAGE}",
    rf"(?:<\|end\|>\s{{0,9}})?{_SENDER}<\|channel\|>\s{{0,9}}final{_MESSAGE}",
)
MARKUPS = (  # marks that count wherever they stand; a closing one without an opening one too
    OWN,
    HARMONY,
    Markup("tags", rf"<{_TAG}(?:\s[^<>]{{0,99}})?>", rf"</{_TAG}\s{{0,9}}>"),
    Markup("brackets (Mistral)", rf"\[{_WORD}\]", rf"\[/{_WORD}\]"),
    Markup("◁think▷ (Kimi)", "◁think▷", "◁/think▷"),
    Markup(
        "thought tokens (OpenThinker, Command)",
        rf"<\|(?i:begin_of_|start_)?{_WORD}\|>",
        rf"<\|(?i:end_of_|end_|/){_WORD}\|>(?:\s{{0,9}}<\|(?:begin_of_solution|START_RESPONSE)\|>)?",
    ),
    Markup("<unused94> (MedGemma)", r"<unused94>(?:thought)?", "<unused95>"),
    Markup("roles (s1)", r"<\|im_start\|>think\b", r"<\|im_start\|>answer\b"),
)
SPOKEN = (  # words that count where a completion begins with the opening ones
    Markup(
        "headings (HuatuoGPT-o1)",
        rf"{_HEADING}(?i:thinking)(?i: process)?:?[ \t]{{0,9}}(?=\n|\Z)",
        rf"\n{_HEADING}(?i:(?:final )?(?:response|answer)):?[ \t]{{0,9}}(?=\n|\Z)",
    ),
    Markup(
        "harmony channels without their tokens",
        r"(?:analysis|commentary)(?=[A-Z\"'*(\d<])",
        r"assistantfinal(?![a-z])",
    ),
    Markup("sentences (Granite)", r"Here(?:'s| is) my thought process:", r"Here(?:'s| is) my response:"),
)

_TURN = (
    r"<\|(?:im_end|im_start|im_sep|endoftext|eot_id|eom_id|end_of_text|end|return|call|end_of_turn|endofturn|end_of_role"
    r"|start_of_role|start_header_id|end_of_solution|END_RESPONSE|END_OF_TURN_TOKEN|START_OF_TURN_TOKEN"
    r"|user|assistant|system)\|>|</s>|<eos>|<(?:end|start)_of_turn>|<turn\|>|<\|turn>"
    r"|<｜(?:end▁of▁sentence|User|Assistant)｜>|\[/?INST\]|\[\|(?:endofturn|user|assistant)\|\]"
    # Without special tokens only the next turn's role is left: on a line of its own, or behind the last word.
    r"|\n(?:assistant|model|user)(?=\n)|(?<=[^\s-])assistant(?=\n\n)"
)
_BEGIN_OF_TURN = re.compile(
    r"\s{0,9}<(?:\|im_start\||\|start_header_id\||start_of_turn|\|start_of_role\||｜Assistant｜|\|assistant\|)>"
    r"\s{0,9}(?:assistant|model)?(?:<\|end_header_id\|>|<\|end_of_role\|>)?(?=\s)"
)
_MARK = re.compile(
    "|".join(f"(?P<o{n}>{one.opens})|(?P<c{n}>{one.closes})" for n, one in enumerate(MARKUPS)) + f"|(?P<end>{_TURN})"
)
_BEGINNINGS = ("<", "[", "◁", "\nassistant\n", "\nmodel\n", "\nuser\n", "assistant\n\n")
_SPOKEN_BEGINS = re.compile(r"\s{0,9}(?:#|analysis|commentary|Here)")
_SPOKEN = tuple((re.compile(rf"\s{{0,9}}(?:{one.opens})"), re.compile(one.closes), one) for one in SPOKEN)


class Parted(NamedTuple):
    """A completion up to the end of its turn. ``spans``: start and end of each piece outside of thinking.

    ``thought``: the text of its thinking, None without any. ``answer``: what stands behind it, None if the thinking is
    open at the end. ``markup``: the last block's, None without one. ``opened``: its opening mark was seen. ``end``:
    where the turn ends.
    """

    spans: list[tuple[int, int]]
    thought: str | None
    answer: str | None
    markup: Markup | None
    opened: bool
    end: int


def marks(text: str, begin: int = 0) -> Iterator[re.Match[str]]:
    """Yield every mark of :data:`MARKUPS` and every end of a turn in ``text``, in order."""
    starts, reached = list[int](), begin
    for beginning in _BEGINNINGS:  # far faster than to search for all patterns at once
        at = text.find(beginning, begin)
        while at >= 0:
            if len(beginning) > 1 or beginning == "◁" or (after := text[at + 1 : at + 2]).isalpha() or after in "/|｜":
                starts.append(at)
            at = text.find(beginning, at + 1)
    for start in sorted(starts):
        if start >= reached and (mark := _MARK.match(text, start)):
            reached = mark.end()
            yield mark


def is_mark(token: str) -> bool:
    """Return whether a token alone opens or ends thinking."""
    return any(mark[0] == token and mark.lastgroup != "end" for mark in marks(token))


def opens_thinking(prompt: str) -> bool:
    """Return whether a rendered prompt ends with an opening mark."""
    end = prompt.rstrip()[-200:]
    return any(mark.end() == len(end) and (mark.lastgroup or "")[0] == "o" for mark in marks(end))


def part(completion: str, think_open: bool = False) -> Parted:
    """Part thinking and answer; ``think_open``: the prompt itself opened the block. Linear in the text's length.

    Inside a block only its own closing mark counts. What stands before a foreign block counts as the answer if nothing
    stands behind it: some models give their reasons last.
    """
    begin = 0
    if header := _BEGIN_OF_TURN.match(completion):
        begin = header.end()
    for opens, closes, one in _SPOKEN if not think_open and _SPOKEN_BEGINS.match(completion, begin) else ():
        if mark := opens.match(completion, begin):
            closing = closes.search(completion, mark.end())
            if closing is None:
                return Parted([], completion[mark.end() :], None, one, True, len(completion))
            stop = next((end.start() for end in marks(completion, closing.end()) if end["end"]), len(completion))
            thought, answer = completion[mark.end() : closing.start()], completion[closing.end() : stop]
            return Parted([(closing.end(), stop)], thought, answer, one, True, stop)
    current, sure = (OWN if think_open else None), not think_open
    last, opened, nested, spans = current, False, set[Markup](), list[tuple[int, int]]()
    inside = answer = begin
    stop = close = len(completion)
    for mark in marks(completion, begin):
        kind = mark.lastgroup or ""
        if kind == "end":
            if current is HARMONY and mark[0] == "<|end|>":
                continue  # of the analysis; the final message follows
            stop = mark.start()
            break
        one, at = MARKUPS[int(kind[1:])], mark.start()
        if kind[0] == "o" and current is None:
            spans.append((answer, at))
            if not completion[inside:at].strip():
                inside = mark.end()
            current, last, opened, sure = one, one, True, True
        elif kind[0] == "o" and one is not current:
            nested.add(one)
        elif kind[0] == "c" and (current is None or one is current or (not sure and one not in nested)):
            if current is None:
                spans.append((answer, at))
                opened = opened and last is one
            current, last, close, answer = None, one, at, mark.end()
    if current is not None:
        return Parted(spans, completion[inside:stop], None, current, opened, stop)
    spans.append((answer, stop))
    if last is None:
        return Parted(spans, None, completion[answer:stop], None, False, stop)
    found = spans[0] if last is not OWN and opened and not completion[answer:stop].strip() else (answer, stop)
    return Parted(spans, completion[inside:close], completion[slice(*found)], last, opened, stop)
