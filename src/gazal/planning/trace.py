"""Bytes and FLOPs of one forward and backward pass, by running the real model with the real adapter on fake tensors.

PyTorch's FakeTensorMode runs every operation on shapes alone. It chooses kernels as on a CPU, so attention is the fused
one, as on a GPU. A dispatch mode adds up what the live storages would take. What DoRA, gradient checkpointing, autocast
or TRL's chunked loss keep or recompute is therefore counted and not modelled. Two depths are traced and extended to all
layers in a straight line: layers are alike, and so every peak grows by what one layer keeps.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from accelerate.utils.operations import convert_outputs_to_fp32
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry
from transformers import PreTrainedModel
from trl.trainer import grpo_trainer, sft_trainer
from trl.trainer.utils import entropy_from_logits, selective_log_softmax_and_entropy

from gazal.planning.model_shapes import config_of, meta_model, with_layers
from gazal.recipe.training import AdapterSection

DEPTHS = (2, 3)  # layers that are traced
# rows of logits at a time, in TRL
CHUNKS = {"sft": sft_trainer._CHUNKED_LM_HEAD_CHUNK_SIZE, "grpo": grpo_trainer._CHUNKED_LOGPROB_CHUNK_SIZE}
CHUNK_BYTES = 12  # a logit, its probability and its gradient in fp32


@dataclass(frozen=True)
class Pass:
    """What one pass needs beside weights, adapter and gradients.

    ``peak`` bytes, ``logits`` of them in tensors over the vocabulary, ``kept`` bytes still alive after it (a KV cache),
    and the ``flops`` it executes.
    """

    peak: float
    logits: float
    kept: float
    flops: float


class _Live(TorchDispatchMode):
    """A dispatch mode that adds up the bytes of live storages that were not there before.

    ``vocabulary``: the last dimension of what counts as logits.
    """

    def __init__(self, vocabulary: int, before: set[int]) -> None:
        super().__init__()
        self.vocabulary, self.known = vocabulary, set(before)
        self.now = self.logits = self.peak = self.logits_at_peak = self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func.overloadpacket):
            self.flops += count(*args, **(kwargs or {}), out_val=out)
        for tensor in tree_iter(out):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor)
        if self.now > self.peak:
            self.peak, self.logits_at_peak = self.now, self.logits
        return out

    def _add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.known:
            return
        size = storage.nbytes()
        share = size if tensor.ndim and tensor.shape[-1] == self.vocabulary else 0
        self.known.add(key)
        self.now += size
        self.logits += share
        weakref.finalize(storage, self._drop, key, size, share)

    def _drop(self, key: int, size: int, share: int) -> None:
        self.known.discard(key)
        self.now -= size
        self.logits -= share


def _fake(model: PreTrainedModel) -> list[torch.Tensor]:
    """Put fake CPU tensors in the place of a model's meta tensors (tied ones stay tied).

    Return the meta tensors: they must outlive the use of their ids.
    """
    made: dict[int, torch.Tensor] = {}
    old: list[torch.Tensor] = []
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    old.append(tensor)
                    fake = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
                    made[id(tensor)] = (
                        torch.nn.Parameter(fake, requires_grad=tensor.requires_grad)
                        if isinstance(tensor, torch.nn.Parameter)
                        else fake
                    )
                tensors[name] = made[id(tensor)]
    return old


def _storages(model: PreTrainedModel) -> set[int]:
    tensors = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters() if p.grad is not None)]
    return {tensor.untyped_storage()._cdata for tensor in tensors}


def _sft_loss(forward: Callable[..., Any], ids: torch.Tensor, mask: torch.Tensor, keep: int) -> torch.Tensor:
    """Compute what TRL's SFTTrainer does: the model's own loss, then entropy and accuracy of the tokens."""
    out = forward(input_ids=ids, attention_mask=mask, labels=ids, use_cache=False)
    if getattr(out, "logits", None) is not None:
        with torch.no_grad():
            logits = out.logits[..., :-1, :]
            entropy_from_logits(logits)
            logits.argmax(dim=-1)
    return out.loss


def _grpo_loss(forward: Callable[..., Any], ids: torch.Tensor, mask: torch.Tensor, keep: int) -> torch.Tensor:
    """Compute what TRL's GRPOTrainer does: log-probabilities and entropies of the last ``keep`` tokens."""
    out = forward(input_ids=ids, attention_mask=mask, logits_to_keep=keep + 1, use_cache=False)
    logits = out.logits[:, :-1, :][:, -keep:, :]
    found, _ = selective_log_softmax_and_entropy(
        logits, ids[:, -keep:], entropy_requires_grad=False, row_mask=mask[:, -keep:]
    )
    return (torch.exp(found - found.detach()) * mask[:, -keep:]).sum()


def _without_logits(forward: Callable[..., Any], ids: torch.Tensor, mask: torch.Tensor, keep: int) -> torch.Tensor:
    """Run the decoder alone, if the logits are made in chunks by liger's kernel or by TRL.

    TRL's code reads values that fake tensors lack.
    """
    return forward(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state.float().sum()


@lru_cache(maxsize=512)
def _run(
    config: str,
    layers: int,
    dtype: str,
    adapter: str | None,
    rows: int,
    length: int,
    keep: int,
    task: str,
    checkpointing: bool,
    bf16: bool,
    chunked: bool,
) -> Pass:
    model = meta_model(
        with_layers(config_of(config), layers), dtype, AdapterSection.model_validate_json(adapter) if adapter else None
    )
    with FakeTensorMode(allow_non_fake_inputs=True), ExitStack() as stack:
        meta = _fake(model)
        training = task != "generate"
        model.train(training)
        for parameter in model.parameters():
            if parameter.requires_grad and training:
                parameter.grad = torch.empty_like(parameter)
        if checkpointing and training:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        autocast = torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext()
        ids, mask = torch.zeros(rows, length, dtype=torch.long), torch.ones(rows, length, dtype=torch.long)
        mask[0, 0] = 0  # else attention takes a path without a mask, which padded batches never do

        def forward(**inputs: Any) -> Any:
            with autocast:
                return (model.get_base_model().model if chunked else model)(**inputs)

        live = stack.enter_context(_Live(model.config.vocab_size, _storages(model)))
        if task == "generate":
            stack.enter_context(torch.no_grad())
            kept = model(input_ids=ids, attention_mask=mask, logits_to_keep=1, use_cache=True)
            size = live.now
        else:
            wrapped = convert_outputs_to_fp32(forward) if bf16 else forward  # as accelerate wraps it
            loss = _without_logits if chunked else _sft_loss if task == "sft" else _grpo_loss
            loss(wrapped, ids, mask, keep).backward()
            size, kept = 0, meta
        del kept
        return Pass(live.peak, live.logits_at_peak, size, live.flops)


def trace(
    config: str,
    layers: int,
    dtype: str,
    adapter: AdapterSection | None,
    rows: int,
    length: int,
    task: str,
    *,
    keep: int = 0,
    checkpointing: bool = False,
    bf16: bool = False,
    chunked: bool = False,
) -> Pass:
    """Trace one pass of ``rows`` sequences of ``length`` tokens through ``layers`` layers of ``config`` (config_text).

    ``task``: ``sft`` or ``grpo`` (forward and backward; ``keep``: completion tokens), or ``generate`` (the prompt's
    pass, with its cache).
    """
    text = adapter.model_dump_json() if adapter else None
    few, more = (
        _run(config, depth, dtype, text, rows, length, keep, task, checkpointing, bf16, chunked) for depth in DEPTHS
    )
    further = layers - DEPTHS[0]
    chunk = min(CHUNKS[task], rows * (keep or length)) * config_of(config).vocab_size * CHUNK_BYTES if chunked else 0
    extended = (
        a + further * (b - a)
        for a, b in (
            (few.peak + chunk, more.peak + chunk),
            (few.logits + chunk, few.logits + chunk),
            (few.kept, more.kept),
            (few.flops, more.flops),
        )
    )
    return Pass(*extended)
