"""Tensors as they are compared and kept: whole, and by a hash of their bytes."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import xxhash
from torch.distributed.tensor import DTensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return the full tensor of an FSDP2 shard (every process must call this); other tensors as they are."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def tensor_hash(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Return the XXH3 of names, dtypes, shapes and bytes, in the order of names.

    With shards, every process must call this.
    """
    digest = xxhash.xxh3_128()
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        value = whole(tensor.detach())
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
