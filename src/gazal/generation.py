"""Batched generation with a transformers model: length-sorted, left-padded, under a token budget, seeded per batch.

Decoding costs time in proportion to the rows of a batch, also on a CPU, and completions differ in
length: after every ``CHUNK`` tokens the rows that have ended leave the batch and its cache.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

CHUNK = 4  # decoding steps between two looks for rows that have ended


class Completion(NamedTuple):
    """``ids`` hold the EOS that ended them, if any; ``finish_reason`` is ``stop`` (EOS) or ``length``."""

    index: int
    ids: list[int]
    finish_reason: str


def plan_batches(lengths: Sequence[int], max_new_tokens: int, batch_tokens: int) -> list[list[int]]:
    """Indices in batches, longest prompts first (what does not fit in memory fails at once); rows times
    (longest prompt + ``max_new_tokens``) stays within ``batch_tokens``, except for a lone row."""
    batches: list[list[int]] = []
    rows = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if not batches or len(batches[-1]) >= rows:
            rows = batch_tokens // (lengths[index] + max_new_tokens)
            batches.append([])
        batches[-1].append(index)
    return batches


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends a completion: the tokenizer's EOS and those of the model's generation config."""
    configured = model.generation_config.eos_token_id
    configured = configured if isinstance(configured, list) else [configured]
    return sorted({i for i in [tokenizer.eos_token_id, *configured] if i is not None})


def grouped_attention(module, query, key, value, attention_mask, scaling=None, position_bias=None, **options):
    """transformers' sdpa attention, but a single query takes the query heads of a key head for queries of that head.

    transformers repeats the keys and values instead, which with the slower kernel is about a fifth of the decoding time on a CPU.
    """
    if query.shape[2] > 1 or position_bias is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, position_bias=position_bias, **options)
    rows, heads, _, width = query.shape
    grouped = query.view(rows, key.shape[1], heads // key.shape[1], width)
    return scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling).reshape(rows, 1, heads, width), None


AttentionInterface.register("gazal_grouped", grouped_attention)
AttentionMaskInterface.register("gazal_grouped", sdpa_mask)


@contextmanager
def _decoding(model: PreTrainedModel) -> Iterator[None]:
    """The model in eval mode, without gradients and with :func:`grouped_attention` in place of sdpa; all restored after."""
    training, config = model.training, model.config.get_text_config()
    attention = config._attn_implementation
    try:
        model.eval()
        if attention == "sdpa":
            config._attn_implementation = "gazal_grouped"
        with torch.no_grad():
            yield
    finally:
        config._attn_implementation = attention
        model.train(training)


def pick(logits: torch.Tensor, draws: torch.Tensor, temperature: float, top_p: float = 1.0, top_k: int = 0) -> torch.Tensor:
    """One token id a row of ``logits`` (rows × vocabulary): the largest at temperature 0, else the one at which the
    cumulative probability passes the row's draw (uniform in [0, 1), float64) among the ``top_k`` largest (0: all), of these
    the fewest whose probability reaches ``top_p``."""
    if temperature == 0:
        return logits.argmax(-1)
    values, ids = logits.float() / temperature, None
    if 0 < top_k < values.shape[-1]:
        values, ids = values.topk(top_k)
    elif top_p < 1:
        values, ids = values.sort(descending=True)
    total = values.softmax(-1).cumsum(-1, dtype=torch.float64)
    if top_p < 1:  # the tokens after the one at which top_p is reached have no probability
        last = torch.searchsorted(total, total.new_full((len(total), 1), top_p)).clamp(max=total.shape[-1] - 1)
        total = total.minimum(total.gather(1, last))
    at = torch.searchsorted(total, draws[:, None] * total[:, -1:], right=True)
    return (at if ids is None else ids.gather(1, at))[:, 0]


def _run(model: PreTrainedModel, prompts: list[list[int]], pad: int, stops: list[int], max_new_tokens: int, generator: torch.Generator, sampling: dict[str, float]) -> list[list[int]]:
    """Completions of one batch, each up to and with its EOS. A row's draws do not depend on which rows have left."""
    device, width = model.device, max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    draws = torch.rand(len(prompts), max_new_tokens, dtype=torch.float64, generator=generator).to(device)
    made = torch.full((len(prompts), max_new_tokens), pad, device=device)
    ends, rows = torch.tensor(stops, device=device), torch.arange(len(prompts), device=device)
    last_only = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    cache, position = DynamicCache(config=model.config), (mask.cumsum(1) - 1).clamp(min=0)
    for step in range(max_new_tokens):
        logits = model(input_ids=ids, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True, **last_only).logits[:, -1]
        ids = pick(logits, draws[rows, step], **sampling)[:, None]
        made[rows, step] = ids[:, 0]
        mask, position = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1), position[:, -1:] + 1
        if step % CHUNK == CHUNK - 1:
            keep = (~torch.isin(made[rows, : step + 1], ends).any(1)).nonzero()[:, 0]
            if len(keep) == 0:
                break
            if len(keep) < len(rows):
                ids, mask, position, rows = ids[keep], mask[keep], position[keep], rows[keep]
                cache.batch_select_indices(keep)
    found = torch.isin(made, ends)
    lengths = torch.where(found.any(1), found.int().argmax(1) + 1, max_new_tokens).tolist()
    return [tokens[:length] for tokens, length in zip(made.tolist(), lengths, strict=True)]


def generate_batches(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[list[int]], *, max_new_tokens: int,
    temperature: float = 0.0, top_p: float = 1.0, top_k: int = 0, seed: int = 0, batch_tokens: int = 32_768,
    done: Collection[int] = (), progress: Callable[[int, int], None] | None = None,
) -> Iterator[list[Completion]]:
    """Yield the completions of ``prompts`` (token ids), one list per batch.

    ``temperature`` 0 is greedy, ``top_k`` 0 is off. The batches and their seeds depend on all prompts,
    so a run that leaves out the indices in ``done`` (whole batches of an earlier run) writes what the
    uninterrupted run would have written. A prompt that leaves no room for ``max_new_tokens`` in the
    model's context is not asked: no tokens, finish reason ``length``. ``progress(done, total)`` is
    called after each batch. The model's generation config and mode are left as they were.
    """
    stops = stop_ids(model, tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (stops or [0])[0]
    sampling = {"temperature": temperature, "top_p": top_p, "top_k": top_k}
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2**31
    done = set(done)
    finished = len(done)
    fits = [i for i, ids in enumerate(prompts) if len(ids) + max_new_tokens <= context]
    if too_long := sorted(set(range(len(prompts))) - set(fits) - done):
        finished += len(too_long)
        yield [Completion(i, [], "length") for i in too_long]
    for number, batch in enumerate(plan_batches([len(prompts[i]) for i in fits], max_new_tokens, batch_tokens)):
        wanted = [i for i in (fits[at] for at in batch) if i not in done]
        if not wanted:
            continue
        draws = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))
        with _decoding(model):
            answers = _run(model, [list(prompts[i]) for i in wanted], pad, stops or [-1], max_new_tokens, draws, sampling)
        finished += len(wanted)
        if progress:
            progress(finished, len(prompts))
        yield [Completion(i, ids, "stop" if ids and ids[-1] in stops else "length") for i, ids in zip(wanted, answers, strict=True)]


def generate(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[list[int]], **options) -> Iterator[Completion]:
    """The completions of :func:`generate_batches` one by one (same options), in the order of the batches."""
    for batch in generate_batches(model, tokenizer, prompts, **options):
        yield from batch
