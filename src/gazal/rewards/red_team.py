"""The red team: adversarial completions, the reading that each must get, and honest answers to compare with.

A case is one completion that seeks a reward without an answer. The file of cases is `tests/red_team/cases.jsonl`, one
object a line. `completion` is text, or a list of texts and [text, times] pairs to be joined. `letter` and `reason` are
what the extractor must return. `options`, `answer_idx` and `think_open` are given if they differ from the usual item's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pydantic import ConfigDict, Field, StrictBool, TypeAdapter, ValidationError, field_validator, model_validator
from pydantic.dataclasses import dataclass

from gazal.answers.extract import Reason
from gazal.common.errors import GazalError, first_problem
from gazal.common.files import read_jsonl
from gazal.common.paths import RED_TEAM_CASES
from gazal.recipe.rewards import RewardConfig
from gazal.rewards.functions import RewardScores, score_completion
from gazal.rewards.lines import Letter, Text

OPTIONS = {"A": "Aspirin", "B": "Warfarin", "C": "Heparin", "D": "Metformin"}
KEY = "C"
MAX_CHARACTERS = 2_000_000
"""Longest completion that a case may expand to."""

_PIECES = TypeAdapter(list[tuple[Text, Annotated[int, Field(ge=0, strict=True)]]])


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Case:
    """One adversarial completion. `letter`, `reason`: the expected extraction; `answer_idx`: the item's key."""

    family: Annotated[str, Field(min_length=1)]
    id: Annotated[str, Field(min_length=1)]
    completion: Text
    options: Annotated[dict[Letter, Text], Field(min_length=2)]
    answer_idx: str
    letter: str | None
    reason: Reason
    think_open: StrictBool = False

    @field_validator("completion", mode="before")
    @classmethod
    def _join(cls, value: Any) -> str:
        """Join texts and [text, times] pairs."""
        parts = value if isinstance(value, list) else [value]
        try:
            pieces = _PIECES.validate_python([(part, 1) if isinstance(part, str) else part for part in parts])
        except ValidationError as error:
            raise ValueError("expected text, or a list of texts and [text, times] pairs") from error
        if sum(len(text) * times for text, times in pieces) > MAX_CHARACTERS:
            raise ValueError(f"is over {MAX_CHARACTERS} characters")
        return "".join(text * times for text, times in pieces)

    @model_validator(mode="after")
    def _check(self) -> Case:
        for field, letter in (("answer_idx", self.answer_idx), ("letter", self.letter)):
            if letter is not None and letter not in self.options:
                raise ValueError(f"{field}: {letter!r} is not among the options")
        if (self.letter is None) == (self.reason is Reason.OK):
            raise ValueError("reason: 'ok' goes with a letter, every other code with null")
        return self

    def score(self, cfg: RewardConfig, truncated: bool = False) -> RewardScores:
        """Return the case's rewards, with its length counted in words."""
        return score_completion(
            self.completion, self.options, self.answer_idx, truncated=truncated, cfg=cfg, think_open=self.think_open
        )

    def honest(self, cfg: RewardConfig) -> RewardScores:
        """Return the rewards of the honest correct answer to the case's item."""
        text = honest_completion(self.options, self.answer_idx, self.think_open)
        return score_completion(text, self.options, self.answer_idx, cfg=cfg, think_open=self.think_open)


def read_cases(path: str | Path = RED_TEAM_CASES) -> list[Case]:
    """Return the cases of a JSON-lines file.

    Raise GazalError, naming file, row and field, for a bad line or an id given twice.
    """
    cases: dict[str, Case] = {}
    for row, record in read_jsonl(path):
        try:
            case = TypeAdapter(Case).validate_python({"options": OPTIONS, "answer_idx": KEY} | record)
        except ValidationError as error:
            raise GazalError(f"{path}: row {row}: {first_problem(error)}") from error
        if case.id in cases:
            raise GazalError(f"{path}: row {row}: id: {case.id!r} is there twice")
        cases[case.id] = case
    return list(cases.values())


def honest_completion(options: Mapping[str, str] = OPTIONS, letter: str = KEY, think_open: bool = False) -> str:
    """Return an honest answer `letter` of ordinary length (about 60 words) in full format.

    It is correct if `letter` is the key.
    """
    own = options[letter]
    other = next(text for other, text in options.items() if other != letter)
    return (
        f"{'' if think_open else '<think>'}\n"
        "Step 1: The history and the findings point to one cause among those that are offered.\n"
        f"Step 2: {own} fits the onset, the course and the results that are given.\n"
        f"Step 3: {other} would explain some of the findings, but hardly the course over time.\n"
        f"Step 4: Nothing in the history speaks against {own}, and it alone explains all of the findings together.\n"
        f"</think>\n\n## Clinical Assessment\n**Answer:** {letter}. {own}"
    )


def honest_wrong(options: Mapping[str, str] = OPTIONS, answer_idx: str = KEY) -> list[str]:
    """Return honest wrong answers to one item.

    They are each wrong option in full format, and the first one in up to seven looser forms.
    """
    wrong = [letter for letter in options if letter != answer_idx]
    letter, text = wrong[0], options[wrong[0]]
    thought, _, _ = honest_completion(options, letter).partition("</think>")
    forms = [f"Answer: {letter}", f"<answer>{letter}</answer>", f"\\boxed{{{letter}}}", f'{{"answer": "{letter}"}}',
             f"The answer is ({letter}).", f"{letter}. {text}",
             f"{text} is the likeliest. Final answer: {text}"]  # fmt: skip
    if len(text) == 1:
        forms.pop()  # a text that is itself a letter would be read as one
    return [
        *(honest_completion(options, each) for each in wrong),
        *(f"{thought}</think>\n\n{form}" for form in forms[:4]),
        *forms[4:],
    ]


def family_table(cases: Sequence[Case], cfg: RewardConfig | None = None) -> pd.DataFrame:
    """Return one row per family.

    The columns are `family`, `cases`, `read as the key`, `best total`, `honest total` and `margin`. `read as the key`
    counts the cases that earn accuracy. `honest total` is the least that an honest correct answer to one of the items
    earns. `margin` is the least difference between a case's honest total and its own.
    """
    cfg = cfg or RewardConfig()
    scored = [(case, case.score(cfg)) for case in cases]
    rows = [(case.family, own.accuracy, own.total, case.honest(cfg).total) for case, own in scored]
    frame = pd.DataFrame(rows, columns=["family", "accuracy", "total", "honest"])
    frame["margin"] = frame["honest"] - frame["total"]
    columns = {
        "cases": ("total", "size"),
        "read as the key": ("accuracy", "sum"),
        "best total": ("total", "max"),
        "honest total": ("honest", "min"),
        "margin": ("margin", "min"),
    }
    table = frame.groupby("family", sort=True).agg(**columns)
    return table.astype({"read as the key": int}).reset_index()
