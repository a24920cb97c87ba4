"""Several processes: each handles complete groups; losses and gradients are summed, so all have the same weights.

Replicas sum their gradients after the last micro-batch of an update, one flat bucket per dtype. No wrapper hooks into
the backward pass, so several losses, frozen parts and skipped updates need no care. Sharded modules (`models.sharding`)
reduce in their own backward pass; their mean is scaled back to the sum.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from saccade.models.sharding import is_sharded

T = TypeVar("T")


def start(timeout_seconds: float = 600) -> None:
    """Join the process group if torchrun started several processes, else do nothing."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group(_backend(), timeout=timedelta(seconds=timeout_seconds))


def _backend() -> str:
    """A backend for each device whose tensors are summed: gradients lie on the GPU, counts and metrics on the CPU.

    NCCL alone refuses tensors on the CPU.
    """
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


def stop() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


class PeerLost(Exception):
    """Another process has ended, so a collective operation failed."""


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The number of this process."""
    return dist.get_rank() if dist.is_initialized() else 0


def require_one(what: str) -> None:
    """ValueError if there are several processes, which would all do the same work; ``what`` begins its message."""
    if world() > 1:
        raise ValueError(f"{what} by one process, not by {world()}: start without torchrun")


def shard(items: Sequence[T]) -> Sequence[T]:
    """The items of this process, a consecutive part of a list that all processes have.

    All parts have the same size, since processes must call a sharded network together; ValueError if they cannot.
    """
    if not dist.is_initialized():
        return items
    each, rest = divmod(len(items), world())
    if rest:
        near = world() * max(each, 1)
        raise ValueError(f"{len(items)} problems a step cannot be divided evenly among {world()} processes; {near} can")
    return items[dist.get_rank() * each : (dist.get_rank() + 1) * each]


def all_sum(x: Tensor) -> Tensor:
    """The sum over all processes."""
    if not dist.is_initialized():
        return x
    total = x.detach().clone()
    _all_reduce(total)
    return total


def _all_reduce(x: Tensor) -> None:
    try:
        dist.all_reduce(x)
    except RuntimeError as error:  # errors of the backend: closed connections, timeouts
        raise PeerLost(str(error)) from error


def any_true(flag: bool) -> bool:
    """Whether the flag is set in any process, so that all processes stop at the same step."""
    return flag if not dist.is_initialized() else bool(all_sum(torch.tensor(float(flag))) > 0)


def gather(values: Sequence[T]) -> list[T]:
    """The lists of all processes, concatenated in the order of `shard`."""
    if not dist.is_initialized():
        return list(values)
    parts: list = [None] * world()
    dist.all_gather_object(parts, list(values))
    return [value for part in parts for value in part]


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sum the gradients over all processes, in place; those of sharded weights are means and are scaled to sums."""
    if not dist.is_initialized():
        return
    plain: dict[torch.dtype, list[Tensor]] = {}
    for p in parameters:
        if is_sharded(p):
            if p.grad is not None:
                p.grad.mul_(world())
            continue
        if p.grad is None:
            p.grad = torch.zeros_like(p)  # all processes must reduce the same buckets
        plain.setdefault(p.grad.dtype, []).append(p.grad)
    for grads in plain.values():
        flat = torch.cat([g.flatten() for g in grads])
        _all_reduce(flat)
        for g, part in zip(grads, flat.split([g.numel() for g in grads])):
            g.copy_(part.view_as(g))
