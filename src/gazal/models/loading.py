"""Loading models and tokenizers, and saving adapters."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import httpx
import tokenizers
import torch
import transformers
from peft import LoraConfig, PeftModel
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING
from transformers.utils import logging
from transformers.utils.peft_utils import find_adapter_config_file

from gazal.common.errors import GazalError
from gazal.common.files import atomic_folder
from gazal.common.hub import Unreachable, first_line, offline_note
from gazal.common.paths import EMBEDDED
from gazal.items.prompts import CHATML_TEMPLATE
from gazal.models.files import read_object, require_content
from gazal.models.folders import GGUF, require, require_model
from gazal.models.weights import require_finite, require_loaded, require_tied
from gazal.recipe.recipe import ModelSection
from gazal.recipe.training import AdapterSection

VOCABULARIES = (
    "tokenizer.json tokenizer.model spiece.model sentencepiece.bpe.model vocab.json vocab.txt tekken.json "
    "*.tiktoken tiktoken.model"
).split()
# what a tokenizer's folder may have besides
BESIDE = (
    "config.json tokenizer_config.json special_tokens_map.json added_tokens.json merges.txt chat_template.jinja"
).split()
# the libraries that transformers needs for weights of a quantization method
LIBRARIES = {
    "bitsandbytes": ["bitsandbytes"],
    "gptq": ["optimum", "gptqmodel"],
    "awq": ["gptqmodel"],
    "compressed-tensors": ["compressed_tensors"],
    "hqq": ["hqq"],
    "aqlm": ["aqlm"],
    "torchao": ["torchao"],
    "auto-round": ["auto_round"],
}


def base_path(section: ModelSection) -> str:
    """Return the folder or hub id of the recipe's base model."""
    return str(EMBEDDED) if section.base == "embedded" else section.base


@contextmanager
def explained(path: str, what: str) -> Iterator[None]:
    """Raise GazalError, saying ``what``, for anything that transformers or tokenizers raise for ``path``.

    Raise Unreachable if the hub is the reason.
    """
    try:
        yield
    except GazalError:
        raise
    except Exception as error:  # tokenizers raise Exception itself, and a strange config makes Python raise anything
        if Path(path).exists() or not isinstance(error, (OSError, httpx.HTTPError)):
            why = f"{type(error).__name__}: {str(error)[:300]}"
            raise GazalError(f"model {path}: {what} ({why})") from error
        if "gguf" in path.lower():
            raise GazalError(f"model {path}: {GGUF}") from error
        reason = f"cannot be loaded from the hub ({type(error).__name__}{offline_note()})"
        raise Unreachable(f"model {path}", reason, first_line(error), "a local folder") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from printing what is raised in one line."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


@lru_cache
def say_once(line: str) -> None:
    """Print a line on stderr, once a process."""
    print(line, file=sys.stderr)


def load_tokenizer(path: str | Path, revision: str | None = None, to_train: bool = False) -> PreTrainedTokenizerBase:
    """Return a tokenizer with EOS, a pad and a chat template; if it has no template, ChatML, with a line on stderr.

    ``to_train`` refuses a tokenizer whose only pad is EOS: a model trained so never stops. In generation it does no
    harm. Raise GazalError for what is no tokenizer, Unreachable if the hub does not answer.
    """
    require(str(path))
    if Path(path).is_dir():
        _require_vocabulary(Path(path))
    name = next((name for name in VOCABULARIES if (Path(path) / name).exists()), "its tokenizer")
    what = (
        f"{name} cannot be read: it is cut or changed, or needs a newer transformers than {transformers.__version__} "
        f"or tokenizers than {tokenizers.__version__}"
    )
    with explained(str(path), what):
        tokenizer = AutoTokenizer.from_pretrained(str(path), revision=revision, trust_remote_code=False)
    if tokenizer.chat_template is None:
        say_once(
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


def _require_vocabulary(folder: Path) -> None:
    """Raise GazalError for a folder without a tokenizer, and for a file of one that is cut or a Git LFS pointer."""
    files = [file for pattern in VOCABULARIES for file in sorted(folder.glob(pattern))]
    if not files:
        require_model(str(folder))
        raise GazalError(f"model {folder}: no tokenizer in that folder ({VOCABULARIES[0]})")
    for file in [*files, *(folder / name for name in BESIDE)]:
        if file.suffix == ".json" and file.exists():
            read_object(str(folder), file)
        elif file.exists():
            require_content(str(folder), file)


def load_config(path: str | Path, revision: str | None = None) -> PreTrainedConfig:
    """Return a model's config alone; its ``_commit_hash`` is the hub commit that it came from."""
    require(str(path))
    require_model(str(path))
    return read_config(path, revision)


def read_config(path: str | Path, revision: str | None = None) -> PreTrainedConfig:
    """Return the config of a hub id or of a folder, which may have no weights.

    Raise GazalError for a broken one, and for one that needs a newer transformers.
    """
    require(str(path))
    if Path(path).is_dir():
        kind = read_object(str(path), Path(path) / "config.json").get("model_type")
        if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
            raise GazalError(
                f"model {path}: config.json: model_type: {kind!r} is unknown to transformers {transformers.__version__}: "
                "it needs a newer one"
            )
    with explained(str(path), "its config.json cannot be used"):
        if not Path(path).is_dir() and find_adapter_config_file(str(path), revision=revision):
            raise GazalError(f"model {path}: it has an adapter (adapter_config.json); give the id of a merged model")
        config = AutoConfig.from_pretrained(str(path), revision=revision, trust_remote_code=False)
        text = config.get_text_config()
        rope: dict[str, Any] = getattr(text, "rope_parameters", None) or {}
        for part in [rope, *(value for value in rope.values() if isinstance(value, dict))]:
            kind = part.get("rope_type", "default")
            if kind not in ("default", *ROPE_INIT_FUNCTIONS) and not hasattr(text, f"_validate_{kind}_rope_parameters"):
                raise GazalError(
                    f"model {path}: config.json: rope_type: {kind!r} is unknown to transformers {transformers.__version__}"
                )
    return config


def _require_library(path: str, config: PreTrainedConfig) -> None:
    """Raise GazalError, naming method and library, for quantized weights that cannot be loaded here."""
    found = getattr(config, "quantization_config", None)
    if found is None:
        return
    values = found if isinstance(found, dict) else {}
    old = values.get("load_in_4bit") or values.get("load_in_8bit")  # of bitsandbytes, before methods had names
    method = values.get("quant_method") or ("bitsandbytes" if old else None)
    if not isinstance(method, str) or method not in {*LIBRARIES, *AUTO_QUANTIZATION_CONFIG_MAPPING}:
        raise GazalError(
            f"model {path}: config.json: quantization_config.quant_method: {method!r} is unknown to "
            f"transformers {transformers.__version__}; give the model without quantization, or serve it"
        )
    if missing := [name for name in LIBRARIES.get(method, []) if not find_spec(name)]:
        names = " ".join(name.replace("_", "-") for name in missing)
        raise GazalError(
            f"model {path}: its weights are quantized by {method}, which needs {names}: pip install {names}"
        )


def load_model(
    path: str | Path, dtype: str = "float32", revision: str | None = None, device: str | None = None
) -> PreTrainedModel:
    """Return a causal language model from safetensors, in eval mode, on ``device``.

    The default is the GPU, if there is one and ``accelerate launch`` does not shard the model over several.
    """
    model = load_weights(path, revision, dtype=getattr(torch, dtype))
    # accelerate launch sets one of these, and moves the shards itself
    sharded = "true" in map(os.environ.get, ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"))
    cast(Any, model).to(device or ("cuda" if torch.cuda.is_available() and not sharded else "cpu"))
    require_sound(str(path), model)
    return model.eval()


def load_weights(path: str | Path, revision: str | None = None, **options: Any) -> PreTrainedModel:
    """Return a causal language model from safetensors; ``options`` are those of transformers' ``from_pretrained``.

    Raise GazalError unless every weight of the model, and no other, is in the files. :func:`require_sound` checks their
    values, once the model is where that is quick.
    """
    config = load_config(path, revision)
    _require_library(str(path), config)
    method = getattr(config, "quantization_config", None)
    what = "transformers cannot load its weights" + (", which are quantized" if method else "")
    with explained(str(path), what), _quiet():
        model, info = cast(Any, AutoModelForCausalLM).from_pretrained(
            str(path),
            revision=revision,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are refused below, with their names
            output_loading_info=True,
            **options,
        )
    require_loaded(str(path), model, info)
    return model


def require_sound(path: str, model: PreTrainedModel) -> None:
    """Raise GazalError for weights that are NaN or infinite, or that are stored apart although the config ties them."""
    require_finite(path, model)
    require_tied(path, model)


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
