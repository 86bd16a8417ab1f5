"""A reply, and the interface of every engine."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple, Protocol

from gazal.items.prompts import Prompt
from gazal.recipe.evaluation import EvaluationSection

REFUSED = "refused"


class Reply(NamedTuple):
    """``text`` without special tokens; ``n_tokens`` with the EOS; ``finish_reason`` one of four.

    ``stop``: it ended. ``length``: it was cut at its limit. ``content_filter``: a server's filter cut it.
    ``REFUSED``: a server took no such prompt, so that there is no text.
    """

    index: int
    text: str
    n_tokens: int
    finish_reason: str


class Engine(Protocol):
    """``name`` is file-safe; ``identity`` changes whenever the model's answers could."""

    name: str
    identity: str

    def opens_think(self, prompt: Prompt, thinking: str = "template") -> bool | None:
        """Return whether the rendered prompt ends inside ``<think>``; None if the engine cannot see it."""

    def complete(
        self, prompts: Sequence[Prompt], settings: EvaluationSection, seed: int, done: Collection[int]
    ) -> Iterator[list[Reply]]:
        """Yield replies in batches, without the prompt indices in ``done`` (whole batches of an earlier call).

        ``prompts`` may be built on access: an engine reads each when it needs it and holds no list of them. If the
        sequence has an attribute ``opens_think``, it counts for prompts that the engine cannot see rendered.
        """
