"""The plan of requests: one task for each seed (an item, or a question without options) or topic."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from gazal.common.errors import GazalError
from gazal.common.files import read_jsonl
from gazal.common.streams import Stream, generator
from gazal.items.prompts import question_text
from gazal.items.schema import Item, item_problem
from gazal.items.types import REASONING_TYPES, ReasoningType
from gazal.teacher.prompts import SPECIALTIES, teacher_messages

# Of a topic's patient, so that many cases of one topic differ: 6 × 2 × 4 forms.
PATIENTS = [
    f"a {sex} patient of {age} years, {place}"
    for age, sex, place in itertools.product(
        ("18 to 29", "30 to 44", "45 to 59", "60 to 69", "70 to 79", "80 or more"),
        ("female", "male"),
        ("seen in general practice", "in the emergency department", "on a hospital ward", "in an outpatient clinic"),
    )
]
# A seed without a reasoning type has the first whose words its question holds, else diagnosis.
_WORDS: dict[ReasoningType, re.Pattern[str]] = {
    "prognosis": re.compile(r"\b(?:prognos\w*|surviv\w*|mortality|outlook|life expectancy|long-term outcome)\b", re.I),
    "uncertainty": re.compile(
        r"\b(?:next (?:best )?(?:step|test|investigation)|most appropriate (?:next|initial)|best initial"
        r"|first investigation|should be (?:done|asked))\b",
        re.I,
    ),
    "treatment": re.compile(
        r"\b(?:treat\w*|therap\w*|drug of choice|manage\w*|dose|doses|dosing|prescrib\w*|antidote|contraindicated)\b",
        re.I,
    ),
}


class Question(Item):
    """A free-text seed: ``question`` (and ``context``), without options and key."""

    options: dict[str, str] = Field(default={}, max_length=0)
    answer_idx: str = Field(default="", max_length=0)

    @model_validator(mode="after")
    def _check(self) -> Question:
        if not self.question.strip():
            raise ValueError("question: empty")
        return self


@dataclass(frozen=True)
class Task:
    """One example to be made. ``seed`` is None for a topic; ``text`` is what the teacher reads of it."""

    id: str
    kind: ReasoningType
    specialty: str
    text: str
    seed: Item | None = None
    patient: str | None = None

    @property
    def options(self) -> dict[str, str]:
        return self.seed.options if self.seed else {}

    def messages(self) -> list[dict[str, str]]:
        return teacher_messages(self.kind, self.specialty, self.text, options=bool(self.options), patient=self.patient)


@dataclass(frozen=True)
class Request:
    """One completion to be paid for. ``key`` changes whenever the answer could."""

    task: str
    sample: int
    body: dict[str, Any] = field(repr=False)  # model, messages, temperature, max_tokens, seed

    @property
    def key(self) -> str:
        body = json.dumps([self.body, self.sample], ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(body.encode()).hexdigest()

    @property
    def prompt_estimate(self) -> int:
        """Return a rough number of prompt tokens: one for four characters, since no tokenizer is known."""
        return -(-sum(len(m["content"]) for m in self.body["messages"]) // 4)

    @property
    def prompt_bound(self) -> int:
        """Return an upper bound on prompt tokens for any byte-level tokenizer.

        It is the UTF-8 bytes, and 64 + 16 a message for the template.
        """
        return sum(len(m["content"].encode()) + 16 for m in self.body["messages"]) + 64


def make_requests(
    task: Task, model: str, samples: int, max_tokens: int, temperature: float, seed: int
) -> list[Request]:
    """Return the task's ``samples`` requests; sample i has seed ``seed + i``."""
    body = {"model": model, "messages": task.messages(), "temperature": temperature, "max_tokens": max_tokens}
    return [Request(task.id, sample, body | {"seed": seed + sample}) for sample in range(samples)]


def read_seeds(path: str | Path) -> list[Item]:
    """Return items, and questions without options, from JSON lines (``.gz`` too).

    Raises GazalError naming file, row and field for anything else, for an id that is there twice, and if there are no
    seeds.
    """
    seeds: dict[str, Item] = {}
    for row, value in read_jsonl(path):
        try:
            seed = (Item if "options" in value else Question).model_validate(value)
        except ValidationError as error:
            raise GazalError(f"{path}: row {row}: {item_problem(error)}") from error
        if seed.id in seeds:
            raise GazalError(f"{path}: row {row}: id: {seed.id!r} is there twice")
        seeds[seed.id] = seed
    if not seeds:
        raise GazalError(f"{path}: no seeds")
    return list(seeds.values())


def seed_tasks(path: str | Path, n: int | None = None, seed: int = 0) -> list[Task]:
    """Return one task for each seed, in the file's order; with ``n``, this many drawn by ``seed``.

    The reasoning type is the seed's own or follows from its question's words. The specialty is its subject if that is
    one of the eight, else internal medicine.
    """
    seeds = read_seeds(path)
    if n is not None and n > len(seeds):
        raise GazalError(f"--n {n}: {path} has {len(seeds)} seeds")
    if n is not None:
        seeds = [seeds[i] for i in sorted(generator(seed, Stream.TEACHER_SEEDS).permutation(len(seeds))[:n])]
    tasks = []
    for item in seeds:
        guessed = (kind for kind, words in _WORDS.items() if words.search(item.question))
        kind = item.reasoning_type or next(guessed, "diagnosis")
        subject = (item.subject or "").strip().casefold()
        specialty = subject if subject in SPECIALTIES else "internal medicine"
        tasks.append(Task(f"teacher:{item.id}", kind, specialty, question_text(item), seed=item))
    return tasks


def topic_tasks(path: str | Path, n: int | None = None, seed: int = 0) -> list[Task]:
    """Return ``n`` tasks over the topics of a text file; by default one for each topic and reasoning type.

    A line is a topic, or ``topic | specialty``; empty lines and ``#`` comments are skipped. The tasks go round topics
    and types. The patient, and the specialty if none is given, are drawn by ``seed``, never the same twice.
    """
    topics: dict[str, str | None] = {}
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise GazalError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8'})") from error
    for row, line in enumerate(lines, 1):
        topic, bar, specialty = (part.strip() for part in line.partition("|"))
        if not topic or topic.startswith("#"):
            continue
        if bar and specialty.casefold() not in SPECIALTIES:
            raise GazalError(f"{path}: row {row}: specialty: {specialty!r} is none of {', '.join(SPECIALTIES)}")
        if topic in topics:
            raise GazalError(f"{path}: row {row}: topic: {topic!r} is there twice")
        topics[topic] = specialty.casefold() or None
    if not topics:
        raise GazalError(f"{path}: no topics")
    pairs = [(topic, kind) for topic in topics for kind in REASONING_TYPES]
    forms = {pair: _forms(topics[pair[0]], seed, number) for number, pair in enumerate(pairs)}
    n = len(pairs) if n is None else n
    if n > (most := sum(map(len, forms.values()))):
        raise GazalError(f"--n {n}: {path} has {len(topics)} topics, enough for {most} different cases")
    tasks: list[Task] = []
    for turn in range(max(map(len, forms.values()))):
        for number, (topic, kind) in enumerate(pairs):
            if turn < len(forms[topic, kind]):
                specialty, patient = forms[topic, kind][turn]
                name = f"teacher:topic-{number // len(REASONING_TYPES) + 1}-{kind}-{turn + 1}"
                tasks.append(Task(name, kind, specialty, topic, patient=patient))
        if len(tasks) >= n:
            break
    return tasks[:n]


def _forms(specialty: str | None, seed: int, number: int) -> list[tuple[str, str]]:
    forms = list(itertools.product([specialty] if specialty else SPECIALTIES, PATIENTS))
    return [forms[i] for i in generator(seed, Stream.TEACHER_FORMS, number).permutation(len(forms))]
