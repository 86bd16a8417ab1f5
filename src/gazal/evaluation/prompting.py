"""How an item becomes a prompt in evaluation: the same text for every engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gazal.items import Item
from gazal.prompts import build_messages
from gazal.recipe import Recipe

Messages = list[dict[str, str]]
Prompt = Messages | str
"""A chat, or plain text that is continued as it stands."""


@dataclass(frozen=True)
class Prompting:
    """``opens_think``: the rendered prompt ends inside ``<think>``."""

    system: str = ""
    opens_think: bool = False

    def prompt(self, item: Item) -> Prompt:
        """What the model is shown."""
        return build_messages(item, self.system)

    def header(self) -> dict[str, Any]:
        """What a predictions file says of its prompts: changes whenever a prompt could."""
        return {"system": self.system, "opens_think": self.opens_think}


def prompting_of(recipe: Recipe) -> Prompting:
    """The recipe's prompting."""
    return Prompting(recipe.model.system, recipe.model.prompt_opens_think)
