"""The four GRPO rewards (accuracy, format, length control, repetition penalty) and their weighted sum.

Each is a pure function of one completion and its item: no reward looks at the rest of the batch. Accuracy and format
use the one extractor, `gazal.answers.extract`. An empty or truncated completion, or one whose `<think>` block is open at its end,
gets the least of every component, so nothing scores below it and nothing is gained by stopping early or never.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from operator import mul
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from trl.rewards import get_soft_overlong_punishment

from gazal.answers.extract import Extraction, Reason, extract, has_format, has_think_block
from gazal.answers.text import VISIBLE, fold

_MASK = 2**64 - 1
COMPONENTS = ("accuracy", "format", "length", "repetition")


class RewardConfig(BaseModel):
    """Weights and shapes of the four rewards."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    accuracy_weight: float = Field(
        1.0, gt=0, description="Weight of accuracy. source: chosen, because the answer is what counts"
    )
    format_weight: float = Field(
        0.2, ge=0, description="Weight of format. source: chosen, because form must not buy back a wrong answer"
    )
    length_weight: float = Field(
        0.1,
        ge=0,
        description="Weight of length control. source: chosen, because it only breaks ties between right answers",
    )
    repetition_weight: float = Field(
        0.1, ge=0, description="Weight of the repetition penalty. source: chosen, because loops are rare after SFT"
    )
    format_partial: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Format credit for a good think block and a readable answer in another form. source: chosen, because partial credit is gamed first",
    )
    length_kind: Literal["cosine", "overlong", "none"] = Field(
        "cosine",
        description="Cosine by length, DAPO's soft overlong punishment, or none. source: chosen, because the card says only length control",
    )
    max_tokens: int = Field(
        2048,
        ge=1,
        description="Tokens at which the length schedules end. source: card (max_new_tokens of its quickstart)",
    )
    cosine_correct_short: float = Field(
        1.0, description="Cosine value of a right answer at 0 tokens. source: chosen, TRL's default"
    )
    cosine_correct_long: float = Field(
        0.5, description="Cosine value of a right answer from max_tokens on. source: chosen, TRL's default"
    )
    cosine_wrong_short: float = Field(
        0.0,
        description="Cosine value of a wrong answer at 0 tokens. source: chosen, because a wrong answer earns nothing",
    )
    cosine_wrong_long: float = Field(
        0.0,
        description="Cosine value of a wrong answer from max_tokens on. source: chosen, because paying for length (TRL: -0.5 after -1) pays for padding",
    )
    overlong_start: float = Field(
        0.75,
        ge=0,
        le=1,
        description="Share of max_tokens at which the overlong punishment starts. source: chosen, near the DAPO paper's 0.8",
    )
    repetition_ngram: int = Field(
        8,
        ge=1,
        description="Tokens in an n-gram. source: chosen, because step-wise traces repeat short phrases honestly",
    )
    repetition_budget: int = Field(
        64,
        ge=1,
        description="Repeated n-grams that earn the whole penalty. source: chosen, because a loop passes it within seconds",
    )
    repetition_max_penalty: float = Field(
        -1.0, le=0, description="Most negative repetition reward. source: chosen, TRL's default"
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
        """The weights in the order of `COMPONENTS`, as GRPOConfig's `reward_weights` takes them."""
        return (self.accuracy_weight, self.format_weight, self.length_weight, self.repetition_weight)

    def component_bounds(self) -> dict[str, tuple[float, float]]:
        """Least and greatest value of each component."""
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
        """Least and greatest total; an empty or truncated completion gets exactly the least."""
        pairs = self.component_bounds().values()
        return (self._total([low for low, _ in pairs]), self._total([high for _, high in pairs]))

    def _total(self, values: Sequence[float]) -> float:
        return sum(map(mul, self.weights(), values))


class RewardScores(NamedTuple):
    """Unweighted components and their weighted sum `total`."""

    accuracy: float
    format: float
    length: float
    repetition: float
    total: float


def accuracy_reward(extraction: Extraction, answer_idx: str) -> float:
    """1.0 where the extracted letter is the key, else 0.0; a null extraction is wrong."""
    return float(extraction.letter == answer_idx)


def format_reward(
    completion: str,
    options: Mapping[str, str | None],
    extraction: Extraction,
    cfg: RewardConfig,
    think_open: bool = False,
) -> float:
    """1.0 for `gazal.answers.extract.has_format`; `cfg.format_partial` for a good think block and a readable answer; else 0.0."""
    if has_format(completion, options, think_open, extraction):
        return 1.0
    return (
        cfg.format_partial
        if cfg.format_partial and extraction.letter and has_think_block(completion, think_open)
        else 0.0
    )


def length_reward(n_tokens: int, correct: bool, cfg: RewardConfig) -> float:
    """Length control by `cfg.length_kind`; never increasing in `n_tokens`, and no wrong answer above a right one.

    cosine: long + (short - long) / 2 * (1 + cos(pi * min(n_tokens / max_tokens, 1))) with the values of right or wrong
    answers (Demystifying Long Chain-of-Thought, arXiv 2502.03373, C.1). TRL's `get_cosine_scaled_reward` has the formula
    but judges answers as LaTeX mathematics, so it does not fit letters. overlong: TRL's `get_soft_overlong_punishment`
    (DAPO, arXiv 2503.14476, eq. 13).
    """
    if cfg.length_kind == "overlong":
        margin = cfg.max_tokens - int(cfg.overlong_start * cfg.max_tokens)
        return float(get_soft_overlong_punishment(cfg.max_tokens, margin)([range(n_tokens)])[0])
    if cfg.length_kind == "none":
        return 0.0
    short, long = (
        (cfg.cosine_correct_short, cfg.cosine_correct_long)
        if correct
        else (cfg.cosine_wrong_short, cfg.cosine_wrong_long)
    )
    share = (1.0 + math.cos(math.pi * min(n_tokens / cfg.max_tokens, 1.0))) / 2
    return share * short + (1.0 - share) * long


def repetition_reward(tokens: Sequence[Any], cfg: RewardConfig) -> float:
    """`repetition_max_penalty` * min(1, repeated n-grams / repetition_budget); 0.0 without a repeated n-gram.

    Repeated n-grams: all less the distinct ones. TRL's `get_repetition_penalty_reward` divides by all n-grams instead,
    so that a loop is diluted by padding it with other text; this count can only grow when text is put before or after.
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
    """The four rewards of one completion and their weighted sum, within `cfg.bounds()`.

    n_tokens: its length, by default that of token_ids. Without token_ids both length and n-grams count words split at
    white space instead of tokens. truncated: generation stopped at its limit (an open
    `<think>` block counts as that). think_open: the prompt opened `<think>`.
    """
    cfg = cfg or RewardConfig()
    extraction = extract(completion, options, think_open)
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


class _BatchScorer:
    """Scores a batch once for the four reward functions, which TRL calls one after the other with the same lists."""

    def __init__(self, cfg: RewardConfig, eos_token_id: int | Sequence[int] | None, think_open: bool) -> None:
        self.cfg, self.think_open = cfg, think_open
        self.ends = frozenset([eos_token_id] if isinstance(eos_token_id, int) else eos_token_id or ())
        self.batch: tuple[Any, ...] = ()
        self.scores: list[RewardScores] = []

    def __call__(
        self, completions: Sequence[Any], ids: Sequence[Any] | None, options: Sequence[Any], answers: Sequence[str]
    ) -> list[RewardScores]:
        batch = (completions, ids, options, answers)
        if not self.batch or any(one is not other for one, other in zip(batch, self.batch, strict=True)):
            tokens = [None] * len(completions) if ids is None else ids
            self.scores = [self._score(*row) for row in zip(completions, tokens, options, answers, strict=True)]
            self.batch = batch
        return self.scores

    def _score(self, completion: Any, tokens: Sequence[int] | None, options: Any, answer: str) -> RewardScores:
        text = completion if isinstance(completion, str) else "".join(turn["content"] or "" for turn in completion)
        choices = json.loads(options) if isinstance(options, str) else options
        truncated = bool(self.ends) and tokens is not None and (not tokens or tokens[-1] not in self.ends)
        return score_completion(
            text, choices, answer, token_ids=tokens, truncated=truncated, cfg=self.cfg, think_open=self.think_open
        )


class _Component:
    """One component as a TRL reward function; a class, so that it can be pickled as TRL's own are."""

    def __init__(self, scorer: _BatchScorer, name: str) -> None:
        self.scorer, self.__name__ = scorer, name

    def __call__(
        self,
        completions: Sequence[Any],
        options: Sequence[Any],
        answer_idx: Sequence[str],
        completion_ids: Sequence[Any] | None = None,
        **_: Any,
    ) -> list[float]:
        return [
            getattr(scores, self.__name__) for scores in self.scorer(completions, completion_ids, options, answer_idx)
        ]


def trl_reward_functions(
    cfg: RewardConfig, eos_token_id: int | Sequence[int] | None = None, think_open: bool = False
) -> list[Callable[..., list[float]]]:
    """Four reward functions for GRPOTrainer, named and ordered as `COMPONENTS`; give it `reward_weights=list(cfg.weights())`.

    They read the dataset's columns `options` (JSON text, or a dict in which a letter without option may be None) and
    `answer_idx`. Completions are texts or lists of messages. With eos_token_id, one whose `completion_ids` do not end
    with it is truncated. A batch is scored once for all four, as long as they are given the same lists, as TRL does.
    """
    scorer = _BatchScorer(cfg, eos_token_id, think_open)
    return [_Component(scorer, name) for name in COMPONENTS]
