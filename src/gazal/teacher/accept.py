"""The answers that become examples: a pure function of the seeds, the answers and the rules.

An answer must parse into the model card's form (``parse``), keep to the lengths, and be no refusal. If the seed has a
key, more than half of the task's samples must give it (``gazal.answers.extract.extract``). An unreadable or missing
answer is a vote for nothing. Then the first passing sample is taken, by its number: the shortest would teach
terseness. Last, in the tasks' order, near-copies go. A case or a reasoning must not be too near a seed's question or
reasoning or an earlier example's. A question that an earlier example has is a copy too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from typing import Any, NamedTuple

from pydantic import Field

from gazal.answers.extract import extract, has_think_block
from gazal.common.openai_message import FAILED, NotText, finish_of, read_message
from gazal.curation.text import words
from gazal.items.prompts import HEADING, SECTIONS, question_text
from gazal.items.schema import Item, TrainingExample
from gazal.recipe.section import Section
from gazal.teacher.copies import NearCopies
from gazal.teacher.plan import Request, Task


class Rules(Section):
    """Limits of acceptance; a change needs no new requests."""

    min_steps: int = Field(
        2, ge=1, description="Numbered steps in the think block. source: chosen, because one step is no reasoning"
    )
    min_words: int = Field(
        40,
        ge=1,
        description="Words of the think block, and half as many of the assessment. "
        "source: chosen, because two short sentences a step are about that",
    )
    max_words: int = Field(
        1500,
        ge=1,
        description="Words of think block and assessment together. "
        "source: chosen, because the card's 2048 new tokens hold about as many",
    )
    min_case_words: int = Field(
        30, ge=1, description="Words of a case that the teacher wrote. source: chosen, because less is no history"
    )
    jaccard: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Shingle Jaccard from which a text is a near-copy. "
        "source: chosen, because one word in ten changed leaves about 0.57",
    )
    shingle: int = Field(
        3, ge=1, description="Words of a shingle. source: chosen, because longer ones lose lightly edited copies"
    )


class Reason(StrEnum):
    """Why a sample did not become an example."""

    EMPTY = "empty"
    NOT_UNICODE = "not_unicode"  # half a surrogate pair, which no UTF-8 file can hold
    TRUNCATED = "truncated"  # finish_reason length
    FINISH_REASON = "finish_reason"  # any other than stop, such as content_filter
    REFUSAL = "refusal"
    NO_THINK = "no_think_block"  # not exactly one, closed, at the start
    STEPS = "steps"  # not "Step 1: … Step n: …", or too few, or an empty one
    CASE = "case"  # a topic's case is missing or too short
    SECTIONS = "sections"  # the assessment's headings: missing, out of order, twice or empty
    MANAGEMENT = "management"  # no numbered list from 1
    ANSWER_LINE = "answer_line"  # the last line is not "**Answer:** X"
    NO_ANSWER = "no_answer"  # the answer cannot be read, or contradicts itself
    WRONG_ANSWER = "wrong_answer"
    NO_MAJORITY = "no_majority"  # right, but not more than half of the samples were
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    COPY_OF_SEED = "near_copy_of_seed"
    COPY_OF_EXAMPLE = "near_copy_of_example"  # or of an earlier seed's question
    SURPLUS = "surplus"  # passed, but an earlier sample of the task was taken


class Answer(NamedTuple):
    """A parsed answer. ``case`` and ``letter`` are empty if the task has none."""

    case: str
    reasoning: str
    assessment: str
    letter: str


class Acceptance(NamedTuple):
    """One sample: accepted if it has an ``example``, else rejected for ``reasons``."""

    task: Task
    sample: int
    text: str
    example: Item | None
    reasons: list[Reason]


_STEP = re.compile(r"^Step (\d+): *", re.M)
_CASE = re.compile(r"## Case[ \t]*\n(.*?)(?=\n## |\Z)", re.S)
_LABEL = re.compile(r"^\*\*(" + "|".join(SECTIONS) + r")(?:\*\*:?|:\*\*)[ \t]*", re.M)
_NUMBER = re.compile(r"^[ \t]*(\d+)[.)][ \t]+\S", re.M)
_ANSWER_LINE = re.compile(r"(?:\A|\n)\*\*Answer:\*\* ([A-J])\Z")
# Only at the head of a text, and only refusing the task: "I cannot determine which …" inside a differential is honest.
_ABOUT = (
    r"(?:(?:medical|clinical|health|professional|personal|specific) "
    r"(?:advice|opinions?|guidance|information|recommendations?|diagnos[ie]s)"
    r"|advice|assistance|help|answers?|responses?|requests?|questions?|content|this|that"
    r"|diagnos[ie]s(?! (?:with|from|without|until|on)\b))"
)
_DO = (
    r"(?:(?:assist|help|comply|continue|engage|respond|participate)\b"
    r"|(?:provide|offer|give|answer|fulfil?l?|generate|create|write|share|complete|make|do|discuss)\b"
    rf"(?: (?!definitive|firm|single|certain|final)[\w-]+){{0,3}}? {_ABOUT})"
)
_UNABLE = (
    r"(?:i|we)(?: am| are|['’]m|['’]re)? (?:can ?not|can['’]?t|could not|couldn['’]?t|won['’]?t(?: be able)?"
    r"|will not(?: be able)?|must (?:respectfully )?decline|have to decline|decline|refuse|not able|unable"
    rf"|not (?:allowed|permitted|qualified|licensed))(?: to)?(?: \w+ly)? {_DO}"
)
_SORRY = (
    r"(?:(?:i['’]?m|i am|we['’]re|we are)? ?(?:so |very |really |truly )?sorry|(?:my )?apologies"
    r"|(?:i|we) (?:must |have to )?apologi[sz]e)\b"
)
_REFUSAL = re.compile(
    rf"(?:{_SORRY}[^.\n]{{0,30}}?)?(?:(?:but|unfortunately|however),? )?{_UNABLE}"
    rf"|{_SORRY}[^.\n]{{0,30}}? (?:unable|not able) to {_DO}"
    r"|(?:as|i['’]?m|i am|being) (?:just |only )?an? (?:ai\b|artificial intelligence|(?:large )?language model)"
    r"|(?:this|your) (?:request|prompt) (?:violates|goes against)",
    re.I,
)
_MARKUP = re.compile(r"\A(?:\s|<think>|#+[^\n]*\n|\*\*[^*\n]*\*\*:?|[*_>-])+")


def is_refusal(text: str) -> bool:
    """Return whether ``text`` opens by declining to answer (markup, labels and headings before it aside)."""
    return _REFUSAL.match(_MARKUP.sub("", text[:600])) is not None


def completion(response: dict[str, Any]) -> tuple[str, str]:
    """Return (text, finish reason) of a stored chat completion, empty if its message cannot be read.

    The finish reason is one of ``openai_message``, ``refusal``, or ``None``. A thought that the server cut out becomes
    the think block if the text has none.
    """
    choice = response["choices"][0]
    try:
        text, thought, refusal = read_message(choice["message"])
    except NotText:  # stored by an earlier version
        return "", FAILED
    if refusal and not text:
        return refusal, "refusal"
    if thought.strip() and "<think>" not in text:
        text = f"<think>\n{thought.strip()}\n</think>\n\n{text}"
    return text.strip(), str(finish_of(choice.get("finish_reason")))


def parse(text: str, task: Task, rules: Rules) -> tuple[Answer, list[Reason]]:
    """Return the parts of ``text`` and every reason why it is not in the form; parts that are missing are empty.

    A topic's ``## Case`` stands before the think block or right after it.
    """
    reasons: list[Reason] = []
    case = letter = ""
    if task.seed is None:
        thinks = re.search(r"<think>.*?</think>", text, re.S)
        outside = text.replace(thinks[0], "\n", 1).strip() if thinks else text
        if found := _CASE.match(outside):
            case, text = found[1].strip(), f"{thinks[0] if thinks else ''}\n\n{outside[found.end() :].strip()}".strip()
        if len(case.split()) < rules.min_case_words:
            reasons.append(Reason.CASE)
    if not has_think_block(text):
        return Answer(case, "", text, ""), [*reasons, Reason.NO_THINK]
    inside, _, assessment = text.removeprefix("<think>").partition("</think>")
    reasoning, assessment = inside.strip(), assessment.strip()
    pieces = _STEP.split(reasoning)  # the text before the first, then number and text by turns
    numbers, steps = [int(number) for number in pieces[1::2]], pieces[2::2]
    counted = numbers == list(range(1, len(numbers) + 1)) and len(numbers) >= rules.min_steps
    if pieces[0] or not counted or not all(step.strip() for step in steps):
        reasons.append(Reason.STEPS)
    body = assessment
    if task.options:
        if last := _ANSWER_LINE.search(assessment):
            letter, body = last[1], assessment[: last.start()]
        else:
            reasons.append(Reason.ANSWER_LINE)
    head, *rest = _LABEL.split(body)
    contents = dict(zip(rest[::2], (part.strip() for part in rest[1::2]), strict=True))
    if head.strip() != HEADING or tuple(rest[::2]) != SECTIONS or not all(contents.values()):
        reasons.append(Reason.SECTIONS)
    listed = [int(number) for number in _NUMBER.findall(contents.get("Immediate Management", ""))]
    if contents.get("Immediate Management") and (not listed or listed != list(range(1, len(listed) + 1))):
        reasons.append(Reason.MANAGEMENT)
    return Answer(case, reasoning, assessment, letter), reasons


def judge(text: str, finish: str, task: Task, rules: Rules) -> tuple[Answer, list[Reason]]:
    """Parse ``text`` and apply every rule that one sample alone can break."""
    if not (text := text.strip()):
        return Answer("", "", "", ""), [Reason.EMPTY]
    if finish != "stop":
        reason = {"length": Reason.TRUNCATED, "refusal": Reason.REFUSAL}.get(finish, Reason.FINISH_REASON)
        return Answer("", "", text, ""), [reason]
    if any("\ud800" <= character <= "\udfff" for character in text):
        return Answer("", "", "", ""), [Reason.NOT_UNICODE]
    answer, reasons = parse(text, task, rules)
    if is_refusal(text) or is_refusal(answer.assessment):
        return answer, [Reason.REFUSAL, *reasons]
    thought, said = len(answer.reasoning.split()), len(answer.assessment.split())
    if answer.reasoning and (thought < rules.min_words or said < rules.min_words / 2):
        reasons.append(Reason.TOO_SHORT)
    if len(text.split()) > rules.max_words + len(answer.case.split()):
        reasons.append(Reason.TOO_LONG)
    if task.options:
        letter = extract(text, task.options).letter
        if letter is None or (answer.letter and letter != answer.letter):
            reasons.append(Reason.NO_ANSWER)
        elif letter != task.seed.answer_idx:
            reasons.append(Reason.WRONG_ANSWER)
    return answer, reasons


def accept(
    tasks: Iterable[Task],
    requests: Callable[[Task], list[Request]],
    read: Callable[[Request], dict[str, Any] | None],
    rules: Rules,
    model: str,
) -> Iterator[Acceptance]:
    """Yield the decision on every answered sample of ``tasks``, in order.

    ``read`` returns a request's line of the ledger, None if it has no answer.
    """
    tasks = list(tasks)
    copies = NearCopies(rules.shingle, rules.jaccard)
    for seed in filter(None, (task.seed for task in tasks)):
        for text in filter(None, [question_text(seed), seed.reasoning]):
            copies.add("seed", text)
    questions: set[tuple[str, ...]] = set()
    for task in tasks:
        sent = requests(task)
        answered = [(request.sample, *completion(line["response"])) for request in sent if (line := read(request))]
        judged = [(sample, text, *judge(text, finish, task, rules)) for sample, text, finish in answered]
        outvoted = False
        if task.options:
            votes = Counter(extract(text, task.options).letter for _, text, finish in answered if finish == "stop")
            outvoted = 2 * votes[task.seed.answer_idx] <= len(sent)
        taken = False
        for sample, text, answer, reasons in judged:
            if not reasons and outvoted:
                reasons = [Reason.NO_MAJORITY]
            if not reasons and taken:
                reasons = [Reason.SURPLUS]
            if not reasons:
                parts = [part for part in (answer.case, answer.reasoning) if part]
                found = {copies.find(part) for part in parts}
                asked_before = task.seed is not None and tuple(words(task.text)) in questions
                if "seed" in found:
                    reasons = [Reason.COPY_OF_SEED]
                elif "example" in found or asked_before:
                    reasons = [Reason.COPY_OF_EXAMPLE]
                else:
                    taken = True
                    questions.add(tuple(words(task.text)))
                    for part in parts:
                        copies.add("example", part)
            yield Acceptance(task, sample, text, None if reasons else _example(task, answer, model), reasons)


def _example(task: Task, answer: Answer, model: str) -> Item:
    about: dict[str, Any] = {
        "id": task.id,
        "reasoning_type": task.kind,
        "subject": task.specialty,
        "source": f"teacher: {model}",
        "reasoning": answer.reasoning,
    }
    seed = task.seed
    if seed is None:
        return TrainingExample(question=answer.case, response=answer.assessment, topic=task.text, **about)
    about |= {"question": seed.question, "context": seed.context}
    if seed.source:
        about["seed_source"] = seed.source
    if seed.options:
        key: dict[str, Any] = {"options": seed.options, "answer_idx": seed.answer_idx, "answer": seed.answer}
        return Item(**key, assessment=answer.assessment, **about)
    return TrainingExample(response=answer.assessment, **about)
