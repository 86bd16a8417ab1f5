"""Loading models and tokenizers, and saving adapters."""

from __future__ import annotations

import os
import sys
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
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
    "tekken.json",
    "*.tiktoken",
    "tiktoken.model",
)


def base_path(section: ModelSection) -> str:
    """Folder or hub id of the recipe's base model."""
    return str(EMBEDDED) if section.base == "embedded" else section.base


def _explain(path: str, error: Exception) -> GazalError:
    if Path(path).exists():
        return GazalError(f"model {path}: not a model folder ({first_line(error)})")
    return Unreachable(
        f"model {path}",
        f"cannot be loaded from the hub ({type(error).__name__}{offline_note()})",
        first_line(error),
        "a local folder",
    )


@lru_cache
def _say_once(line: str) -> None:
    print(line, file=sys.stderr)


def load_tokenizer(path: str | Path, revision: str | None = None, to_train: bool = False) -> PreTrainedTokenizerBase:
    """A tokenizer with EOS, a pad, and a chat template (ChatML when it has none, said aloud).

    ``to_train``: a pad that is EOS, where there is no other, is refused, since a model trained so never stops; in asking it does no harm.
    """
    require(str(path))
    if Path(path).is_dir() and not any(file for pattern in VOCABULARIES for file in Path(path).glob(pattern)):
        require_model(str(path))
        raise GazalError(f"model {path}: no tokenizer in that folder ({VOCABULARIES[0]})")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _explain(str(path), error) from error
    if tokenizer.chat_template is None:
        _say_once(
            f"gazal: model {Path(path).name} has no chat template: chats are written in plain ChatML; a base model is better asked with --set evaluation.prompt=plain"
        )
        tokenizer.chat_template = CHATML_TEMPLATE
    if tokenizer.eos_token is None:
        raise GazalError(f"model {path}: its tokenizer names no EOS token")
    if tokenizer.pad_token in (None, tokenizer.eos_token):
        unused = next(
            (
                t
                for t in ("<|endoftext|>", "<pad>", "<|pad|>", "[PAD]")
                if t in tokenizer.get_vocab() and t != tokenizer.eos_token
            ),
            None,
        )
        if unused is None and not to_train:
            unused = tokenizer.eos_token
        if unused is None:
            raise GazalError(f"model {path}: pad is EOS and no other pad token exists; a model trained so never stops")
        tokenizer.pad_token = unused
    return tokenizer


def load_config(path: str | Path, revision: str | None = None) -> PreTrainedConfig:
    """A model's config alone; its ``_commit_hash`` is the hub commit that it came from."""
    require(str(path))
    require_model(str(path))
    try:
        return AutoConfig.from_pretrained(str(path), revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _explain(str(path), error) from error


def load_model(
    path: str | Path, dtype: str = "float32", revision: str | None = None, device: str | None = None
) -> PreTrainedModel:
    """A causal language model from safetensors, in eval mode, on ``device``: by default the GPU when there is one and the model is not to be sharded over several."""
    require(str(path))
    require_model(str(path))
    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(path), revision=revision, dtype=getattr(torch, dtype), trust_remote_code=False, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise _explain(str(path), error) from error
    sharded = "true" in (
        os.environ.get("ACCELERATE_USE_FSDP"),
        os.environ.get("ACCELERATE_USE_DEEPSPEED"),
    )  # as accelerate launch sets them: it moves the shards
    return cast(Any, model).to(device or ("cuda" if torch.cuda.is_available() and not sharded else "cpu")).eval()


def to_roomy_device(model: PreTrainedModel) -> PreTrainedModel:
    """``model`` on the GPU where its weights and a quarter more are free there, else on the CPU: a 32B model in fp32 takes 131 GB."""
    fits = torch.cuda.is_available() and 1.25 * sum(p.nbytes for p in model.parameters()) < torch.cuda.mem_get_info()[0]
    return cast(Any, model).to("cuda" if fits else "cpu")  # its decorator in transformers hides the signature


def lora_config(section: AdapterSection) -> LoraConfig:
    """PEFT's config of a new adapter: scale α/√r with rsLoRA (Kalajdzievski 2023), DoRA (Liu et al. 2024)."""
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
    """Write the adapter and its tokenizer, whole or not at all; ``state`` holds its weights by parameter name where the
    policy itself holds shards only. ``base_name`` is what its config names as base, never a machine's
    path. PEFT's stub of a model card would name one, and says nothing else: it is left out."""
    config = cast(LoraConfig, policy.peft_config["default"])
    config.base_model_name_or_path = base_name
    # A text is a pattern; what is not is a set, which has another order in each process.
    if config.target_modules and not isinstance(config.target_modules, str):
        config.target_modules = sorted(config.target_modules)
    with atomic_folder(out) as temporary:
        policy.save_pretrained(str(temporary), state_dict=state)
        (temporary / "README.md").unlink(missing_ok=True)
        tokenizer.save_pretrained(temporary)
