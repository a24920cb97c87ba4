"""A cache of tensors with a limit in bytes; the entry that was used least recently is dropped first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

K = TypeVar("K", bound=Hashable)


class LRUCache:
    """Rows of tensors by key, ``capacity`` bytes in all; the rows of one call are kept together whatever their size."""

    def __init__(self, capacity: int):
        self.capacity, self.used = capacity, 0
        self.rows: OrderedDict[Hashable, list[Tensor]] = OrderedDict()

    def __call__(self, keys: Sequence[K], compute: Callable[[list[K]], Sequence[Tensor]]) -> list[Tensor]:
        """Tensors ``[B, ...]`` with the rows of ``keys``, in order; ``compute`` gives those not in the cache."""
        unique = list(dict.fromkeys(keys))
        missing = [key for key in unique if key not in self.rows]
        for key, *row in zip(missing, *compute(missing)) if missing else ():
            self.rows[key] = [part.clone() for part in row]
            self.used += _bytes(self.rows[key])
        stacked = [torch.stack(parts) for parts in zip(*(self.rows[key] for key in unique))]
        for key in unique:
            self.rows.move_to_end(key)
        while self.used > self.capacity and len(self.rows) > len(unique):
            self.used -= _bytes(self.rows.popitem(last=False)[1])
        place = {key: i for i, key in enumerate(unique)}
        index = torch.tensor([place[key] for key in keys])
        return [part[index.to(part.device)] for part in stacked]


def _bytes(row: Sequence[Tensor]) -> int:
    return sum(part.numel() * part.element_size() for part in row)
