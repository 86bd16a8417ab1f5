"""Check whether a name can be a model at all, without torch."""

from __future__ import annotations

from pathlib import Path

from gazal.common.errors import GazalError
from gazal.common.hub import is_hub_id, require_hub


def require(path: str) -> None:
    """Raise GazalError for what is no folder and no hub id.

    Raise Unreachable, within seconds, if the hub is needed and does not answer.
    """
    if Path(path).is_dir():
        return
    if not is_hub_id(path):
        raise GazalError(f"model {path}: no such folder, and no hub id (owner/name)")
    require_hub(f"model {path}", "a local folder")


def require_model(path: str) -> None:
    """Raise GazalError, saying what it holds, for a folder without a whole model: an adapter, pickles, no weights."""
    folder = Path(path)
    if not folder.is_dir():
        return
    if not (folder / "config.json").exists():
        if (folder / "adapter_config.json").exists():
            merged = folder.parent / "merged"
            where = f" {merged}" if merged.is_dir() else ", such as the folder merged/ that each stage writes beside it"
            raise GazalError(f"model {path}: an adapter without its base; give the merged model{where}")
        places = ("merged", "grpo/merged", "sft/merged")
        inside = next((name for name in places if (folder / name / "config.json").exists()), None)
        hint = f"; {path}/{inside} is one" if inside else ""
        raise GazalError(f"model {path}: not a model folder (no config.json){hint}")
    if not any(folder.glob("*.safetensors")):
        if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
            what = "its weights are pickles (.bin), which can run code: save them as safetensors"
        else:
            what = "no weights (*.safetensors) in that folder"
        raise GazalError(f"model {path}: {what}")
