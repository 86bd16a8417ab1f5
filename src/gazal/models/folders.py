"""Check whether a name can be a model at all, without torch."""

from __future__ import annotations

from pathlib import Path

from gazal.common.errors import GazalError
from gazal.common.hub import is_hub_id, require_hub
from gazal.models.files import INDEX, SINGLE, read_object, require_weights

GGUF = (
    "GGUF, which is not read here; give the original model's safetensors, "
    "or serve the file (llama.cpp, Ollama) and give openai:URL#name"
)


def require(path: str) -> None:
    """Raise GazalError for what is no folder and no hub id.

    Raise Unreachable, within seconds, if the hub is needed and does not answer.
    """
    if Path(path).is_dir():
        return
    if path.lower().endswith(".gguf"):
        raise GazalError(f"model {path}: {GGUF}")
    if Path(path).is_file():
        raise GazalError(f"model {path}: a file; give the folder that it is in")
    if not is_hub_id(path):
        raise GazalError(f"model {path}: no such folder, and no hub id (owner/name)")
    require_hub(f"model {path}", "a local folder")


def require_model(path: str) -> None:
    """Raise GazalError, saying what it holds, for a folder without a whole model: an adapter, pickles, no weights.

    The same for files that are cut, missing or Git LFS pointers, and for an adapter beside a whole model.
    """
    folder = Path(path)
    if not folder.is_dir():
        return
    adapter, whole = (
        (folder / "adapter_config.json").exists(),
        any((folder / name).exists() for name in (SINGLE, INDEX)),
    )
    if not (folder / "config.json").exists():
        if adapter:
            raise GazalError(f"model {path}: {_adapter_alone(folder)}")
        if any(folder.glob("*.gguf")):
            raise GazalError(f"model {path}: {GGUF}")
        places = ("merged", "grpo/merged", "sft/merged")
        inside = next((name for name in places if (folder / name / "config.json").exists()), None)
        hint = f"; {path}/{inside} is one" if inside else ""
        raise GazalError(f"model {path}: not a model folder (no config.json){hint}")
    if adapter and whole:
        raise GazalError(
            f"model {path}: a whole model and an adapter, which would be added to it: if it is merged, remove "
            "adapter_config.json and the adapter's weights, else merge the two and give the result"
        )
    if adapter:
        raise GazalError(f"model {path}: {_adapter_alone(folder)}")
    config = read_object(path, folder / "config.json")
    if not isinstance(config.get("model_type"), str):
        raise GazalError(f"model {path}: config.json: model_type: expected a name such as qwen3, found none")
    if not any(folder.glob("*.safetensors")) and not whole:
        if any(folder.glob("*.gguf")):
            what = GGUF
        elif any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
            what = "its weights are pickles (.bin), which can run code: save them as safetensors"
        else:
            what = "no weights (*.safetensors) in that folder"
        raise GazalError(f"model {path}: {what}")
    if (folder / "generation_config.json").exists():  # transformers takes no notice of one that is broken
        eos = read_object(path, folder / "generation_config.json").get("eos_token_id")
        if not all(isinstance(one, int) for one in (eos if isinstance(eos, list) else [0 if eos is None else eos])):
            what = f"expected a token id or a list of them, found {eos!r}"
            raise GazalError(f"model {path}: generation_config.json: eos_token_id: {what}")
    if "transformers_weights" not in config:  # with it, the config itself names the file
        require_weights(path, config)


def _adapter_alone(folder: Path) -> str:
    """Say that ``folder`` holds an adapter, whose base it is, and what to give instead."""
    base = read_object(str(folder), folder / "adapter_config.json").get("base_model_name_or_path")
    merged = folder.parent / "merged"
    if merged.is_dir():
        where = f" {merged}"
    elif base:
        where = ", such as the folder merged/ that each stage writes beside it"
    else:
        where = "; its adapter_config.json names no base (base_model_name_or_path)"
    return f"an adapter without its base; give the merged model{where}"
