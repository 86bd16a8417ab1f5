"""Check the files of a model's folder before they are read: none is a Git LFS pointer, cut or missing. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from gazal.common.errors import GazalError
from gazal.common.files import parse_object
from gazal.common.hub import first_line

POINTER = b"version https://git-lfs.github.com/spec/"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
INTEGERS = ("BOOL", "I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64")  # dtypes in the header of safetensors
BASES = ("model.", "transformer.", "gpt_neox.")  # prefixes that transformers adds to names that lack them


def require_content(path: str, file: Path) -> None:
    """Raise GazalError for a file that cannot be read, that is empty, or that is a Git LFS pointer."""
    try:
        with open(file, "rb") as handle:
            start = handle.read(len(POINTER))
    except OSError as error:
        raise GazalError(f"model {path}: {file.name} cannot be read ({error.strerror})") from error
    if start == POINTER:
        raise GazalError(
            f"model {path}: {file.name} is a Git LFS pointer, not the file: run git lfs pull in its folder"
        )
    if not start:
        raise GazalError(f"model {path}: {file.name} is empty: fetch it again")


def read_object(path: str, file: Path) -> dict[str, Any]:
    """Return the JSON object in ``file``. Raise GazalError, naming the file, for anything else."""
    require_content(path, file)
    return parse_object(file.read_bytes(), f"model {path}: {file.name}")


def weight_files(path: str) -> list[Path]:
    """Return the files that a folder's weights are read from: one, or those that the index names.

    Raise GazalError if there are none, if one is missing, and if it is not plain which ones count.
    """
    folder = Path(path)
    single, index = folder / SINGLE, folder / INDEX
    if not index.exists():
        if single.exists():
            return [single]
        found = ", ".join(sorted(file.name for file in folder.glob("*.safetensors"))[:3])
        raise GazalError(f"model {path}: no {SINGLE} and no {INDEX}, which says what to read (found {found})")
    places = read_object(path, index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(place, str) for place in places.values()):
        raise GazalError(f"model {path}: {INDEX}: weight_map: expected an object that names a file for each tensor")
    names = sorted(set(places.values()))
    if single.exists() and SINGLE not in names:
        raise GazalError(f"model {path}: both {SINGLE} and {INDEX}, which names other files: remove what is not meant")
    if missing := [name for name in names if not (folder / name).is_file()]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise GazalError(f"model {path}: {missing[0]}{more} missing, which {INDEX} names: fetch the whole model again")
    return [folder / name for name in names]


def require_weights(path: str, config: dict[str, Any]) -> None:
    """Raise GazalError for weights that are cut or empty, and for a tensor that is there twice.

    The same for integers in place of weights, unless ``config`` names a quantization, and for a head of another shape
    than the embedding to which it is tied. Only headers are read.
    """
    holders: dict[str, str] = {}
    shapes: dict[str, list[int]] = {}
    for file in weight_files(path):
        for name, (dtype, shape) in _header(path, file).items():
            if name in holders:
                raise GazalError(f"model {path}: {name} is in {holders[name]} and in {file.name}: remove one")
            if name.endswith(".weight") and dtype in INTEGERS and not config.get("quantization_config"):
                raise GazalError(
                    f"model {path}: {name} in {file.name} holds integers ({dtype}), and config.json names no "
                    "quantization_config: the weights are not whole without their scales"
                )
            holders[name], shapes[name] = file.name, shape
    if not holders:
        raise GazalError(f"model {path}: its safetensors hold no tensors: fetch them again")
    if twice := [name for name in holders if any(prefix + name in holders for prefix in BASES)]:
        raise GazalError(f"model {path}: {twice[0]} is stored twice, with and without a prefix: remove one")
    head, rows = "lm_head.weight", "model.embed_tokens.weight"
    if config.get("tie_word_embeddings") and {head, rows} <= shapes.keys() and shapes[head] != shapes[rows]:
        raise GazalError(
            f"model {path}: config.json ties {head} to {rows}, but their shapes are {shapes[head]} and {shapes[rows]}"
        )


def _header(path: str, file: Path) -> dict[str, tuple[str, list[int]]]:
    """Return dtype and shape of each tensor in ``file``. Raise GazalError if it is cut."""
    require_content(path, file)
    try:
        with safe_open(file, framework="np") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (no dict)
            return {name: (one.get_dtype(), one.get_shape()) for name, one in slices.items()}
    except (SafetensorError, OSError, ValueError) as error:
        why = first_line(error)
        raise GazalError(f"model {path}: {file.name} is cut or damaged ({why}): fetch it again") from error
