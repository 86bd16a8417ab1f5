"""Rollouts from merged weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import PeftModel
from peft.tuners import lora
from peft.tuners.tuners_utils import BaseTunerLayer
from torch.nn.utils import skip_init
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gazal.common.errors import GazalError
from gazal.items.prompts import build_messages, encode_chats
from gazal.items.schema import Item
from gazal.models.generation import generate
from gazal.models.loading import load_model, load_tokenizer
from gazal.recipe.recipe import Recipe
from gazal.recipe.training import GRPOSection


def encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: list[list[dict[str, str]]]) -> list[list[int]]:
    """Return the token ids of chat prompts, up to and with the assistant's opening."""
    return encode_chats(tokenizer, prompts, opening=True)


def sample_texts(model: str | Path, items: list[Item], recipe: Recipe) -> list[str]:
    """Return greedy completions of a few items by a saved model, as text, for reading."""
    tokenizer = load_tokenizer(model)
    ids = encode_prompts(tokenizer, [build_messages(item, recipe.model.system) for item in items])
    made = generate(
        load_model(model, recipe.model.dtype), tokenizer, ids, max_new_tokens=recipe.evaluation.max_new_tokens
    )
    return [tokenizer.decode(done.ids, skip_special_tokens=True) for done in sorted(made)]


class MergedModel:
    """A policy's merged weights in one model of their own, for generation.

    Only the adapted layers' weights are copies; embeddings, norms and all else that is frozen are the policy's own
    tensors. Raises GazalError for a policy that cannot be merged so. Its adapters are then on other than plain linear
    layers (4-bit ones, embeddings), or its parameters are sharded over processes.
    """

    def __init__(self, policy: PeftModel) -> None:
        adapted = [(name, layer) for name, layer in policy.named_modules() if isinstance(layer, BaseTunerLayer)]
        for name, layer in adapted:
            if not (isinstance(layer, lora.Linear) and isinstance(layer.base_layer, torch.nn.Linear)):
                kind = type(layer.get_base_layer()).__name__
                raise GazalError(
                    f"grpo.rollouts: {name} has an adapter on {kind}, which has no merged form here: "
                    "set grpo.rollouts=trainer"
                )
        if any(hasattr(p, "full_tensor") or hasattr(p, "ds_id") for p in policy.parameters()):
            raise GazalError(
                "grpo.rollouts: the policy is sharded over processes (fsdp2, zero3), so none holds weights to merge: "
                "set grpo.rollouts=trainer"
            )
        self.layers = [(layer, _empty_like(layer.base_layer)) for _, layer in adapted]
        shared = {id(tensor): tensor for tensor in (*policy.parameters(), *policy.buffers())}
        self.model: PreTrainedModel = copy.deepcopy(
            policy.get_base_model(), shared | {id(layer): plain for layer, plain in self.layers}
        ).eval()

    @property
    def copied_bytes(self) -> int:
        """Return the bytes of the adapted layers' merged weights, which are all that is not shared with the policy."""
        return sum(parameter.nbytes for _, plain in self.layers for parameter in plain.parameters())

    @torch.no_grad()
    def refresh(self) -> PreTrainedModel:
        """Write pristine base + adapter, as PEFT merges them, into the model, and return it.

        PEFT merges into new tensors (``safe_merge``). The pristine ones are restored unchanged, so no error adds up.
        """
        for layer, plain in self.layers:
            base = layer.base_layer
            pristine = {name: parameter.data for name, parameter in base.named_parameters()}
            layer.merge(safe_merge=True)
            for name, parameter in base.named_parameters():
                plain.get_parameter(name).copy_(parameter)
                parameter.data = pristine[name]
            layer.merged_adapters.clear()
            layer._caches.clear()  # in which PEFT keeps the weight norms for an unmerge
        return self.model


def _empty_like(linear: torch.nn.Linear) -> torch.nn.Linear:
    """Return a frozen linear layer of the same shape, dtype and device, not initialised."""
    shape = {"in_features": linear.in_features, "out_features": linear.out_features, "bias": linear.bias is not None}
    empty = skip_init(torch.nn.Linear, **shape, device=linear.weight.device, dtype=linear.weight.dtype)
    return empty.requires_grad_(False)


class MergedRollouts:
    """TRL's ``rollout_func`` that generates from merged weights, which are updated before each generation.

    Generation through the adapter is several times slower with DoRA: ``measure/results/grpo_step.md``.
    """

    def __init__(self, section: GRPOSection, seed: int) -> None:
        self.section, self.seed = section, seed
        self.merged: MergedModel | None = None

    def __call__(self, prompts: list[Any], trainer: Any) -> dict[str, Any]:
        self.merged = self.merged or MergedModel(trainer.accelerator.unwrap_model(trainer.model))
        ids = encode_prompts(trainer.processing_class, prompts)
        seed, processes = self.seed * 100_003 + trainer.state.global_step + 1, PartialState()
        completions: list[list[int]] = [[] for _ in ids]
        for index, tokens, _ in generate(
            self.merged.refresh(),
            trainer.processing_class,
            ids,
            max_new_tokens=self.section.max_completion_length,
            temperature=self.section.temperature,
            top_p=1.0,
            top_k=0,
            seed=seed * processes.num_processes + processes.process_index,  # its own in each process
            batch_tokens=len(ids) * 4096,
        ):
            completions[index] = tokens
        return {"prompt_ids": ids, "completion_ids": completions, "logprobs": None}
