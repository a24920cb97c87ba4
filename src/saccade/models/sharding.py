"""Networks cut over several processes (FSDP2), and their weights as whole tensors: what is saved knows no processes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from types import MethodType
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


def shard(network: nn.Module) -> list[nn.Parameter]:
    """Cut a network over all processes, block by block (those that its class says must not be split).

    Returns the parameters that are trained, in their order; with one process nothing is cut.
    """
    if dist.is_initialized():
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        blocks = set(getattr(network, "_no_split_modules", None) or ())
        for module in [m for m in network.modules() if type(m).__name__ in blocks]:
            fully_shard(module)
        fully_shard(network, reshard_after_forward=True)  # else a network that is not trained now keeps stale weights
        network.within = MethodType(_run, network)
        register_fsdp_forward_method(network, "within")
    return [p for p in network.parameters() if p.requires_grad]


def within(network: nn.Module, work: Callable[[], T]) -> T:
    """``work()``, which calls parts of a network past its own forward, where the network's shards are whole for it."""
    return network.within(work) if hasattr(network, "within") else work()


def _run(network: nn.Module, work: Callable[[], T]) -> T:
    return work()


@contextlib.contextmanager
def gathered(network: nn.Module) -> Iterator[None]:
    """Within it every process holds the whole network, so that each may call it as often as its own rows need."""
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
