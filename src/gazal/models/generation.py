"""Batched generation with a transformers model: length-sorted, left-padded, under a token budget, seeded per batch.

Decoding costs time in proportion to the rows of a batch, also on a CPU, and completions differ in length. After every
``CHUNK`` tokens the rows that have ended therefore leave the batch and its cache. With an
:class:`gazal.answers.ending.AnswerEnd` a row also ends as soon as its answer is closed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch.nn import functional
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer

from gazal.answers.ending import AnswerEnd
from gazal.models.attention import RoomyLayer, decoding
from gazal.models.loading import say_once
from gazal.models.rendering import end_of_turn
from gazal.models.weights import require_finite_logits, require_known

LEAST_FILL = 0.8  # shortest by longest row of those that are read together
CHUNK = 4  # decoding steps between two looks for rows that have ended


class Completion(NamedTuple):
    """``ids`` include the EOS that ended them, if any.

    ``finish_reason`` is ``stop`` after an EOS or a closed answer, else ``length``.
    """

    index: int
    ids: list[int]
    finish_reason: str


def plan_batches(lengths: Sequence[int], max_new_tokens: int, batch_tokens: int) -> list[list[int]]:
    """Return the indices of ``lengths`` (tokens) in batches, longest prompts first.

    Rows times (longest prompt + ``max_new_tokens``) stays within ``batch_tokens``, except for a lone row. With the
    longest first, a batch that is too large for the memory fails at once.
    """
    batches: list[list[int]] = []
    rows = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if not batches or len(batches[-1]) >= rows:
            rows = batch_tokens // (lengths[index] + max_new_tokens)
            batches.append([])
        batches[-1].append(index)
    return batches


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return every token that ends a completion: the tokenizer's EOS and those of the model's generation config."""
    return with_eos(tokenizer, model.generation_config.eos_token_id)


def with_eos(tokenizer: PreTrainedTokenizerBase, configured: int | list[int] | None) -> list[int]:
    """Return the tokenizer's EOS, those ``configured``, and what the chat template ends a turn with, sorted.

    Some Llama-3 models name another EOS than their template writes, and would go on for ever.
    """
    others = configured if isinstance(configured, list) else [configured]
    known = {i for i in cast("list[int | None]", [tokenizer.eos_token_id, *others]) if i is not None}
    if (end := _template_end(tokenizer)) is not None and end not in known:
        written, eos = tokenizer.convert_ids_to_tokens(end), tokenizer.eos_token
        say_once(f"gazal: the chat template ends a turn with {written}, the EOS is {eos}: completions end at both")
        known.add(end)
    return sorted(known)


def _template_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the special token with which the chat template ends a turn, None if it has no such end."""
    question, answer = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}
    try:
        end = end_of_turn(tokenizer, [question], [answer])
    except Exception:  # a template may raise anything, and is refused where a prompt is rendered
        return None
    token = tokenizer.added_tokens_decoder.get(end) if end is not None else None
    return end if token is not None and token.special else None


def pick(
    logits: torch.Tensor, draws: torch.Tensor, temperature: float, top_p: float = 1.0, top_k: int = 0
) -> torch.Tensor:
    """Return one token id for each row of ``logits`` (rows × vocabulary): at temperature 0 the likeliest, else drawn.

    ``draws``: one a row, uniform in [0, 1), float64. The token is the one at which the cumulative probability passes
    the draw. Only the ``top_k`` likeliest count (0: all), of these the fewest whose probability reaches ``top_p``.
    """
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
    at = at.clamp(max=total.shape[-1] - 1)  # logits that are NaN lead beyond the end
    return (at if ids is None else ids.gather(1, at))[:, 0]


def group_by_length(lengths: Sequence[int]) -> Iterator[slice]:
    """Yield slices of ``lengths`` (longest first); the shortest of a slice is at least ``LEAST_FILL`` of its longest.

    Read apart, they save padding, which costs a model as much time as tokens do.
    """
    start = 0
    for at, length in enumerate(lengths):
        if length < LEAST_FILL * lengths[start]:
            yield slice(start, at)
            start = at
    yield slice(start, len(lengths))


def left_padded(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and attention mask on ``device``, both of shape (rows, longest)."""
    width = max(map(len, rows))
    ids, mask = torch.full((len(rows), width), pad), torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, width - len(row) :] = torch.as_tensor(np.asarray(row, dtype=np.int64))
        mask[number, width - len(row) :] = 1
    return ids.to(device), mask.to(device)


def places(mask: torch.Tensor) -> torch.Tensor:
    """Return the position ids of left-padded tokens by their attention mask; padding has 0."""
    return (mask.cumsum(1) - 1).clamp(min=0)


def keep_last(model: PreTrainedModel, count: int = 1) -> dict[str, int]:
    """Return the option of :func:`forward` that makes the last ``count`` logits only, if the model has it."""
    return {"logits_to_keep": count} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}


def forward(
    model: PreTrainedModel,
    ids: torch.Tensor,
    mask: torch.Tensor,
    position: torch.Tensor,
    cache: DynamicCache | None,
    **options: Any,
) -> torch.Tensor:
    """Return the logits of ``ids``, and add them to ``cache``, if there is one."""
    return model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=position,
        past_key_values=cache,
        use_cache=cache is not None,
        **options,
    ).logits


def _read(
    model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, position: torch.Tensor, last_only: dict[str, int]
) -> tuple[torch.Tensor, DynamicCache]:
    """Return the last logits and the cache of left-padded prompts.

    Prompts of like length are read together, without the padding that longer ones need. In the cache that padding is
    zeros, which the mask hides.
    """
    cache, lengths = DynamicCache(config=model.config), mask.sum(1).tolist()
    roomy = bool(cache.layers) and all(type(layer) is DynamicLayer for layer in cache.layers)
    parts = list(group_by_length(lengths)) if roomy else [slice(None)]
    skips = [ids.shape[1] - max(lengths[part]) for part in parts]
    caches = [DynamicCache(config=model.config) for _ in parts]
    logits = [
        forward(model, ids[part, skip:], mask[part, skip:], position[part, skip:], one, **last_only)[:, -1]
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
            layer.keys = layer.values = None  # so that the memory of one layer only is taken twice
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
    """Return the completions of one batch, each up to and with its EOS and of at most its number of ``rooms`` tokens.

    A row's draws do not depend on which rows have left. Raise GazalError for logits that are NaN or infinite.
    """
    device, most = model.device, max(rooms)
    ids, mask = left_padded(prompts, pad, device)
    require_known(model, int(ids.max()))
    draws = torch.rand(len(prompts), most, dtype=torch.float64, generator=generator).to(device)
    made = torch.full((len(prompts), most), pad, device=device)
    ends, room = torch.tensor(stops, device=device), torch.tensor(rooms, device=device)
    rows = torch.arange(len(prompts), device=device)
    marks, seen, full = torch.tensor(answer_end.marks if answer_end else [], device=device), 0, set(rooms)
    last_only, position = keep_last(model), places(mask)
    finite = torch.ones((), dtype=torch.bool, device=device)  # so far; a GPU is asked with the ends alone
    logits, cache = _read(model, ids, mask, position, last_only)
    for step in range(1, most + 1):
        if step > 1:
            logits = forward(model, ids, mask, position, cache, **last_only)[:, -1]
        finite &= logits.amax(-1).isfinite().all()
        ids = pick(logits, draws[rows, step - 1], **sampling)[:, None]
        made[rows, step - 1] = ids[:, 0]
        mask, position = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1), position[:, -1:] + 1
        if step % CHUNK == 0 or step in full:
            require_finite_logits(model, finite)
            new, seen = made[rows, seen:step], step
            over = torch.isin(new, ends).any(1) | (room[rows] == step)
            if answer_end:
                for at in (torch.isin(new, marks).any(1) & ~over).nonzero()[:, 0].tolist():
                    over[at] = answer_end.reached(made[rows[at], :step].tolist())
            keep = (~over).nonzero()[:, 0]
            if len(keep) < len(rows):
                room[rows[over]] = step  # what follows in ``made`` is padding
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

    ``temperature`` 0 is greedy, ``top_k`` 0 is off. The batches and their seeds depend on all prompts. A run that
    leaves out the indices in ``done`` (whole batches of an earlier run) thus goes on as the interrupted run would have.
    A prompt near the end of the model's context gets the tokens that are left, if fewer than ``max_new_tokens``. One
    that leaves none gets no tokens and the finish reason ``length``. With ``answer_end`` a completion is the shortest
    in which its answer is closed. ``progress(done, total)`` is called after each batch. The model's generation config
    and mode are left as they were.
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
        with decoding(model):
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
    """Yield the completions of :func:`generate_batches` one by one (same options), in the order of the batches."""
    for batch in generate_batches(model, tokenizer, prompts, **options):
        yield from batch
