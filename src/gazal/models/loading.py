"""Loading models and tokenizers, and saving adapters."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from gazal.common.errors import GazalError
from gazal.common.files import atomic_folder
from gazal.common.hub import Unreachable, first_line, offline_note
from gazal.common.paths import EMBEDDED
from gazal.items.prompts import CHATML_TEMPLATE
from gazal.models.folders import require, require_model
from gazal.recipe.recipe import ModelSection
from gazal.recipe.training import AdapterSection

VOCABULARIES = (
    "tokenizer.json tokenizer.model spiece.model sentencepiece.bpe.model vocab.json vocab.txt tekken.json "
    "*.tiktoken tiktoken.model"
).split()


def base_path(section: ModelSection) -> str:
    """Return the folder or hub id of the recipe's base model."""
    return str(EMBEDDED) if section.base == "embedded" else section.base


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """Raise GazalError for what transformers raises if it cannot load ``path``."""
    try:
        yield
    except (OSError, ValueError) as error:
        if Path(path).exists():
            raise GazalError(f"model {path}: not a model folder ({first_line(error)})") from error
        reason = f"cannot be loaded from the hub ({type(error).__name__}{offline_note()})"
        raise Unreachable(f"model {path}", reason, first_line(error), "a local folder") from error


@lru_cache
def _say_once(line: str) -> None:
    print(line, file=sys.stderr)


def load_tokenizer(path: str | Path, revision: str | None = None, to_train: bool = False) -> PreTrainedTokenizerBase:
    """Return a tokenizer with EOS, a pad and a chat template; if it has no template, ChatML, with a line on stderr.

    ``to_train`` refuses a tokenizer whose only pad is EOS: a model trained so never stops. In generation it does no
    harm. Raise GazalError for what is no tokenizer, Unreachable if the hub does not answer.
    """
    require(str(path))
    if Path(path).is_dir() and not any(file for pattern in VOCABULARIES for file in Path(path).glob(pattern)):
        require_model(str(path))
        raise GazalError(f"model {path}: no tokenizer in that folder ({VOCABULARIES[0]})")
    with _explained(str(path)):
        tokenizer = AutoTokenizer.from_pretrained(str(path), revision=revision, trust_remote_code=False)
    if tokenizer.chat_template is None:
        _say_once(
            f"gazal: model {Path(path).name} has no chat template: chats are written in plain ChatML; "
            "a base model is better asked with --set evaluation.prompt=plain"
        )
        tokenizer.chat_template = CHATML_TEMPLATE
    if tokenizer.eos_token is None:
        raise GazalError(f"model {path}: its tokenizer names no EOS token")
    if tokenizer.pad_token in (None, tokenizer.eos_token):
        known = tokenizer.get_vocab().keys() - {tokenizer.eos_token}
        pads = (pad for pad in ("<|endoftext|>", "<pad>", "<|pad|>", "[PAD]") if pad in known)
        pad = next(pads, None if to_train else tokenizer.eos_token)
        if pad is None:
            raise GazalError(f"model {path}: pad is EOS and no other pad token exists; a model trained so never stops")
        tokenizer.pad_token = pad
    return tokenizer


def load_config(path: str | Path, revision: str | None = None) -> PreTrainedConfig:
    """Return a model's config alone; its ``_commit_hash`` is the hub commit that it came from."""
    require(str(path))
    require_model(str(path))
    with _explained(str(path)):
        return AutoConfig.from_pretrained(str(path), revision=revision, trust_remote_code=False)


def load_model(
    path: str | Path, dtype: str = "float32", revision: str | None = None, device: str | None = None
) -> PreTrainedModel:
    """Return a causal language model from safetensors, in eval mode, on ``device``.

    The default is the GPU, if there is one and ``accelerate launch`` does not shard the model over several.
    """
    require(str(path))
    require_model(str(path))
    with _explained(str(path)):
        model = AutoModelForCausalLM.from_pretrained(
            str(path), revision=revision, dtype=getattr(torch, dtype), trust_remote_code=False, use_safetensors=True
        )
    # accelerate launch sets one of these, and moves the shards itself
    sharded = "true" in map(os.environ.get, ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"))
    return cast(Any, model).to(device or ("cuda" if torch.cuda.is_available() and not sharded else "cpu")).eval()


def to_roomy_device(model: PreTrainedModel) -> PreTrainedModel:
    """Move ``model`` to the GPU if that has room for its weights and a quarter more, else to the CPU.

    A 32B model in fp32 takes 131 GB.
    """
    fits = torch.cuda.is_available() and 1.25 * sum(p.nbytes for p in model.parameters()) < torch.cuda.mem_get_info()[0]
    return cast(Any, model).to("cuda" if fits else "cpu")  # its decorator in transformers hides the signature


def lora_config(section: AdapterSection) -> LoraConfig:
    """Return PEFT's config of a new adapter: scale α/√r with rsLoRA (Kalajdzievski 2023), DoRA (Liu et al. 2024)."""
    return LoraConfig(
        r=section.rank,
        lora_alpha=section.alpha,
        lora_dropout=section.dropout,
        use_dora=section.dora,
        use_rslora=section.rslora,
        target_modules=section.target_modules,
        task_type="CAUSAL_LM",
    )


def save_adapter(
    policy: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    base_name: str,
    out: Path,
    state: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write the adapter and its tokenizer, whole or not at all.

    ``state`` holds the weights by parameter name if the policy itself holds shards only. The adapter's config names
    ``base_name`` as base, never a machine's path. PEFT's stub of a model card is left out: it says nothing but such a
    path.
    """
    config = cast(LoraConfig, policy.peft_config["default"])
    config.base_model_name_or_path = base_name
    # PEFT holds anything but a pattern (text) as a set, whose order differs between processes.
    if config.target_modules and not isinstance(config.target_modules, str):
        config.target_modules = sorted(config.target_modules)
    with atomic_folder(out) as temporary:
        policy.save_pretrained(str(temporary), state_dict=state)
        (temporary / "README.md").unlink(missing_ok=True)
        tokenizer.save_pretrained(temporary)
