"""One model's predictions on one benchmark, as both exports read them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from gazal.items.prompts import Prompt
from gazal.items.schema import Item
from gazal.predictions.prompting import Prompting

INVALID = "[invalid]"


@dataclass
class Task:
    """One model's predictions on one benchmark.

    ``frame`` has a row for each completion, ``means`` the mean accuracy of each item.
    """

    name: str
    items: list[Item]
    frame: pd.DataFrame
    means: np.ndarray

    def __post_init__(self) -> None:
        self.header: dict[str, Any] = self.frame.attrs["header"]
        self.sampling: dict[str, Any] = self.header.get("sampling", {})
        self.likeliest = self.sampling.get("method") == "loglik"
        self.shots = int(self.header.get("prompt", {}).get("few_shot", 0))

    @staticmethod
    def letters(rows: pd.DataFrame) -> list[str]:
        """Return the letters that an item's completions answered, ``[invalid]`` for those not read."""
        return [letter if isinstance(letter, str) else INVALID for letter in rows["letter"]]

    @staticmethod
    def logprobs(item: Item, rows: pd.DataFrame) -> list[float | None]:
        """Return the summed log-likelihood of each option in nats, None if the prompt was too long for the model."""
        found = json.loads(rows["completion"].iloc[0] or "{}")
        return [value[0] if isinstance(value := found.get(letter), list) else value for letter in item.options]

    @property
    def stderr(self) -> float | str:
        return float(self.means.std(ddof=1) / np.sqrt(len(self.means))) if len(self.means) > 1 else "N/A"

    def rows(self) -> Iterator[tuple[Item, Prompt, pd.DataFrame, float]]:
        """Yield each item with its prompt, its completions and the share of them that is right."""
        shown, fields = self.header.get("prompt", {}), ("system", "opens_think", "style", "instruction")
        prompting = Prompting(**{key: shown[key] for key in fields if key in shown})
        answers = self.frame.groupby("item_id", sort=False)
        for item, right, (_, rows) in zip(self.items, self.means, answers, strict=True):
            yield item, prompting.prompt(item), rows, float(right)


def as_text(prompt: Prompt) -> str:
    """Return a prompt as one string: messages as JSON."""
    return prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False)
