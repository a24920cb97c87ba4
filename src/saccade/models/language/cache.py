"""Key-value caches with room for what is still to be written, so that a step copies one token and not the whole past.

transformers' growing layer concatenates at every step: with 64 rows and 256 tokens that is a third of the time. This
file imports transformers at its head, so it is itself imported only where a cache is used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer


class PrefixSharing:
    """Which of P prompts each row of a cache began with, while rows change places."""

    def __init__(self, index_B: Tensor):
        self.index_B, self.prompts = index_B.clone(), int(index_B.max()) + 1
        self.known: dict[int, tuple[Tensor, Tensor]] = {}

    def exchange(self, ones: Tensor, others: Tensor) -> None:
        self.index_B[ones], self.index_B[others] = self.index_B[others], self.index_B[ones]
        self.known = {}

    def seats(self, count: int) -> tuple[Tensor, Tensor]:
        """The first ``count`` rows by prompt ``[P, S]``, empty seats taken by row 0, and the seat ``[N]`` of each
        among P S.
        """
        if count not in self.known:
            index_N, row_N = self.index_B[:count], torch.arange(count, device=self.index_B.device)
            rank_N = (index_N[:, None] == index_N).tril(-1).sum(1)
            shape = self.prompts, int(rank_N.max()) + 1
            seat_N = index_N * shape[1] + rank_N
            row_PS = row_N.new_zeros(shape).flatten().scatter(0, seat_N, row_N).view(shape)
            self.known[count] = row_PS, seat_N
        return self.known[count]


class StaticKVCache(DynamicLayer):
    """The past of row ``index_B[b]`` of ``layer`` for every row b, in memory for ``room`` tokens.

    Only the first ``count`` rows are read and written; those behind them rest with all they have. It stands on
    transformers' own layer because its models ask their caches for that type. ``prompts`` are the keys and values of
    prompts that rows share, for layers that can read them once for all of these; None where every row has its own.
    """

    def __init__(self, layer: DynamicLayer, index_B: Tensor, room: int, sharers: PrefixSharing):
        super().__init__()
        self.sharers, shared = sharers, sharers.prompts < len(index_B)
        self.prompts = (layer.keys[: sharers.prompts], layer.values[: sharers.prompts]) if shared else None
        self.is_initialized, self.dtype, self.device = True, layer.dtype, layer.device
        self.all_keys, self.all_values = (_roomy(x[index_B], room) for x in (layer.keys, layer.values))
        self.show(len(index_B), layer.keys.shape[2])

    def show(self, count: int, length: int) -> None:
        """Go on with the first ``count`` rows and ``length`` tokens."""
        self.count, self.keys, self.values = (
            count,
            self.all_keys[:count, :, :length],
            self.all_values[:count, :, :length],
        )

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        start = self.keys.shape[2]
        end = start + key_states.shape[2]
        self.all_keys[: self.count, :, start:end] = key_states
        self.all_values[: self.count, :, start:end] = value_states
        self.show(self.count, end)
        return self.keys, self.values

    def exchange(self, ones: Tensor, others: Tensor) -> None:
        """Rows ``ones`` and ``others`` change places."""
        length = self.keys.shape[2]
        for memory in (self.all_keys, self.all_values):
            past = memory[:, :, :length]
            past[ones], past[others] = past[others], past[ones]

    def grow(self, room: int) -> None:
        """Make room for ``room`` tokens."""
        if room > self.all_keys.shape[2]:
            self.all_keys, self.all_values = (_roomy(x, room) for x in (self.all_keys, self.all_values))
            self.show(self.count, self.keys.shape[2])


def spread(cache: Any, index_B: Tensor, room: int) -> None:
    """Give row b of every layer the past of row ``index_B[b]``, with room for ``room`` tokens in all.

    Sliding windows and recurrent states keep transformers' own layers, which do not grow.
    """
    sharers = PrefixSharing(index_B)
    for i, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer:
            cache.layers[i] = StaticKVCache(layer, index_B, room, sharers)
        else:
            layer.batch_select_indices(index_B)


def share(cache: Any, index_B: Tensor) -> None:
    """Give row b the past of row ``index_B[b]``; gradients of all rows that share one flow back into it."""
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys.index_select(0, index_B), layer.values.index_select(0, index_B)


def remembers(cache: Any) -> bool:
    """Whether rows that rest in the cache keep all of their past: true for plain attention."""
    return all(type(layer) is StaticKVCache for layer in cache.layers)


def sees_all(model: Any) -> bool:
    """Whether every layer of the model attends to everything before: no sliding windows, no recurrent states."""
    layers = DynamicCache(config=model.config.get_text_config(decoder=True)).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def gather(cache: Any, stay_N: Tensor) -> Tensor:
    """Move the rows that stay (of those shown) to the front and go on with them; returns which row stands where
    ``[N]``.

    Plain layers exchange as few rows as possible and keep the others behind; any other layer forgets those.
    """
    order = _order(stay_N)
    count = int(stay_N.sum())
    moved = (order != torch.arange(len(order), device=order.device)).nonzero()[:, 0]
    holes = moved[moved < count]
    for sharers in {layer.sharers for layer in cache.layers if type(layer) is StaticKVCache}:
        sharers.exchange(holes, order[holes])
    for layer in cache.layers:
        if type(layer) is StaticKVCache:
            layer.exchange(holes, order[holes])
            layer.show(count, layer.keys.shape[2])
        else:
            layer.batch_select_indices(order[:count])
    return order


def _order(stay_N: Tensor) -> Tensor:
    """A permutation that exchanges rows which leave in front with rows which stay behind."""
    order = torch.arange(len(stay_N), device=stay_N.device)
    front = order < stay_N.sum()
    holes, tail = (front & ~stay_N).nonzero()[:, 0], (~front & stay_N).nonzero()[:, 0]
    order[holes], order[tail] = tail, holes
    return order


def _roomy(past: Tensor, room: int) -> Tensor:
    # Zeros and not empty: a row that rests has places it never wrote, and a masked NaN would still spread.
    rows, heads, length, width = past.shape
    wide = past.new_zeros(rows, heads, room, width)
    wide[:, :, :length] = past
    return wide
