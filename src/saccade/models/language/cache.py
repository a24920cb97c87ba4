"""Key-value caches with preallocated memory, so that a decoding step writes one token and does not copy the past.

transformers' growing layer concatenates at every step: with 64 rows and 256 tokens that is a third of the time. This
module imports transformers at its top, so it is itself imported only where a cache is used.

Suffixes here: P prompts, B all rows of a cache, N active rows, S slots of a prompt.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer


class PrefixSharing:
    """Which of P prompts each row of a cache begins with; it follows the rows when they are swapped."""

    def __init__(self, index_B: Tensor):
        self.index_B, self.prompts = index_B.clone(), int(index_B.max()) + 1
        self.by_count: dict[int, tuple[Tensor, Tensor]] = {}

    def swap_rows(self, first: Tensor, second: Tensor) -> None:
        """Exchange rows ``first`` with rows ``second``."""
        self.index_B[first], self.index_B[second] = self.index_B[second], self.index_B[first]
        self.by_count = {}

    def slots(self, count: int) -> tuple[Tensor, Tensor]:
        """The first ``count`` rows grouped by prompt ``[P, S]``, and the slot of each among all P S slots ``[N]``.

        Empty slots hold row 0.
        """
        if count not in self.by_count:
            index_N, row_N = self.index_B[:count], torch.arange(count, device=self.index_B.device)
            rank_N = (index_N[:, None] == index_N).tril(-1).sum(1)
            shape = self.prompts, int(rank_N.max()) + 1
            slot_N = index_N * shape[1] + rank_N
            row_PS = row_N.new_zeros(shape).flatten().scatter(0, slot_N, row_N).view(shape)
            self.by_count[count] = row_PS, slot_N
        return self.by_count[count]


class StaticKVCache(DynamicLayer):
    """The keys and values of row ``index_B[b]`` of ``layer`` for every row b, in memory for ``capacity`` tokens.

    Only the first ``count`` rows are read and written; the rows behind them keep their contents. The class derives from
    transformers' layer because its models check for that type. ``prompts`` are the keys and values of prompts that rows
    share, for layers that can read them once for all of these rows; None where every row has its own prompt.
    """

    def __init__(self, layer: DynamicLayer, index_B: Tensor, capacity: int, sharing: PrefixSharing):
        super().__init__()
        self.sharing, shared = sharing, sharing.prompts < len(index_B)
        self.prompts = (layer.keys[: sharing.prompts], layer.values[: sharing.prompts]) if shared else None
        self.is_initialized, self.dtype, self.device = True, layer.keys.dtype, layer.keys.device
        self.all_keys, self.all_values = (_with_capacity(x[index_B], capacity) for x in (layer.keys, layer.values))
        self.set_view(len(index_B), layer.keys.shape[2])

    def set_view(self, count: int, length: int) -> None:
        """Use the first ``count`` rows and ``length`` tokens from now on."""
        self.count = count
        self.keys, self.values = self.all_keys[:count, :, :length], self.all_values[:count, :, :length]

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        start = self.keys.shape[2]
        end = start + key_states.shape[2]
        self.all_keys[: self.count, :, start:end] = key_states
        self.all_values[: self.count, :, start:end] = value_states
        self.set_view(self.count, end)
        return self.keys, self.values

    def swap_rows(self, first: Tensor, second: Tensor) -> None:
        """Exchange rows ``first`` with rows ``second``."""
        length = self.keys.shape[2]
        for memory in (self.all_keys, self.all_values):
            past = memory[:, :, :length]
            past[first], past[second] = past[second], past[first]

    def grow(self, capacity: int) -> None:
        """Allocate memory for ``capacity`` tokens in all, if there is less."""
        if capacity > self.all_keys.shape[2]:
            self.all_keys, self.all_values = (_with_capacity(x, capacity) for x in (self.all_keys, self.all_values))
            self.set_view(self.count, self.keys.shape[2])


def make_static(cache: Any, index_B: Tensor, capacity: int) -> None:
    """Give row b of every layer the past of row ``index_B[b]``, with memory for ``capacity`` tokens in all.

    Layers with sliding windows or recurrent states stay transformers' own, which do not grow.
    """
    sharing = PrefixSharing(index_B)
    for i, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer:
            cache.layers[i] = StaticKVCache(layer, index_B, capacity, sharing)
        else:
            layer.batch_select_indices(index_B)


def select_rows(cache: Any, index_B: Tensor) -> None:
    """Give row b the past of row ``index_B[b]``; gradients of all rows that share a past flow back into it."""
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys.index_select(0, index_B), layer.values.index_select(0, index_B)


def keeps_inactive_rows(cache: Any) -> bool:
    """Whether inactive rows keep all of their past in the cache: true if every layer is a `StaticKVCache`."""
    return all(type(layer) is StaticKVCache for layer in cache.layers)


def has_full_attention(model: Any) -> bool:
    """Whether every layer of the model attends to all earlier tokens: no sliding windows, no recurrent states."""
    layers = DynamicCache(config=model.config.get_text_config(decoder=True)).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def move_to_front(cache: Any, active_N: Tensor) -> Tensor:
    """Move the active rows of the view to the front and shrink the view to them; returns the new order ``[N]``.

    Static layers swap as few rows as possible and keep the others behind; any other layer drops these.
    """
    order = _order(active_N)
    count = int(active_N.sum())
    moved = (order != torch.arange(len(order), device=order.device)).nonzero()[:, 0]
    holes = moved[moved < count]
    for sharing in {layer.sharing for layer in cache.layers if type(layer) is StaticKVCache}:
        sharing.swap_rows(holes, order[holes])
    for layer in cache.layers:
        if type(layer) is StaticKVCache:
            layer.swap_rows(holes, order[holes])
            layer.set_view(count, layer.keys.shape[2])
        else:
            layer.batch_select_indices(order[:count])
    return order


def _order(active_N: Tensor) -> Tensor:
    """A permutation that swaps inactive rows at the front with active rows behind them."""
    order = torch.arange(len(active_N), device=active_N.device)
    front = order < active_N.sum()
    holes, tail = (front & ~active_N).nonzero()[:, 0], (~front & active_N).nonzero()[:, 0]
    order[holes], order[tail] = tail, holes
    return order


def _with_capacity(past: Tensor, capacity: int) -> Tensor:
    # Zeros instead of uninitialized memory: rows have columns that they never write, and a masked NaN would spread.
    rows, heads, length, width = past.shape
    larger = past.new_zeros(rows, heads, capacity, width)
    larger[:, :, :length] = past
    return larger
