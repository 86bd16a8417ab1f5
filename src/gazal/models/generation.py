"""Batched generation with a transformers model: length-sorted, left-padded, under a token budget, seeded per batch.

Decoding costs time in proportion to the rows of a batch, also on a CPU, and completions differ in
length: after every ``CHUNK`` tokens the rows that have ended leave the batch and its cache. With an
:class:`gazal.answers.ending.AnswerEnd` a row ends where its answer is closed, too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch.nn import functional
from torch.nn.functional import scaled_dot_product_attention
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from gazal.answers.ending import AnswerEnd

ALIKE = 0.8
ROOM = 64  # tokens
CHUNK = 4  # decoding steps between two looks for rows that have ended


class Completion(NamedTuple):
    """``ids`` hold the EOS that ended them, if any; ``finish_reason`` is ``stop`` (EOS, or the answer is closed) or ``length``."""

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
    return with_eos(tokenizer, model.generation_config.eos_token_id)


def with_eos(tokenizer: PreTrainedTokenizerBase, configured: int | list[int] | None) -> list[int]:
    """The tokenizer's EOS and those ``configured``, sorted."""
    others = configured if isinstance(configured, list) else [configured]
    return sorted({i for i in cast("list[int | None]", [tokenizer.eos_token_id, *others]) if i is not None})


def grouped_attention(module, query, key, value, attention_mask, scaling=None, position_bias=None, **options):
    """transformers' sdpa attention, but a single query takes the query heads of a key head for queries of that head.

    transformers repeats the keys and values instead, which with the slower kernel is about a fifth of the decoding time on a CPU.
    """
    if query.shape[2] > 1 or position_bias is not None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, position_bias=position_bias, **options
        )
    rows, heads, _, width = query.shape
    grouped = query.view(rows, key.shape[1], heads // key.shape[1], width)
    return scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling).reshape(
        rows, 1, heads, width
    ), None


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


def pick(
    logits: torch.Tensor, draws: torch.Tensor, temperature: float, top_p: float = 1.0, top_k: int = 0
) -> torch.Tensor:
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


def alike(lengths: Sequence[int]) -> Iterator[slice]:
    """Slices of lengths, longest first, such that the shortest of a slice is at least ``ALIKE`` of its longest: padding is computed as tokens are."""
    start = 0
    for at, length in enumerate(lengths):
        if length < ALIKE * lengths[start]:
            yield slice(start, at)
            start = at
    yield slice(start, len(lengths))


def left_padded(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both rows × the longest."""
    width = max(map(len, rows))
    ids, mask = torch.full((len(rows), width), pad), torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, width - len(row) :] = torch.as_tensor(np.asarray(row, dtype=np.int64))
        mask[number, width - len(row) :] = 1
    return ids.to(device), mask.to(device)


def places(mask: torch.Tensor) -> torch.Tensor:
    """Position ids of the tokens that are no padding."""
    return (mask.cumsum(1) - 1).clamp(min=0)


class RoomyLayer(DynamicLayer):
    """A cache layer with room for ``ROOM`` tokens more: a step writes its own token, where transformers copies all that came before it."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self._hold(keys, values)

    def _hold(self, *states: torch.Tensor) -> None:
        self.rooms = [one.new_empty(*one.shape[:2], one.shape[2] + ROOM, one.shape[3]) for one in states]
        self.keys, self.values = (
            room[:, :, : one.shape[2]].copy_(one) for room, one in zip(self.rooms, states, strict=True)
        )

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        start = self.keys.shape[2]
        end = start + key_states.shape[2]
        if end > self.rooms[0].shape[2]:
            self._hold(self.keys, self.values)
        for room, one in zip(self.rooms, (key_states, value_states), strict=True):
            room[:, :, start:end] = one
        self.keys, self.values = (room[:, :, :end] for room in self.rooms)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self._hold(self.keys[indices], self.values[indices])


def _read(
    model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, position: torch.Tensor, last_only: dict[str, int]
) -> tuple[torch.Tensor, DynamicCache]:
    """The last logits and the cache of left-padded prompts. Prompts of like length are read together, without the padding that
    longer ones ask for; in the cache that padding is zeros, which the mask hides."""
    cache, lengths = DynamicCache(config=model.config), mask.sum(1).tolist()
    roomy = bool(cache.layers) and all(type(layer) is DynamicLayer for layer in cache.layers)
    parts = list(alike(lengths)) if roomy else [slice(None)]
    skips = [ids.shape[1] - max(lengths[part]) for part in parts]
    caches = [DynamicCache(config=model.config) for _ in parts]
    logits = [
        model(
            input_ids=ids[part, skip:],
            attention_mask=mask[part, skip:],
            position_ids=position[part, skip:],
            past_key_values=one,
            use_cache=True,
            **last_only,
        ).logits[:, -1]
        for part, skip, one in zip(parts, skips, caches, strict=True)
    ]
    for number in range(len(cache.layers)) if roomy else ():
        layers: list[Any] = [one.layers[number] for one in caches]
        widened = [
            [functional.pad(states, (0, 0, skip, 0)) for states in (layer.keys, layer.values)]
            for layer, skip in zip(layers, skips, strict=True)
        ]
        cache.layers[number] = RoomyLayer(*map(torch.cat, zip(*widened, strict=True)))
        for layer in layers:
            layer.keys = layer.values = None  # the memory of one layer at a time is taken twice
    return torch.cat(logits), cache if roomy else caches[0]


def _run(
    model: PreTrainedModel,
    prompts: list[Sequence[int]],
    pad: int,
    stops: list[int],
    rooms: list[int],
    generator: torch.Generator,
    sampling: dict[str, Any],
    answer_end: AnswerEnd | None,
) -> list[list[int]]:
    """Completions of one batch, each up to and with its EOS, of at most ``rooms`` tokens. A row's draws do not depend on which rows have left."""
    device, most = model.device, max(rooms)
    ids, mask = left_padded(prompts, pad, device)
    draws = torch.rand(len(prompts), most, dtype=torch.float64, generator=generator).to(device)
    made = torch.full((len(prompts), most), pad, device=device)
    ends, rows, room = (
        torch.tensor(stops, device=device),
        torch.arange(len(prompts), device=device),
        torch.tensor(rooms, device=device),
    )
    marks, seen, full = torch.tensor(answer_end.marks if answer_end else [], device=device), 0, set(rooms)
    last_only = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    position = places(mask)
    logits, cache = _read(model, ids, mask, position, last_only)
    for step in range(1, most + 1):
        if step > 1:
            logits = model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=position,
                past_key_values=cache,
                use_cache=True,
                **last_only,
            ).logits[:, -1]
        ids = pick(logits, draws[rows, step - 1], **sampling)[:, None]
        made[rows, step - 1] = ids[:, 0]
        mask, position = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1), position[:, -1:] + 1
        if step % CHUNK == 0 or step in full:
            new, seen = made[rows, seen:step], step
            over = torch.isin(new, ends).any(1) | (room[rows] == step)
            if answer_end:
                for at in (torch.isin(new, marks).any(1) & ~over).nonzero()[:, 0].tolist():
                    over[at] = answer_end.reached(made[rows[at], :step].tolist())
            keep = (~over).nonzero()[:, 0]
            if len(keep) < len(rows):
                room[rows[over]] = step  # what stands behind it in ``made`` is padding
                ids, mask, position, rows = ids[keep], mask[keep], position[keep], rows[keep]
                if len(keep) == 0:
                    break
                cache.batch_select_indices(keep)
    found = torch.isin(made, ends)
    lengths = torch.where(found.any(1), found.int().argmax(1) + 1, most).minimum(room).tolist()
    return [tokens[:length] for tokens, length in zip(made.tolist(), lengths, strict=True)]


def generate_batches(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
    batch_tokens: int = 32_768,
    done: Collection[int] = (),
    progress: Callable[[int, int], None] | None = None,
    answer_end: AnswerEnd | None = None,
) -> Iterator[list[Completion]]:
    """Yield the completions of ``prompts`` (token ids), one list per batch.

    ``temperature`` 0 is greedy, ``top_k`` 0 is off. The batches and their seeds depend on all prompts,
    so a run that leaves out the indices in ``done`` (whole batches of an earlier run) writes what the
    uninterrupted run would have written. A prompt that leaves less room than ``max_new_tokens`` in the
    model's context gets what room there is; one that leaves none is not asked: no tokens, finish reason
    ``length``. With ``answer_end`` a completion is the shortest in which its answer is closed.
    ``progress(done, total)`` is called after each batch. The model's generation config and mode are left as they were.
    """
    stops = stop_ids(model, tokenizer)
    pad = cast(int, tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (stops or [0])[0])
    sampling = {"temperature": temperature, "top_p": top_p, "top_k": top_k}
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2**31
    done = set(done)
    finished = len(done)
    fits = [i for i, ids in enumerate(prompts) if len(ids) < context]
    if too_long := sorted(set(range(len(prompts))) - set(fits) - done):
        finished += len(too_long)
        yield [Completion(i, [], "length") for i in too_long]
    for number, batch in enumerate(plan_batches([len(prompts[i]) for i in fits], max_new_tokens, batch_tokens)):
        wanted = [i for i in (fits[at] for at in batch) if i not in done]
        if not wanted:
            continue
        draws = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))
        with _decoding(model):
            rooms = [min(max_new_tokens, context - len(prompts[i])) for i in wanted]
            answers = _run(model, [prompts[i] for i in wanted], pad, stops or [-1], rooms, draws, sampling, answer_end)
        finished += len(wanted)
        if progress:
            progress(finished, len(prompts))
        cuts = [answer_end.cut(ids) if answer_end else (ids, "", False) for ids in answers]
        yield [
            Completion(i, cast(list[int], ids), "stop" if closed or ids[-1] in stops else "length")
            for i, (ids, _, closed) in zip(wanted, cuts, strict=True)
        ]


def generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[list[int]], **options
) -> Iterator[Completion]:
    """The completions of :func:`generate_batches` one by one (same options), in the order of the batches."""
    for batch in generate_batches(model, tokenizer, prompts, **options):
        yield from batch
