"""The names that items are made of; importing them costs nothing."""

from typing import Literal, get_args

ReasoningType = Literal["diagnosis", "uncertainty", "treatment", "prognosis"]
REASONING_TYPES: tuple[str, ...] = get_args(ReasoningType)
