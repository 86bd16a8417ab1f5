"""The random streams of a seed, in one table.

The numbers are part of what a seed means: never change one, and give a new use a new number.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What is drawn."""

    BRIEF = 3  # which knowledge-derived items are asked briefly
    GRPO_ORDER = 4  # the order of GRPO's items
    SOURCE_ORDER = 5  # the order of a source's items in a split
    MINHASH = 7  # the hash functions of the search for near-duplicates
    SFT_MIX = 8  # the order of several sources in a split
    GRPO_MIX = 9
    DEV_MIX = 10
    PREFLIGHT = 11  # which items the checks before GRPO try
    TEACHER_SEEDS = 31  # which seeds a teacher is prompted with
    TEACHER_FORMS = 32  # the order of a topic's question forms
    BASE_CORPUS = 77  # the embedded base's training text
    SOURCE_SAMPLE = 7  # which rows of a source are taken; as MINHASH, which draws numbers of another kind


def generator(seed: int, use: Stream, *more: int) -> np.random.Generator:
    """Return the generator of one use of ``seed``; ``more`` tells its parts apart, such as sources by number."""
    return np.random.default_rng([seed, int(use), *more])
