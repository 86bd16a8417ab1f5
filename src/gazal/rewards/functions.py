"""The four GRPO rewards (accuracy, format, length control, repetition penalty) and their weighted sum.

Each is a pure function of one completion and its item, without the rest of the batch. Accuracy and format use the one
extractor, `gazal.answers.extract`. An empty or truncated completion gets the least of every component, and so does one
with a `<think>` block open at its end. So nothing scores below it, and stopping early or never gains nothing.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from gazal.answers.extract import Extraction, Reason, extract, has_format, has_think_block
from gazal.answers.markup import OWN, part
from gazal.answers.text import VISIBLE, fold
from gazal.recipe.rewards import RewardConfig

_MASK = 2**64 - 1


class RewardScores(NamedTuple):
    """Unweighted components and their weighted sum `total`."""

    accuracy: float
    format: float
    length: float
    repetition: float
    total: float


def accuracy_reward(extraction: Extraction, answer_idx: str) -> float:
    """Return 1.0 if the extracted letter is the key, else 0.0; a null extraction is wrong."""
    return float(extraction.letter == answer_idx)


def format_reward(
    completion: str,
    options: Mapping[str, str | None],
    extraction: Extraction,
    cfg: RewardConfig,
    think_open: bool = False,
) -> float:
    """Return 1.0 if `gazal.answers.extract.has_format` holds, `cfg.format_partial` for partial format, else 0.0.

    Partial format is a good think block and a readable answer in another form.
    """
    if has_format(completion, options, think_open, extraction):
        return 1.0
    partial = cfg.format_partial and extraction.letter and has_think_block(completion, think_open)
    return cfg.format_partial if partial else 0.0


def length_reward(n_tokens: int, correct: bool, cfg: RewardConfig) -> float:
    """Return the length reward by `cfg.length_kind`.

    It never increases in `n_tokens`, and no wrong answer is above a right one.

    cosine: long + (short - long) / 2 * (1 + cos(pi * min(n_tokens / max_tokens, 1))) with the values of right or wrong
    answers (Demystifying Long Chain-of-Thought, arXiv 2502.03373, C.1). TRL's `get_cosine_scaled_reward` has the
    formula but judges answers as LaTeX mathematics, so it does not fit letters. overlong: TRL's
    `get_soft_overlong_punishment` (DAPO, arXiv 2503.14476, eq. 13).
    """
    if cfg.length_kind == "overlong":
        # Slow to import, and only this kind needs it; TRL exports it lazily.
        from trl.rewards import get_soft_overlong_punishment  # pyright: ignore[reportPrivateImportUsage]

        margin = cfg.max_tokens - int(cfg.overlong_start * cfg.max_tokens)
        return float(get_soft_overlong_punishment(cfg.max_tokens, margin)([range(n_tokens)])[0])
    if cfg.length_kind == "none":
        return 0.0
    short, long = cfg.cosine_wrong_short, cfg.cosine_wrong_long
    if correct:
        short, long = cfg.cosine_correct_short, cfg.cosine_correct_long
    share = (1.0 + math.cos(math.pi * min(n_tokens / cfg.max_tokens, 1.0))) / 2
    return share * short + (1.0 - share) * long


def repetition_reward(tokens: Sequence[Any], cfg: RewardConfig) -> float:
    """Return `repetition_max_penalty` * min(1, repeated n-grams / repetition_budget); 0.0 without a repeated n-gram.

    Repeated n-grams are all less the distinct ones: with more text before or after, their count can only grow. TRL's
    `get_repetition_penalty_reward` divides by all n-grams instead, so that other text around a loop dilutes it.
    n-grams are told apart by 64-bit hashes (two of 10,000 share one by chance with probability below 1e-11).
    """
    size = cfg.repetition_ngram
    if len(tokens) <= size:
        return 0.0
    try:
        numbers = array("Q", tokens if isinstance(tokens[0], int) else [hash(token) & _MASK for token in tokens])
    except OverflowError:  # an id below zero
        numbers = array("Q", [token & _MASK for token in tokens])
    grams = np.sort(np.convolve(np.frombuffer(numbers, dtype=np.uint64), _powers(size), "valid"))  # modulo 2^64
    repeated = int(np.count_nonzero(grams[1:] == grams[:-1]))
    return cfg.repetition_max_penalty * min(1.0, repeated / cfg.repetition_budget) if repeated else 0.0


@lru_cache(maxsize=64)
def _powers(size: int) -> np.ndarray:
    return np.array([pow(0x9E3779B97F4A7C15, power, 2**64) for power in range(size)], dtype=np.uint64)


def score_completion(
    completion: str,
    options: Mapping[str, str | None],
    answer_idx: str,
    n_tokens: int | None = None,
    token_ids: Sequence[int] | None = None,
    truncated: bool = False,
    cfg: RewardConfig | None = None,
    think_open: bool = False,
) -> RewardScores:
    """Return the four rewards of one completion and their weighted sum, within `cfg.bounds()`.

    n_tokens: its length, by default that of token_ids. Without token_ids both length and n-grams count words split at
    white space instead of tokens. truncated: generation stopped at its limit (an open `<think>` block counts as that).
    think_open: the prompt opened `<think>`.
    """
    cfg = cfg or RewardConfig()
    extraction = extract(completion, options, think_open)
    if extraction.letter and part(completion, think_open).markup not in (None, OWN):
        extraction = Extraction(None, Reason.NO_ANSWER)  # other marks than the recipe's: nothing that training wants
    cut = truncated or extraction.reason is Reason.UNCLOSED_THINK
    if cut or not (VISIBLE.search(completion) or fold(completion).strip()):
        values = [low for low, _ in cfg.component_bounds().values()]
        return RewardScores(*values, total=cfg._total(values))
    tokens: Sequence[Any] = completion.split() if token_ids is None else token_ids
    accuracy = accuracy_reward(extraction, answer_idx)
    values = [
        accuracy,
        format_reward(completion, options, extraction, cfg, think_open),
        length_reward(len(tokens) if n_tokens is None else n_tokens, accuracy == 1.0, cfg),
        repetition_reward(tokens, cfg),
    ]
    return RewardScores(*values, total=cfg._total(values))
