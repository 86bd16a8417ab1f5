"""What makes decoding quick: attention that shares keys among heads, and a cache with room to grow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ROOM = 64  # tokens


def grouped_attention(module, query, key, value, attention_mask, scaling=None, position_bias=None, **options):
    """Compute sdpa attention as transformers does, but treat the query heads that share a key head as its queries.

    This holds for a single query. transformers repeats keys and values instead and needs a slower kernel, together
    about a fifth of the decoding time on a CPU.
    """
    if query.shape[2] > 1 or position_bias is not None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, position_bias=position_bias, **options
        )
    rows, heads, _, width = query.shape
    grouped = query.view(rows, key.shape[1], heads // key.shape[1], width)
    return scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling).reshape(
        rows, 1, heads, width
    ), None


AttentionInterface.register("gazal_grouped", grouped_attention)
AttentionMaskInterface.register("gazal_grouped", sdpa_mask)


@contextmanager
def decoding(model: PreTrainedModel) -> Iterator[None]:
    """Hold the model in eval mode, without gradients, with :func:`grouped_attention` for sdpa; then restore all."""
    training, config = model.training, model.config.get_text_config()
    attention = config._attn_implementation
    try:
        model.eval()
        if attention == "sdpa":
            config._attn_implementation = "gazal_grouped"
        with torch.no_grad():
            yield
    finally:
        config._attn_implementation = attention
        model.train(training)


class RoomyLayer(DynamicLayer):
    """A cache layer with room for ``ROOM`` more tokens.

    A step writes its own token only. transformers' layer copies all earlier tokens in each step.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self._hold(keys, values)

    def _hold(self, *states: torch.Tensor) -> None:
        self.rooms = [one.new_empty(*one.shape[:2], one.shape[2] + ROOM, one.shape[3]) for one in states]
        self.keys, self.values = (
            room[:, :, : one.shape[2]].copy_(one) for room, one in zip(self.rooms, states, strict=True)
        )

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        start = self.keys.shape[2]
        end = start + key_states.shape[2]
        if end > self.rooms[0].shape[2]:
            self._hold(self.keys, self.values)
        for room, one in zip(self.rooms, (key_states, value_states), strict=True):
            room[:, :, start:end] = one
        self.keys, self.values = (room[:, :, :end] for room in self.rooms)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self._hold(self.keys[indices], self.values[indices])
