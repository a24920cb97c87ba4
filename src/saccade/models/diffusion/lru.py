"""What was computed once an item, kept until so many bytes are in use; what was made first is forgotten first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor


class LRUCache:
    """Rows of tensors by key, of ``capacity`` bytes in all; those of one call are held together whatever their size."""

    def __init__(self, capacity: int):
        self.capacity, self.used = capacity, 0
        self.rows: OrderedDict[Hashable, list[Tensor]] = OrderedDict()

    def __call__(self, keys: Sequence[Any], compute: Callable[[list[Any]], Sequence[Tensor]]) -> list[Tensor]:
        """Tensors ``[B, ...]`` with the rows of ``keys``, in order; ``compute`` gives such tensors for the unknown
        ones.
        """
        unique = list(dict.fromkeys(keys))
        unknown = [key for key in unique if key not in self.rows]
        for key, *row in zip(unknown, *compute(unknown)) if unknown else ():
            self.rows[key] = [part.clone() for part in row]
            self.used += _bytes(self.rows[key])
        stacked = [torch.stack(parts) for parts in zip(*(self.rows[key] for key in unique))]
        while self.used > self.capacity and len(self.rows) > len(unique):
            self.used -= _bytes(self.rows.popitem(last=False)[1])
        place = {key: i for i, key in enumerate(unique)}
        index = torch.tensor([place[key] for key in keys])
        return [part[index.to(part.device)] for part in stacked]


def _bytes(row: Sequence[Tensor]) -> int:
    return sum(part.numel() * part.element_size() for part in row)
