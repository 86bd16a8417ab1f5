"""Shapes of base models, and parameter counts of the real model with its real adapter on the meta device."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import yaml
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from gazal.common.errors import GazalError
from gazal.common.hub import is_hub_id, require_hub
from gazal.common.paths import PLAN_MODELS
from gazal.models.loading import base_path, explained, lora_config, read_config
from gazal.recipe.recipe import ModelSection
from gazal.recipe.training import AdapterSection

CARD = ("parameters", "without_embeddings", "fp8_layers")  # published counts beside the shape


def known_models() -> dict[str, dict[str, Any]]:
    """Return the shipped shapes by hub id."""
    return yaml.safe_load(PLAN_MODELS.read_text(encoding="utf-8"))


def base_config(section: ModelSection) -> PreTrainedConfig:
    """Return the base's config: of its folder, else a shipped one, else the hub's.

    Raises GazalError if there is none, or the hub may not be used.
    """
    path = base_path(section)
    if not Path(path).is_dir():
        known = known_models()
        if path in known:
            values = {key: value for key, value in known[path].items() if key not in CARD}
            return AutoConfig.for_model(**values)
        if not is_hub_id(path):
            raise GazalError(f"model {path}: no such folder, and no hub id (owner/name)")
        require_hub(
            f"model {path}: its shape is not shipped (shipped: {', '.join(known)})", "a folder with its config.json"
        )
    return read_config(path, section.revision)


def with_layers(config: PreTrainedConfig, layers: int) -> PreTrainedConfig:
    """Return a copy with ``layers`` decoder layers."""
    shorter = copy.deepcopy(config)
    shorter.num_hidden_layers = layers
    if getattr(shorter, "layer_types", None):
        shorter.layer_types = (list(config.layer_types) * layers)[:layers]
    return shorter


def meta_model(config: PreTrainedConfig, dtype: str, adapter: AdapterSection | None = None) -> PreTrainedModel:
    """Build the real model on the meta device, with the real adapter if one is given; no weights are allocated.

    Raise GazalError for a config that no model can have.
    """
    what = "transformers cannot build it from its config.json"
    with torch.device("meta"), explained(config.name_or_path or config.model_type, what):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype), attn_implementation="sdpa")
        return get_peft_model(model, lora_config(adapter)) if adapter else model


@dataclass(frozen=True)
class Sizes:
    """Parameters (numbers) and bytes of a model with an adapter.

    ``adapted``: weights of the adapted linear layers; ``widest``: parameters of the largest of these matrices;
    ``layer``: bytes of one decoder layer with its adapter; ``outside``: bytes of all that is in no layer.
    """

    base: int
    embeddings: int
    trainable: int
    adapted: int
    widest: int
    base_bytes: int
    adapter_bytes: int
    layer: int
    outside: int


@lru_cache(maxsize=64)
def _sizes(text: str, dtype: str, adapter_json: str) -> Sizes:
    policy = meta_model(config_of(text), dtype, AdapterSection.model_validate_json(adapter_json))
    named = list(policy.named_parameters())
    frozen = [(name, p) for name, p in named if not p.requires_grad]
    trained = [(name, p) for name, p in named if p.requires_grad]
    adapted = [p for name, p in frozen if ".base_layer.weight" in name]
    embeddings = {id(m.weight): m.weight for m in (policy.get_input_embeddings(), policy.get_output_embeddings())}
    return Sizes(
        base=sum(p.numel() for _, p in frozen),
        embeddings=sum(p.numel() for p in embeddings.values()),
        trainable=sum(p.numel() for _, p in trained),
        adapted=sum(p.numel() for p in adapted),
        widest=max((p.numel() for p in adapted), default=0),
        base_bytes=sum(p.nbytes for _, p in frozen),
        adapter_bytes=sum(p.nbytes for _, p in trained),
        layer=sum(p.nbytes for name, p in named if ".layers.0." in name),
        outside=sum(p.nbytes for name, p in named if ".layers." not in name),
    )


def config_text(config: PreTrainedConfig) -> str:
    """Return a config as text, which serves as the key of caches; :func:`config_of` reads it."""
    return json.dumps(config.to_dict(), sort_keys=True, default=str)


def config_of(text: str) -> PreTrainedConfig:
    """Return the config that :func:`config_text` wrote."""
    values = json.loads(text)
    return AutoConfig.for_model(
        values.pop("model_type"),
        **{key: value for key, value in values.items() if key not in ("dtype", "transformers_version")},
    )


def sizes(config: PreTrainedConfig, dtype: str, adapter: AdapterSection) -> Sizes:
    """Count by building the model and its adapter on the meta device, without a formula."""
    return _sizes(config_text(config), dtype, adapter.model_dump_json())
