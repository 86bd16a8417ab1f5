"""The rewards' values: weights, shapes and limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import mul
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, model_validator

from gazal.common.formats import Share
from gazal.recipe.section import AtLeastOne

COMPONENTS = ("accuracy", "format", "length", "repetition")


class RewardConfig(BaseModel):
    """Weights and shapes of the four rewards."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    accuracy_weight: PositiveFloat = Field(
        default=1.0, description="Weight of accuracy. source: chosen, because the answer is what counts"
    )
    format_weight: NonNegativeFloat = Field(
        default=0.2, description="Weight of format. source: chosen, because form must not buy back a wrong answer"
    )
    length_weight: NonNegativeFloat = Field(
        default=0.1,
        description="Weight of length control. source: chosen, because it only breaks ties between right answers",
    )
    repetition_weight: NonNegativeFloat = Field(
        default=0.1, description="Weight of the repetition penalty. source: chosen, because loops are rare after SFT"
    )
    format_partial: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Format credit for a good think block and a readable answer in another form. "
        "source: chosen, because partial credit is gamed first",
    )
    length_kind: Literal["cosine", "overlong", "none"] = Field(
        default="cosine",
        description="Cosine by length, DAPO's soft overlong punishment, or none. "
        "source: chosen, because the card says only length control",
    )
    max_tokens: AtLeastOne = Field(
        default=2048,
        description="Tokens at which the length schedules end. source: card (max_new_tokens of its quickstart)",
    )
    cosine_correct_short: float = Field(
        default=1.0, description="Cosine value of a right answer at 0 tokens. source: chosen, TRL's default"
    )
    cosine_correct_long: float = Field(
        default=0.5, description="Cosine value of a right answer from max_tokens on. source: chosen, TRL's default"
    )
    cosine_wrong_short: float = Field(
        default=0.0,
        description="Cosine value of a wrong answer at 0 tokens. source: chosen, because a wrong answer earns nothing",
    )
    cosine_wrong_long: float = Field(
        default=0.0,
        description="Cosine value of a wrong answer from max_tokens on. "
        "source: chosen, because paying for length (TRL: -0.5 after -1) pays for padding",
    )
    overlong_start: Share = Field(
        default=0.75,
        description="Share of max_tokens at which the overlong punishment starts. "
        "source: chosen, near the DAPO paper's 0.8",
    )
    repetition_ngram: AtLeastOne = Field(
        default=8,
        description="Tokens in an n-gram. source: chosen, because step-wise traces repeat short phrases honestly",
    )
    repetition_budget: AtLeastOne = Field(
        default=64,
        description="Repeated n-grams that earn the whole penalty. "
        "source: chosen, because a loop passes it within seconds",
    )
    repetition_max_penalty: float = Field(
        default=-1.0, le=0, description="Most negative repetition reward. source: chosen, TRL's default"
    )

    @model_validator(mode="after")
    def _check(self) -> RewardConfig:
        values = (self.cosine_correct_short, self.cosine_correct_long, self.cosine_wrong_short, self.cosine_wrong_long)
        if not all(map(math.isfinite, (*values, *self.weights(), self.repetition_max_penalty))):
            raise ValueError("weights and values must be finite")
        if list(values) != sorted(values, reverse=True):
            raise ValueError(
                "cosine_correct_short >= cosine_correct_long >= cosine_wrong_short >= cosine_wrong_long is needed:"
                " otherwise padding pays, or a wrong answer outranks a right one"
            )
        return self

    def weights(self) -> tuple[float, float, float, float]:
        """Return the weights in the order of `COMPONENTS`, as GRPOConfig's `reward_weights` takes them."""
        return (self.accuracy_weight, self.format_weight, self.length_weight, self.repetition_weight)

    def component_bounds(self) -> dict[str, tuple[float, float]]:
        """Return the least and the greatest value of each component."""
        length = {
            "cosine": (self.cosine_wrong_long, self.cosine_correct_short),
            "overlong": (-1.0, 0.0),
            "none": (0.0, 0.0),
        }[self.length_kind]
        return {
            "accuracy": (0.0, 1.0),
            "format": (0.0, 1.0),
            "length": length,
            "repetition": (self.repetition_max_penalty, 0.0),
        }

    def bounds(self) -> tuple[float, float]:
        """Return the least and the greatest total; an empty or truncated completion gets exactly the least."""
        pairs = self.component_bounds().values()
        return (self._total([low for low, _ in pairs]), self._total([high for _, high in pairs]))

    def _total(self, values: Sequence[float]) -> float:
        return sum(map(mul, self.weights(), values))
