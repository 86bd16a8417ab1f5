"""The rewards as functions that TRL's GRPOTrainer calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from gazal.recipe.rewards import COMPONENTS, RewardConfig
from gazal.rewards.functions import RewardScores, score_completion


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
    """Return four reward functions for GRPOTrainer, named and ordered as `COMPONENTS`.

    GRPOTrainer needs `reward_weights=list(cfg.weights())`.
    The functions read the dataset's columns `options` (JSON text, or a dict in which a letter without option may be
    None) and `answer_idx`. Completions are texts or lists of messages. With eos_token_id, one whose `completion_ids` do
    not end with it is truncated. A batch is scored once for all four if they get the same lists, as in TRL.
    """
    scorer = _BatchScorer(cfg, eos_token_id, think_open)
    return [_Component(scorer, name) for name in COMPONENTS]
