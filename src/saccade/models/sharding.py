"""Networks cut over several processes (FSDP2), and their weights as whole tensors: what is saved knows no processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn


def shard(module: nn.Module, blocks: Sequence[nn.Module]) -> nn.Module:
    """Shard a module over all processes, block by block; returns it unchanged where there is one process."""
    if not dist.is_initialized():
        return module
    from torch.distributed.fsdp import fully_shard

    for block in blocks:
        fully_shard(block)
    return fully_shard(module)


def is_sharded(x: Tensor) -> bool:
    from torch.distributed.tensor import DTensor

    return isinstance(x, DTensor)


def whole(state: Any) -> Any:
    """Nested state with its sharded tensors gathered; all processes must ask together."""
    match state:
        case Tensor():
            return state.full_tensor() if is_sharded(state) else state
        case Mapping():
            return {key: whole(value) for key, value in state.items()}
        case list() | tuple():
            return type(state)(whole(value) for value in state)
    return state


def like(x: Tensor, value: Tensor) -> Tensor:
    """A whole tensor cut as ``x`` is; itself where ``x`` is whole or has another shape."""
    if not is_sharded(x) or is_sharded(value) or value.shape != x.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(x.device), x.device_mesh, x.placements)
