"""Log-likelihoods of continuations with a transformers model: batched, left-padded, a shared prefix computed once.

Every model that generates in batches supports left padding (positions, sliding windows, recurrent states). It also
makes the wanted logits the last ones, so that no logits of a whole prompt are made. The first pass reads the prompt and
what all its continuations share. Tails of more than one token are read in a second pass, from the cache of the first.
"""

from __future__ import annotations

import os.path
from collections.abc import Sequence
from typing import NamedTuple

import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from gazal.models.generation import forward, keep_last, left_padded, places
from gazal.models.weights import require_finite_logits, require_known


class Encoded(NamedTuple):
    """Token ids of one prompt with its continuations.

    All begin with ``shared``; each goes on with one of ``tails`` (a token or more). The tokens before index ``start``
    are prompt and not scored.
    """

    shared: list[int]
    tails: list[list[int]]
    start: int


class Scored(NamedTuple):
    """A continuation's log-likelihood (nats, summed over its tokens) and its number of tokens."""

    loglik: float
    tokens: int


def encode(
    tokenizer: PreTrainedTokenizerBase, prompt: str, continuations: Sequence[str], special_tokens: bool = False
) -> Encoded:
    """Return the token ids of a prompt and its continuations, split as lm-eval's ``_encode_pair`` does.

    White space at the prompt's end belongs to the continuation. A continuation's tokens are those that the encoded
    whole has beyond the encoded prompt, at least one.
    """
    context = prompt.rstrip()
    space = prompt[len(context) :]
    ids, *wholes = tokenizer(
        [context, *(context + space + text for text in continuations)], add_special_tokens=special_tokens
    )["input_ids"]
    if special_tokens and ids[-1] == tokenizer.eos_token_id:  # some tokenizers close every text
        ids, *wholes = (one[:-1] for one in (ids, *wholes))
    shortest = min(map(len, wholes))
    cut = min(len(os.path.commonprefix(wholes)), shortest - 1)
    return Encoded(wholes[0][:cut], [whole[cut:] for whole in wholes], min(len(ids), shortest - 1))


def score_batch(model: PreTrainedModel, rows: Sequence[Encoded], pad: int) -> list[list[Scored]]:
    """Return the log-likelihoods of each row's continuations, in float32 whatever the model's precision.

    The model's mode is left as it was. Raise GazalError for logits that are NaN or infinite.
    """
    training = model.training
    try:
        model.eval()
        with torch.no_grad():
            return _score(model, rows, pad)
    finally:
        model.train(training)


def _score(model: PreTrainedModel, rows: Sequence[Encoded], pad: int) -> list[list[Scored]]:
    require_known(model, max(i for row in rows for ids in (row.shared, *row.tails) for i in ids))
    ids, mask = left_padded([row.shared for row in rows], pad, model.device)
    longer = [(at, which) for at, row in enumerate(rows) for which, tail in enumerate(row.tails) if len(tail) > 1]
    kept = 1 + max(max(len(row.shared) - row.start, 0) for row in rows)
    cache = DynamicCache(config=model.config) if longer else None
    logits = forward(model, ids, mask, places(mask), cache, **keep_last(model, kept))
    require_finite_logits(model, logits[:, -1].amax(-1).isfinite())
    common = [
        _tokens(line[kept - 1 - tail :], row.shared[len(row.shared) - tail :])
        for row, line in zip(rows, logits[:, -kept:], strict=True)
        for tail in [max(len(row.shared) - row.start, 0)]
    ]
    first = [
        _tokens(line[-1:].expand(len(row.tails), -1), [tail[0] for tail in row.tails])
        for row, line in zip(rows, logits, strict=True)
    ]
    rest = _rest(model, rows, longer, mask, cache, pad) if cache is not None else {}
    return [
        [_sum(row, common[at], first[at][which], rest.get((at, which), [])) for which in range(len(row.tails))]
        for at, row in enumerate(rows)
    ]


def _rest(
    model: PreTrainedModel,
    rows: Sequence[Encoded],
    longer: list[tuple[int, int]],
    mask: torch.Tensor,
    cache: DynamicCache,
    pad: int,
) -> dict[tuple[int, int], list[float]]:
    """Return the log-probabilities of tails of two tokens or more, from the second token on."""
    tails = [rows[at].tails[which] for at, which in longer]
    origin, width = torch.tensor([at for at, _ in longer], device=mask.device), max(map(len, tails)) - 1
    cache.batch_select_indices(origin)
    ids = torch.tensor([tail[:-1] + [pad] * (width - len(tail) + 1) for tail in tails], device=mask.device)
    read = torch.tensor([[1] * (len(tail) - 1) + [0] * (width - len(tail) + 1) for tail in tails], device=mask.device)
    mask = torch.cat([mask[origin], read], dim=1)
    logits = forward(model, ids, mask, places(mask)[:, -width:], cache)
    return {
        key: _tokens(line[: len(tail) - 1], tail[1:]) for key, line, tail in zip(longer, logits, tails, strict=True)
    }


def _sum(row: Encoded, common: list[float], first: float, rest: list[float]) -> Scored:
    unscored = max(row.start - len(row.shared), 0)  # tokens of the prompt that continuations do not share
    found = [*common, *[first, *rest][unscored:]]
    return Scored(sum(found), len(found))


def _tokens(logits: torch.Tensor, ids: list[int]) -> list[float]:
    """Return the log-probability of each of ``ids`` by its row of ``logits`` (further rows are not read)."""
    if not ids:
        return []
    logits = logits[: len(ids)].float()
    return (logits.gather(1, torch.tensor(ids, device=logits.device)[:, None])[:, 0] - logits.logsumexp(1)).tolist()
