"""Nested state to named tensors and a JSON tree, and back, bit for bit.

A tensor becomes ``{"$tensor": name}``; what JSON lacks (tuples, keys that are not strings, NaN) is marked the same way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


def pack(state: Mapping[str, Any]) -> tuple[Any, dict[str, Tensor]]:
    """A JSON tree and the tensors that it names, contiguous on the CPU; a tensor met twice is stored once.

    Holds tensors, numbers, strings, None, lists, tuples and dicts; anything else is a ValueError that says where it
    stands.
    """
    shelf = _Shelf()
    return _pack(state, "", shelf), shelf.tensors


def unpack(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The state that ``pack`` was given; what shared memory then shares it again."""
    match tree:
        case {"$tensor": name}:
            return tensors[name]
        case {"$float": text}:
            return float(text)
        case {"$tuple": values}:
            return tuple(unpack(value, tensors) for value in values)
        case {"$items": pairs}:
            return {key: unpack(value, tensors) for key, value in pairs}
        case dict():
            return {key: unpack(value, tensors) for key, value in tree.items()}
        case list():
            return [unpack(value, tensors) for value in tree]
    return tree


def all_finite(state: Any) -> bool:
    """Whether no tensor of a nested state holds NaN or infinity; of a sharded one this process's part is looked at."""
    if isinstance(state, Tensor):
        local = state.to_local() if hasattr(state, "to_local") else state
        return not local.is_floating_point() or bool(local.isfinite().all())
    if isinstance(state, Mapping):
        return all(all_finite(value) for value in state.values())
    return not isinstance(state, (list, tuple)) or all(all_finite(value) for value in state)


@dataclass
class _Shelf:
    """Tensors by name; ``places`` knows the memory that already has a name, ``storages`` keeps saved memory apart."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    places: dict[tuple, str] = field(default_factory=dict)
    storages: set[int] = field(default_factory=set)

    def add(self, path: str, tensor: Tensor) -> str:
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() and place in self.places:
            return self.places[place]
        name = self._free(path)
        self.tensors[name] = self._alone(tensor)
        self.places[place] = name
        return name

    def _free(self, path: str) -> str:
        name = path
        while name in self.tensors or name == "__metadata__":  # the file format keeps that word for itself
            name += "'"
        return name

    def _alone(self, tensor: Tensor) -> Tensor:
        plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
        storage = plain.untyped_storage()
        if storage.nbytes() != plain.nbytes or storage.data_ptr() in self.storages:
            plain = plain.clone()  # the file format refuses tensors that overlap or own only a part of their memory
        self.storages.add(plain.untyped_storage().data_ptr())
        return plain


def _pack(value: Any, path: str, shelf: _Shelf) -> Any:
    inner = lambda key: f"{path}/{key}" if path else str(key)
    match value:
        case Tensor():
            if value.layout != torch.strided or value.dtype == torch.complex128:
                what = f"a {value.layout} tensor of {value.dtype}"
                raise ValueError(f"cannot save {path}: {what}; dense tensors up to complex64 can be")
            return {"$tensor": shelf.add(path, value)}
        case float() if not math.isfinite(value):
            return {"$float": repr(float(value))}
        case None | bool() | int() | float() | str():
            return value
        case list():
            return [_pack(v, inner(i), shelf) for i, v in enumerate(value)]
        case tuple():
            return {"$tuple": [_pack(v, inner(i), shelf) for i, v in enumerate(value)]}
        case Mapping():
            pairs = [(_key(k, path), _pack(v, inner(k), shelf)) for k, v in value.items()]
            plain = all(isinstance(k, str) and not k.startswith("$") for k, _ in pairs)
            return dict(pairs) if plain else {"$items": [list(pair) for pair in pairs]}
    raise ValueError(
        f"cannot save {path}: {type(value).__name__}; tensors, numbers, strings, None, lists and dicts can be"
    )


def _key(key: Any, path: str) -> str | int:
    if not isinstance(key, (str, int)):
        raise ValueError(f"cannot save {path}: the key {key!r} is neither a string nor an integer")
    return key
