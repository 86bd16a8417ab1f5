"""Changes to a model's folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123456\n"
Weights = dict[str, torch.Tensor]


def edit_config(folder: Path, **values: object) -> None:
    """Set values of config.json."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def edit_weights(folder: Path, change: Callable[[Weights], Weights]) -> None:
    """Replace model.safetensors by what ``change`` makes of its tensors."""
    file = folder / "model.safetensors"
    changed = change({name: value.clone() for name, value in load_file(file).items()})
    save_file({name: value.contiguous().clone() for name, value in changed.items()}, file, {"format": "pt"})


def split_weights(folder: Path) -> list[Path]:
    """Write model.safetensors as two shards and an index instead; return the shards."""
    weights = load_file(folder / "model.safetensors")
    names, half = sorted(weights), len(weights) // 2
    parts = {f"model-0000{n}-of-00002.safetensors": part for n, part in ((1, names[:half]), (2, names[half:]))}
    for file, part in parts.items():
        save_file({name: weights[name].clone() for name in part}, folder / file, {"format": "pt"})
    places = {name: file for file, part in parts.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (folder / "model.safetensors").unlink()
    return [folder / file for file in parts]
