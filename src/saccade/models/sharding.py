"""Networks sharded over several processes (FSDP2), and their state gathered: checkpoints do not depend on processes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from types import MethodType
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

import torch.distributed as dist
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

T = TypeVar("T")


def shard(network: nn.Module) -> list[nn.Parameter]:
    """Shard a network over all processes, block by block (the classes in its ``_no_split_modules``).

    Returns the trained parameters in order; without a process group nothing is sharded.
    """
    if dist.is_initialized():
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        model: Any = network  # transformers and diffusers name the blocks in an attribute
        blocks = set(getattr(model, "_no_split_modules", None) or ())
        for module in [m for m in network.modules() if type(m).__name__ in blocks]:
            fully_shard(module)
        fully_shard(network, reshard_after_forward=True)  # otherwise a network not trained now keeps stale weights
        model.call_gathered = MethodType(_call, network)
        register_fsdp_forward_method(network, "call_gathered")
    return [p for p in network.parameters() if p.requires_grad]


def call_gathered(network: nn.Module, function: Callable[[], T]) -> T:
    """``function()``, which calls parts of a network without its forward, with the network's root shards gathered."""
    return network.call_gathered(function) if hasattr(network, "call_gathered") else function()


def _call(network: nn.Module, function: Callable[[], T]) -> T:
    return function()


@contextlib.contextmanager
def gathered(network: nn.Module) -> Iterator[None]:
    """Within it every process holds all weights, so that processes may call the network different numbers of times."""
    from torch.distributed.fsdp import FSDPModule

    parts = [m for m in network.modules() if isinstance(m, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(True, recurse=False)


def is_sharded(x: Tensor) -> TypeGuard[DTensor]:
    """Whether a tensor is sharded over processes."""
    from torch.distributed.tensor import DTensor

    return isinstance(x, DTensor)


def full_tensors(state: Any) -> Any:
    """Nested state with its sharded tensors gathered; all processes must call it together."""
    match state:
        case Tensor():
            return state.full_tensor() if is_sharded(state) else state
        case Mapping():
            return {key: full_tensors(value) for key, value in state.items()}
        case list() | tuple():
            return type(state)(full_tensors(value) for value in state)
    return state


def shard_like(x: Tensor, value: Tensor) -> Tensor:
    """``value`` sharded as ``x`` is; unchanged where ``x`` is not sharded or has another shape."""
    if not is_sharded(x) or is_sharded(value) or value.shape != x.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(x.device), x.device_mesh, x.placements)
