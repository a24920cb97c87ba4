"""Caches with a limit in bytes; the entry that was used least recently is dropped first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from functools import wraps
from types import NoneType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from saccade.math.pixels import picture_digest

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


class Memo:
    """Results of frozen functions by their arguments, ``capacity`` bytes in all.

    Arguments count by their content, generators not at all; a call with arguments of other kinds is not remembered.
    """

    def __init__(self, capacity: int = 1 << 30):
        self.capacity, self.used = capacity, 0
        self.results: OrderedDict[Hashable, Any] = OrderedDict()

    def of(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function`` without gradients, called once for equal arguments; ``name`` tells functions apart."""

        @wraps(function)
        @torch.no_grad()
        def remembered(*args: Any, **kwargs: Any) -> Any:
            try:
                key = (name, _content(args), _content(kwargs))
            except TypeError:
                return function(*args, **kwargs)
            if key not in self.results:
                self.results[key] = function(*args, **kwargs)
                self.used += _size(self.results[key])
                while self.used > self.capacity and len(self.results) > 1:
                    self.used -= _size(self.results.popitem(last=False)[1])
            self.results.move_to_end(key)
            return self.results[key]

        return remembered


def _content(value: Any) -> Hashable:
    """What tells arguments of different content apart. TypeError for a value whose content is not known."""
    if isinstance(value, str | int | float | bool | torch.device | torch.dtype | NoneType):
        return (type(value).__name__, value)
    if isinstance(value, list | tuple):
        return tuple(map(_content, value))
    if isinstance(value, dict):
        return tuple((key, _content(part)) for key, part in sorted(value.items()))
    if isinstance(value, torch.Generator):
        return "generator"
    if isinstance(value, Tensor):
        return (str(value.dtype), picture_digest(value.detach().cpu().contiguous().view(torch.uint8).numpy()))
    if type(value).__module__.startswith("PIL."):
        return (value.mode, picture_digest(np.asarray(value)))
    if isinstance(value, np.ndarray):
        return (str(value.dtype), picture_digest(value))
    raise TypeError(f"a {type(value).__name__}")


def _size(value: Any) -> int:
    """Bytes of the tensors in a result."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        value = vars(value).values() if hasattr(value, "__dict__") else ()
    return sum(map(_size, value))
