"""The learner: an ordered list of updates, each with its own loss, weights and optimizer.

Only the weights of the current update require gradients, so losses that share a network, or a reward and a policy that
share one, do not affect each other's weights. Micro-batches add up sums and the gradient is divided once by the summed
weight, so any split, by rows, by decisions or over processes, gives the gradient of the full batch.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from saccade.core import Batch, Loss, Objective, Rollout
from saccade.models.sharding import shard_like
from saccade.random import generator
from saccade.training import distributed


@dataclass
class Update:
    """One loss on one set of weights."""

    name: str
    loss: Objective
    params: Sequence[nn.Parameter]
    optimizer: torch.optim.Optimizer
    on: str = ""
    """Name of the rollout that the loss takes from a batch of several; "" passes the batch as it is."""
    every: int = 1
    """Batches between updates."""
    repeats: int = 1
    """Optimizer steps on the same minibatch."""
    max_grad_norm: float = math.inf
    """Norm to which the gradient of these weights is clipped; inf does not clip."""
    after: Callable[[int], None] | None = None
    """Called after each optimizer step with the number of steps taken: moving averages, target networks."""
    schedule: Callable[[int], float] | None = None
    """Factor on the optimizer's learning rates as a function of the number of steps taken."""
    prepare: Callable[[Any], Any] | None = None
    """Applied to a minibatch before it is split, for normalization that must not depend on the split."""
    steps: int = field(default=0, init=False)
    """Optimizer steps taken."""


class Updates:
    """The learner of most recipes: epochs over a batch, minibatches, micro-batches, updates in order.

    A minibatch takes an equal part of the rows of every group, in order, so it does not depend on the number of
    processes. With a seed ``shuffle`` each epoch instead permutes the rows of this process at random, as PPO does with
    single decisions. ``micro_rows`` and ``micro_decisions`` bound what goes through a network at once. When a GPU runs
    out of memory, the step is repeated with half as many rows at once, and so are all later steps.
    """

    def __init__(
        self,
        updates: Sequence[Update],
        *,
        epochs: int = 1,
        minibatches: int = 1,
        micro_rows: int | None = None,
        micro_decisions: int | None = None,
        shuffle: int | None = None,
    ):
        counts = {
            "epochs": epochs,
            "minibatches": minibatches,
            "micro_rows": micro_rows,
            "micro_decisions": micro_decisions,
        }
        for name, count in counts.items():
            if count is not None and count < 1:
                raise ValueError(f"{name} must be 1 or more, not {count}")
        self.updates, self.epochs, self.minibatches = list(updates), epochs, minibatches
        self.micro_rows, self.micro_decisions, self.shuffle = micro_rows, micro_decisions, shuffle
        self.batches = 0
        self.base_lr = [[g["lr"] for g in u.optimizer.param_groups] for u in self.updates]

    def update(self, batch: Batch) -> dict[str, float]:
        """Train on a batch; metrics are means over all decisions of all processes."""
        batch = _on_one_device(batch)
        sums: dict[str, Tensor] = {}
        counts: dict[str, Tensor] = {}
        rows = self.micro_rows
        for epoch in range(self.epochs):
            for part in range(self.minibatches):
                for update, base_lr in zip(self.updates, self.base_lr):
                    if self.batches % update.every == 0:
                        mini = self._minibatch(_select(batch, update.on), epoch, part)
                        mini = update.prepare(mini) if update.prepare else mini
                        for _ in range(update.repeats):
                            self._step(update, base_lr, mini, sums, counts)
        self.batches += 1
        halved = self.micro_rows is not None and self.micro_rows != rows
        fitting = {"health/rows_that_fit": float(self.micro_rows or 0)} if halved else {}
        return {k: float(v / counts[k].clamp(min=1e-12)) for k, v in sums.items()} | fitting

    def _minibatch(self, batch: Any, epoch: int, part: int) -> Any:
        if self.shuffle is None:
            return minibatch(batch, part, self.minibatches)
        order = permutation(len(batch), self.shuffle, self.batches * self.epochs + epoch)
        return batch.rows(order.tensor_split(self.minibatches)[part])

    def _step(
        self,
        update: Update,
        base_lr: list[float],
        mini: Any,
        sums: dict[str, Tensor],
        counts: dict[str, Tensor],
    ) -> None:
        with train_only(update.params, self.updates):
            losses = self._losses(update, mini)
        names = sorted(losses[0].metrics)
        terms = [[loss.count, loss.total, *(loss.metrics[name] for name in names)] for loss in losses]
        totals = distributed.all_sum(torch.stack([_sum(values) for values in zip(*terms)]))
        count = totals[0]
        distributed.sum_gradients(update.params)
        for key, value in zip([f"loss/{update.name}", *(f"health/{update.name}_{k}" for k in names)], totals[1:]):
            sums[key] = sums.get(key, 0) + value
            counts[key] = counts.get(key, 0) + count
        if count > 0:
            norm = self._descend(update, base_lr, count, sums, counts)
            if norm == 0 and _has_advantage(mini):
                warnings.warn(
                    f"the gradient of update '{update.name}' is exactly zero, though its batch has advantages: no"
                    " gradient leads from its loss to its weights",
                    stacklevel=2,
                )

    def _losses(self, update: Update, mini: Any) -> list[Loss]:
        while True:
            try:
                return [self._backward(update, part) for part in micro(mini, self.micro_rows, self.micro_decisions)]
            except torch.OutOfMemoryError:
                rows = min(self.micro_rows or len(mini), len(mini)) if isinstance(mini, Rollout) else 1
                # All processes must call a sharded network together, so one process cannot repeat the step alone.
                if rows == 1 or any(hasattr(p, "full_tensor") for p in update.params):
                    raise
                self.micro_rows = max(rows // 2 // 2 * 2, 1)  # even, since the two rows of a pair must stay together
            update.optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()

    def _backward(self, update: Update, part: Any) -> Loss:
        loss = update.loss(part)
        if loss.total.requires_grad:
            loss.total.backward()
        return loss

    def _descend(
        self,
        update: Update,
        base_lr: list[float],
        count: Tensor,
        sums: dict[str, Tensor],
        counts: dict[str, Tensor],
    ) -> float:
        """One optimizer step; the norm of the gradient before it is clipped."""
        scale = 1.0 / float(count)
        for p in update.params:
            if p.grad is not None:
                p.grad.mul_(scale)
        norm = nn.utils.clip_grad_norm_(update.params, update.max_grad_norm)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        if not torch.isfinite(norm):
            raise FloatingPointError(f"the gradient of update '{update.name}' is {float(norm)}")
        for group, lr in zip(update.optimizer.param_groups, base_lr):
            group["lr"] = lr * (update.schedule(update.steps) if update.schedule else 1.0)
        update.optimizer.step()
        update.optimizer.zero_grad(set_to_none=True)
        update.steps += 1
        key = f"health/{update.name}_gradient_norm"
        sums[key] = sums.get(key, 0) + norm.double()
        counts[key] = counts.get(key, 0) + torch.ones((), dtype=torch.float64)
        if update.after:
            update.after(update.steps)
        return float(norm)

    def state_dict(self) -> dict[str, Any]:
        return {
            "batches": self.batches,
            "micro_rows": self.micro_rows,
            "updates": {u.name: {"steps": u.steps, "optimizer": u.optimizer.state_dict()} for u in self.updates},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.batches, self.micro_rows = state["batches"], state["micro_rows"]
        for u in self.updates:
            u.steps = state["updates"][u.name]["steps"]
            u.optimizer.load_state_dict(_shard_state(u.params, state["updates"][u.name]["optimizer"]))


def _has_advantage(batch: Any) -> bool:
    """Whether a decision that is trained has an advantage other than zero."""
    if not isinstance(batch, Rollout) or batch.advantage_BT is None:
        return False
    return bool((batch.advantage_BT.cpu() * batch.mask_BT.cpu()).any())


def minibatch(batch: Any, part: int, parts: int) -> Any:
    """Every ``parts``-th row of each group, starting at row ``part``.

    Where group sizes are not multiples of ``parts``, the starting rows of successive groups differ by one.
    """
    if parts == 1 or not isinstance(batch, Rollout):
        return batch
    index_B = index_in_group(batch.group_B)
    _, number_B, sizes = batch.group_B.unique(return_inverse=True, return_counts=True)
    if (sizes % parts).any():
        index_B = index_B + number_B.cpu()
    return batch.rows(torch.nonzero(index_B % parts == part).flatten())


def permutation(rows: int, seed: int, key: int) -> Tensor:
    """A random permutation of ``rows`` row indices, determined by seed and key: int64 ``[rows]``."""
    return torch.randperm(rows, generator=generator(seed, "order of decisions", key))


def index_in_group(group_B: Tensor) -> Tensor:
    """Index of each row among the rows of its group, from 0: ``[B]``."""
    sizes: dict[int, int] = {}
    indices = []
    for group in group_B.tolist():
        indices.append(sizes.get(group, 0))
        sizes[group] = indices[-1] + 1
    return torch.tensor(indices)


def micro(batch: Any, rows: int | None, decisions: int | None) -> Iterator[Any]:
    """Split a rollout into parts of at most ``rows`` rows and ``decisions`` decisions; other batches are not split."""
    if not isinstance(batch, Rollout):
        yield batch
        return
    for index in torch.arange(len(batch)).split(rows or max(len(batch), 1)):
        part = batch if len(index) == len(batch) else batch.rows(index)
        wide = part.logp_BT.shape[1]
        size = decisions or wide
        for start in range(0, max(wide, 1), max(size, 1)):
            yield part if size >= wide else part.columns(slice(start, start + size))


@contextmanager
def train_only(params: Sequence[nn.Parameter], updates: Sequence[Update]) -> Iterator[None]:
    """Within the context only ``params`` require gradients; the weights of the other updates are frozen."""
    trained = {id(p) for p in params}
    frozen = [p for u in updates for p in u.params if id(p) not in trained and p.requires_grad]
    for p in frozen:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in frozen:
            p.requires_grad_(True)


def warmup(steps: int) -> Callable[[int], float]:
    """A learning-rate factor that rises linearly to 1 over ``steps`` optimizer steps."""
    return lambda taken: min((taken + 1) / max(steps, 1), 1.0)


def linear_decay(steps: int, final: float = 0.0) -> Callable[[int], float]:
    """A learning-rate factor that falls linearly towards 0 at ``steps`` optimizer steps, but not below ``final``."""
    return lambda taken: max(1 - taken / steps, final)


def _shard_state(params: Sequence[nn.Parameter], saved: Mapping[str, Any]) -> dict[str, Any]:
    """The saved state of an optimizer, its moments sharded over the processes like their weights."""
    moments = {i: {k: shard_like(params[i], v) for k, v in kept.items()} for i, kept in saved["state"].items()}
    return {**saved, "state": moments}


def _on_one_device(batch: Any) -> Any:
    """The batch, or each rollout of a batch of several, as losses need it; see `Rollout.on_one_device`."""
    if isinstance(batch, Rollout):
        return batch.on_one_device()
    return {name: _on_one_device(part) for name, part in batch.items()} if isinstance(batch, Mapping) else batch


def _select(batch: Batch, name: str) -> Batch:
    """One rollout of a batch of several, or without a name the batch itself."""
    if not name:
        return batch
    if isinstance(batch, Rollout):
        raise ValueError(f"an update is on the rollout '{name}', but the batch is a single rollout without a name")
    return batch[name]


def _sum(values: Sequence[Tensor]) -> Tensor:
    return torch.stack([value.detach().double().cpu() for value in values]).sum()
