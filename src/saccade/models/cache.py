"""Key-value caches with room for what is still to be written, so that a step copies one token and not the whole past.

transformers' growing layer concatenates at every step: with 64 rows and 256 tokens that is a third of the time. This file
imports transformers at its head, so it is itself imported only where a cache is used.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicLayer


class Slab(DynamicLayer):
    """The past of row ``index_B[b]`` of ``layer`` for every row b, in memory for ``room`` tokens.

    It stands on transformers' own layer because its models ask their caches for that type.
    """

    def __init__(self, layer: DynamicLayer, index_B: Tensor, room: int):
        super().__init__()
        self.is_initialized, self.dtype, self.device, self.room = True, layer.dtype, layer.device, room
        self.keys, self.values = layer.keys, layer.values
        self.batch_select_indices(index_B)

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        start = self.keys.shape[2]
        end = start + key_states.shape[2]
        self.all_keys[:, :, start:end], self.all_values[:, :, start:end] = key_states, value_states
        self.keys, self.values = self.all_keys[:, :, :end], self.all_values[:, :, :end]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        self.all_keys, self.all_values = (_roomy(x, indices, self.room) for x in (self.keys, self.values))
        length = self.keys.shape[2]
        self.keys, self.values = self.all_keys[:, :, :length], self.all_values[:, :, :length]


def spread(cache: Any, index_B: Tensor, room: int) -> None:
    """Give row b of every layer the past of row ``index_B[b]``, with room for ``room`` tokens in all.

    Sliding windows and recurrent states keep transformers' own layers, which do not grow.
    """
    for i, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer:
            cache.layers[i] = Slab(layer, index_B, room)
        else:
            layer.batch_select_indices(index_B)


def _roomy(past: Tensor, index_B: Tensor, room: int) -> Tensor:
    rows, heads, length, width = past.shape
    wide = past.new_empty(len(index_B), heads, room, width)
    wide[:, :, :length] = past[index_B]
    return wide
