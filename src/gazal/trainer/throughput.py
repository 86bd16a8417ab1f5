"""Tokens a second, share of padding and model-FLOPs utilisation of each logged step.

Model FLOPs follow Chowdhery et al. 2022 (PaLM, arXiv 2204.02311, appendix B). A weight costs 6 FLOPs a token: 2
forward, 2 for the gradient of its input, 2 for its own. Attention costs 12 × layers × heads × head width for a pair of
query and key. A frozen weight needs no gradient of its own, so it costs 4. Padding, recomputed activations and
generation in GRPO do not count; the time of generation does.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import PreTrainedModel

from gazal.common.devices import known_devices

PEAK_SECONDS = 0.3


def flops_per_token(model: PreTrainedModel) -> int:
    """Return the FLOPs of one training pass for a token, without attention.

    A trained weight of a matrix counts 6, a frozen one 4. The input embedding is looked up: it counts only if it is the
    output matrix too. Of a layer's experts the active ones count.
    """
    config = model.config.get_text_config()
    experts = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None) or 1
    active = getattr(config, "num_experts_per_tok", 1) / experts
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    total = 0.0
    for parameter in model.parameters():
        if parameter.ndim < 2 or (parameter is inputs.weight and parameter is not outputs.weight):
            continue
        packed = 2 if type(parameter).__name__ == "Params4bit" else 1  # weights in an element
        size = getattr(parameter, "ds_numel", parameter.numel()) * packed
        total += (6 if parameter.requires_grad else 4) * size * (active if parameter.ndim == 3 else 1)
    return round(total)


def attention_flops(model: PreTrainedModel, lengths: torch.Tensor) -> float:
    """Return the FLOPs of attention in one training pass over sequences of ``lengths`` tokens.

    All pairs of query and key count, as in PaLM, not the causal half alone.
    """
    config = model.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 12 * config.num_hidden_layers * config.num_attention_heads * width * lengths.double().square().sum().item()


def sequence_lengths(inputs: dict[str, Any]) -> tuple[torch.Tensor, int]:
    """Return the tokens of each sequence of a batch, and the batch's number of positions, padding included.

    A batch of SFT is padded, or packed with position ids; a batch of GRPO has masks of prompt and completion.
    """
    if "prompt_mask" in inputs:
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    elif "attention_mask" in inputs:
        mask = inputs["attention_mask"]
    else:
        starts = (inputs["position_ids"].flatten() == 0).nonzero()[:, 0]
        places = inputs["position_ids"].numel()
        return torch.diff(starts, append=starts.new_tensor([places])), places
    return mask.sum(1), mask.numel()


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """Return a known GPU's FLOP/s by its data sheet (dense bf16); None for one that is not known.

    A CPU's are measured: its fastest product of 1024 × 1024 matrices in ``dtype`` within 0.3 s.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device).lower().replace(" ", "")
        return next((float(known["flops"]) for key, known in known_devices().items() if key in name), None)
    if device.type != "cpu":
        return None
    a, fastest, began = torch.ones(1024, 1024, dtype=dtype), float("inf"), time.perf_counter()
    while time.perf_counter() - began < PEAK_SECONDS:
        started = time.perf_counter()
        torch.mm(a, a)
        fastest = min(fastest, time.perf_counter() - started)
    return 2 * 1024**3 / fastest


class Throughput:
    """Mixin for a Trainer: adds ``tokens_per_second``, ``padding_share`` and ``mfu`` to each logged step.

    Tokens a second are those trained, without padding, over all processes; ``mfu`` needs a device whose peak is known.
    Both count wall time since the step before, so they differ between equal runs.
    """

    _since: float | None = None
    _peak: float | None = None

    def training_step(self, *args: Any, **options: Any) -> torch.Tensor:
        if self._since is None:
            self._begin()
        return super().training_step(*args, **options)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **options: Any) -> Any:
        if self._since is not None and model.training:
            self._seen.append(sequence_lengths(inputs))
        return super().compute_loss(model, inputs, *args, **options)

    def _begin(self) -> None:
        self._policy = self.accelerator.unwrap_model(self.model)
        self._per_token = flops_per_token(self._policy)
        self._peak = peak_flops(self.args.device, torch.bfloat16 if self.args.bf16 else self._policy.dtype)
        self._seen: list[tuple[torch.Tensor, int]] = []
        self._since = time.perf_counter()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._since is not None and self._seen:
            now = time.perf_counter()
            seconds, self._since = now - self._since, now
            lengths, places = torch.cat([seen for seen, _ in self._seen]), sum(count for _, count in self._seen)
            tokens = lengths.sum().item()
            logs["tokens_per_second"] = round(tokens * self.args.world_size / seconds, 1)
            logs["padding_share"] = round(1 - tokens / places, 4)
            if self._peak:
                flops = tokens * self._per_token + attention_flops(self._policy, lengths)
                logs["mfu"] = round(flops / seconds / self._peak, 4)
            self._seen.clear()
        super().log(logs, start_time)
