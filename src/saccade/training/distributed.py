"""Several processes: each takes whole groups, adds up losses and gradients, and sees the same weights.

Replicas add their gradients themselves after the last micro-batch, one flat bucket a dtype, update by update; no
wrapper watches the backward pass, so several losses, frozen parts and skipped updates cannot confuse it. Sharded
modules (`models.sharding`) reduce inside their own backward pass; their mean is turned back into the sum.
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
    """Join the other processes if torchrun started several; nothing otherwise."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_seconds))


def stop() -> None:
    """Leave the others, if there are any."""
    if dist.is_initialized():
        dist.destroy_process_group()


class PeerLost(Exception):
    """Another process is gone, and with it the collective operation that waited for it."""


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def require_one(what: str) -> None:
    """ValueError where several processes would do the same work beside one another."""
    if world() > 1:
        raise ValueError(f"{what} by one process, not by {world()}: start without torchrun")


def shard(items: Sequence[T]) -> Sequence[T]:
    """This process's part of what all processes know, as many for each: sharded networks are called in step."""
    if not dist.is_initialized():
        return items
    each, rest = divmod(len(items), world())
    if rest:
        near = world() * max(each, 1)
        raise ValueError(f"{len(items)} problems a step cannot be shared evenly by {world()} processes; {near} can")
    return items[dist.get_rank() * each : (dist.get_rank() + 1) * each]


def all_sum(x: Tensor) -> Tensor:
    """The sum over all processes."""
    if not dist.is_initialized():
        return x
    total = x.detach().clone()
    _add_up(total)
    return total


def _add_up(x: Tensor) -> None:
    try:
        dist.all_reduce(x)
    except RuntimeError as error:  # the backend's own errors: closed connections, time-outs
        raise PeerLost(str(error)) from error


def any_true(flag: bool) -> bool:
    """Whether the flag is set in any process, so that all stop at the same step."""
    return flag if not dist.is_initialized() else bool(all_sum(torch.tensor(float(flag))) > 0)


def gather(values: Sequence[T]) -> list[T]:
    """The parts of all processes (see ``share``), joined in order."""
    if not dist.is_initialized():
        return list(values)
    parts: list = [None] * world()
    dist.all_gather_object(parts, list(values))
    return [value for part in parts for value in part]


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add the gradients of all processes in place; sharded ones hold a mean and are scaled to the sum."""
    if not dist.is_initialized():
        return
    plain: dict[torch.dtype, list[Tensor]] = {}
    for p in parameters:
        if is_sharded(p):
            if p.grad is not None:
                p.grad.mul_(world())
            continue
        if p.grad is None:
            p.grad = torch.zeros_like(p)  # every process must bring the same buckets
        plain.setdefault(p.grad.dtype, []).append(p.grad)
    for grads in plain.values():
        flat = torch.cat([g.flatten() for g in grads])
        _add_up(flat)
        for g, part in zip(grads, flat.split([g.numel() for g in grads])):
            g.copy_(part.view_as(g))
