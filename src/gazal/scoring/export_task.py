"""What both exports read: one model's predictions on one benchmark."""

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
    """One model's predictions on one benchmark: ``frame`` has an item's completions in a row each, ``means`` one value an item."""

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
        """What an item's completions answered."""
        return [letter if isinstance(letter, str) else INVALID for letter in rows["letter"]]

    @staticmethod
    def logprobs(item: Item, rows: pd.DataFrame) -> list[float | None]:
        """Summed log-likelihood of each option, nats; None for a prompt that was too long to be asked."""
        found = json.loads(rows["completion"].iloc[0] or "{}")
        return [value[0] if isinstance(value := found.get(letter), list) else value for letter in item.options]

    @property
    def stderr(self) -> float | str:
        return float(self.means.std(ddof=1) / np.sqrt(len(self.means))) if len(self.means) > 1 else "N/A"

    def rows(self) -> Iterator[tuple[Item, Prompt, pd.DataFrame, float]]:
        """Each item with its prompt, its completions and the share of them that is right."""
        asked = self.header.get("prompt", {})
        prompting = Prompting(
            **{key: asked[key] for key in ("system", "opens_think", "style", "instruction") if key in asked}
        )
        for item, right, (_, rows) in zip(
            self.items, self.means, self.frame.groupby("item_id", sort=False), strict=True
        ):
            yield item, prompting.prompt(item), rows, float(right)


def as_text(prompt: Prompt) -> str:
    """A prompt as one string: messages as JSON."""
    return prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False)
