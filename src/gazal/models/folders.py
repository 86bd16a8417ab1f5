"""Whether something can be a model at all, found out without torch."""

from __future__ import annotations

from pathlib import Path

from gazal.common.errors import GazalError
from gazal.common.hub import is_hub_id, require_hub


def require(path: str) -> None:
    """GazalError for what is no folder and no hub id; Unreachable, within seconds, when the hub is needed and cannot be asked."""
    if Path(path).is_dir():
        return
    if not is_hub_id(path):
        raise GazalError(f"model {path}: no such folder, and no hub id (owner/name)")
    require_hub(f"model {path}", "a local folder")


def require_model(path: str) -> None:
    """GazalError that says what a folder is where it is no whole model: an adapter, weights as pickles only, none."""
    folder = Path(path)
    if not folder.is_dir():
        return
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        merged = folder.parent / "merged"
        raise GazalError(
            f"model {path}: an adapter without its base; give the merged model{f' {merged}' if merged.is_dir() else ', such as the folder merged/ that each stage writes beside it'}"
        )
    if not (folder / "config.json").exists():
        inside = next(
            (
                f"; {path}/{name} is one"
                for name in ("merged", "grpo/merged", "sft/merged")
                if (folder / name / "config.json").exists()
            ),
            "",
        )
        raise GazalError(f"model {path}: not a model folder (no config.json){inside}")
    if not any(folder.glob("*.safetensors")):
        pickles = any(folder.glob("*.bin")) or any(folder.glob("*.pt*"))
        raise GazalError(
            f"model {path}: "
            + (
                "its weights are pickles (.bin), which can run code: save them as safetensors"
                if pickles
                else "no weights (*.safetensors) in that folder"
            )
        )
