"""How an item becomes a prompt in evaluation: the same text for every engine.

``chat`` is a list of messages: the recipe's system text (none if empty), a user and an assistant turn for each shot,
and the question. If the shot has ``reasoning``, the assistant's turn is a whole completion in the card's form, else one
answer line. (Templates such as Qwen3's leave earlier think blocks out of what the model sees.)

``plain`` is text that a base model continues, in the form of lm-eval's medical tasks. Each shot is the same block with
its letter, and blocks are parted by an empty line::

    <system text, and an empty line; nothing if it is empty>
    <context, a line each>
    Question: <question>
    A. <option>
    B. <option>
    <instruction; nothing if it is empty>
    Answer:

The letter follows after one space. In both styles the instruction is the line after the options.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gazal.common.errors import GazalError
from gazal.data.benchmarks import BENCHMARKS, development_items, items_file
from gazal.data.repeats import asking
from gazal.items.prompts import Messages, Prompt, build_messages, completion_text, plain_question, short_answer
from gazal.items.reading import BY_ROW
from gazal.items.schema import Item
from gazal.recipe.evaluation import EvaluationSection
from gazal.recipe.recipe import Recipe

NEXT_QUESTION = re.compile(r"\s*\n\s*Question:")


@dataclass(frozen=True)
class Prompting:
    """How items become prompts.

    ``opens_think``: the rendered prompt ends inside ``<think>``; a plain one never does. ``shots``: solved items that
    are shown first.
    """

    system: str = ""
    opens_think: bool = False
    style: Literal["chat", "plain"] = "chat"
    instruction: str = ""
    shots: tuple[Item, ...] = ()

    def prompt(self, item: Item) -> Prompt:
        """Return the prompt that shows ``item`` to a model."""
        if self.style == "plain":
            blocks = [f"{plain_question(shot, self.instruction)} {shot.answer_idx}" for shot in self.shots]
            blocks = [self.system, *blocks] if self.system else blocks
            return "\n\n".join([*blocks, plain_question(item, self.instruction)])
        *system, question = build_messages(item, self.system, self.instruction)
        return [*system, *(turn for shot in self.shots for turn in self._turns(shot)), question]

    def _turns(self, shot: Item) -> Messages:
        answer = completion_text(shot, shot.reasoning) if shot.reasoning else short_answer(shot)
        return [build_messages(shot, "", self.instruction)[-1], {"role": "assistant", "content": answer}]

    def caution(self, settings: EvaluationSection) -> str | None:
        """Return a warning if a chat model may think and the shots show it how not to, else None."""
        bare = sum(not shot.reasoning for shot in self.shots)
        if not bare or self.style == "plain" or settings.thinking == "off" or settings.method == "loglik":
            return None
        return (
            f"{bare} of {len(self.shots)} solved items shown have no reasoning: "
            "a model may learn from them not to think "
            "(evaluation.few_shot_items=FILE with reasoning; evaluation.thinking=off)"
        )

    def end(self, completion: str) -> int | None:
        """Return the place at which a plain completion goes on with a question of the model's own, else None.

        A base model continues the form until its token limit. Answers to its own questions are none to ours.
        """
        found = NEXT_QUESTION.search(completion) if self.style == "plain" else None
        return found.start() if found else None

    def header(self) -> dict[str, Any]:
        """Return what a predictions file says of its prompts; it changes whenever a prompt could."""
        shown = json.dumps([[shot.id, *self._turns(shot)] for shot in self.shots], ensure_ascii=False).encode()
        return {
            "system": self.system,
            "opens_think": self.opens_think,
            "style": self.style,
            "instruction": self.instruction,
            "few_shot": len(self.shots),
            "shots": hashlib.sha256(shown).hexdigest() if self.shots else "",
        }


def prompting_of(
    recipe: Recipe,
    benchmark: str | None = None,
    items: Sequence[Item] | None = None,
    folder: str | Path | None = None,
    development: str | Path | None = None,
) -> Prompting:
    """Return the recipe's prompting for ``items``, the prompted items of ``benchmark``.

    With ``evaluation.few_shot`` the shots are drawn by the recipe's seed from ``evaluation.few_shot_items``. Else they
    are from the benchmark's own development items (of ``folder``, else of the hub) or the file ``development``. All
    items have the same shots. None of these is among ``items``, by id or by its question. Raises GazalError if there
    are too few.
    """
    settings, model = recipe.evaluation, recipe.model
    plain = settings.prompt == "plain"
    shots: tuple[Item, ...] = ()
    if settings.few_shot:
        candidates, origin = _candidates(recipe, benchmark or "", str(folder) if folder else None, development)
        shots = draw_shots(candidates, settings.few_shot, recipe.seed, items or ())
        if len(shots) < settings.few_shot:
            few = f"{len(shots)} items that are not asked themselves"
            raise GazalError(f"evaluation.few_shot={settings.few_shot}: {origin}: {few}")
    return Prompting(model.system, model.prompt_opens_think and not plain, settings.prompt, settings.instruction, shots)


def draw_shots(candidates: Sequence[Item], count: int, seed: int, asked: Sequence[Item] = ()) -> tuple[Item, ...]:
    """Return the first ``count`` of a seeded order of ``candidates`` that are not ``asked``, or all if there are fewer.

    Of candidates with the same question only the first counts.
    """
    ids = {item.id for item in asked if not BY_ROW.fullmatch(item.id)}  # ids by row say nothing across files
    known = set(map(asking, asked))
    shots: list[Item] = []
    for at in np.random.default_rng(seed).permutation(len(candidates)):
        shot = candidates[at]
        if len(shots) < count and shot.id not in ids and asking(shot) not in known:
            shots.append(shot)
            known.add(asking(shot))
    return tuple(shots)


def _candidates(
    recipe: Recipe, benchmark: str, folder: str | None, development: str | Path | None
) -> tuple[Sequence[Item], str]:
    given = recipe.evaluation.few_shot_items
    if given or benchmark not in BENCHMARKS:
        path = given or development
        if not path:
            absent = f"{benchmark or 'the items'} has no development items"
            few_shot = recipe.evaluation.few_shot
            raise GazalError(f"evaluation.few_shot={few_shot}: {absent}: give evaluation.few_shot_items=FILE")
        return items_file(Path(path).expanduser(), recipe.data.key_base), Path(path).name
    return _development(benchmark, folder, recipe.seed), f"{benchmark}'s development items"


@lru_cache(maxsize=16)
def _development(benchmark: str, folder: str | None, seed: int) -> Sequence[Item]:
    try:
        return development_items(benchmark, folder, seed)
    except GazalError as error:
        absent = f"no development items ({error})"
        raise GazalError(f"evaluation.few_shot: {absent}; give evaluation.few_shot_items=FILE") from error
