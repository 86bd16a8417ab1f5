"""Load the model that a stage trains: by transformers, by unsloth, or by transformers with a 4-bit base.

Options that need a GPU or a library of the gpu extra raise an error of one line before anything is loaded.
The merge does not depend on this: `gazal.trainer.proof.merge` starts from the unquantised base on disk.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import BitsAndBytesConfig, PreTrainedModel

from gazal.common.errors import GazalError
from gazal.models.loading import load_config, load_model, load_weights, lora_config, require_sound
from gazal.models.weights import require_finite
from gazal.recipe.recipe import ModelSection, Recipe
from gazal.recipe.training import AdapterSection, TrainSection

# the layers that all-linear stands for
UNSLOTH_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def gpu_options(recipe: Recipe, stage: str) -> dict[str, str]:
    """Return the recipe's options that need an NVIDIA GPU, each with the module that implements it."""
    section: TrainSection = getattr(recipe, stage)
    chosen = {
        "model.backend=unsloth": (recipe.model.backend == "unsloth", "unsloth"),
        "model.load_in_4bit=true": (recipe.model.load_in_4bit, "bitsandbytes"),
        f"{stage}.optimizer=adamw_8bit": (section.optimizer == "adamw_8bit", "bitsandbytes"),
        f"{stage}.logits=liger": (section.logits == "liger", "liger_kernel"),
    }
    return {option: module for option, (on, module) in chosen.items() if on}


def require_options(recipe: Recipe, stage: str) -> None:
    """Raise GazalError, in one line, for the first option of ``stage`` that cannot run on this machine."""
    for option, module in gpu_options(recipe, stage).items():
        require_gpu(option, module)


def require_gpu(option: str, module: str) -> None:
    """Raise GazalError, in one line, if ``option`` lacks an NVIDIA GPU or its ``module`` on this machine."""
    lacks = [] if torch.cuda.is_available() else ["an NVIDIA GPU"]
    lacks += [] if find_spec(module) else [f"{module.replace('_', '-')} (pip install 'gazal[gpu]')"]
    if lacks:
        raise GazalError(f"{option}: needs {' and '.join(lacks)}, not found here")


def load_trainable(
    recipe: Recipe, stage: str, path: str | Path, revision: str | None, max_length: int
) -> tuple[PreTrainedModel, LoraConfig | None]:
    """Load the model at ``path`` and return it with the adapter for the trainer to add; None if it has one already.

    ``max_length`` is the longest sequence in tokens: unsloth sizes its buffers by it. Raises GazalError before
    anything is loaded if an option cannot run here.
    """
    require_options(recipe, stage)
    section: TrainSection = getattr(recipe, stage)
    if recipe.model.backend == "unsloth":
        return _unsloth(recipe, section, path, revision, max_length), None
    if recipe.model.load_in_4bit:
        model = _four_bit(recipe.model, path, revision)
    else:
        model = load_model(path, recipe.model.dtype, revision)
    return model.train(), lora_config(section.adapter)


def four_bit_config() -> BitsAndBytesConfig:
    """Return QLoRA's storage (Dettmers et al. 2023, arXiv 2305.14314): NF4, quantised scales, bf16 arithmetic."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _four_bit(section: ModelSection, path: str | Path, revision: str | None) -> PreTrainedModel:
    model = load_weights(
        path,
        revision,
        dtype=getattr(torch, section.dtype),
        quantization_config=four_bit_config(),
        device_map={"": torch.cuda.current_device()},
    )
    require_sound(str(path), model)
    return model


def unsloth_adapter(adapter: AdapterSection) -> dict[str, Any]:
    """Return the adapter as arguments of `FastLanguageModel.get_peft_model`.

    unsloth passes ``use_dora`` to PEFT's LoraConfig, so DoRA runs PEFT's forward, not the fused kernels.
    """
    targets = UNSLOTH_LINEAR if adapter.target_modules == "all-linear" else adapter.target_modules
    return {
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": adapter.dropout,
        "use_rslora": adapter.rslora,
        "use_dora": adapter.dora,
        "target_modules": targets,
        "bias": "none",
    }


def _unsloth(
    recipe: Recipe, section: TrainSection, path: str | Path, revision: str | None, max_length: int
) -> PreTrainedModel:
    # TRL logs token accuracy and entropy from the logits, which unsloth leaves empty otherwise
    os.environ["UNSLOTH_RETURN_LOGITS"] = "1"
    from unsloth import FastLanguageModel

    load_config(path, revision)  # refuses a folder whose files are not whole
    model, _ = FastLanguageModel.from_pretrained(
        model_name=str(path),
        revision=revision,
        max_seq_length=max_length,
        dtype=getattr(torch, recipe.model.dtype),
        load_in_4bit=recipe.model.load_in_4bit,
        use_exact_model_name=True,
        trust_remote_code=False,
    )
    require_finite(str(path), model)
    return FastLanguageModel.get_peft_model(
        model,
        **unsloth_adapter(section.adapter),
        random_state=recipe.seed,
        use_gradient_checkpointing="unsloth" if section.gradient_checkpointing else False,
    )
