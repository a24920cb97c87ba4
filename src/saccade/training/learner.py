"""From a batch to better weights: an ordered list of updates, each with its own loss, weights and optimiser.

An update opens only its own weights for gradients, so that losses which share a network, or reward and policy that
share one, cannot leak into each other. Micro-batches add up sums; the gradient is divided once by the summed weight, so
any cut, by rows or by decisions, over one process or many, gives the gradient of the full batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from saccade.core import Batch, Loss, Objective, Rollout, generator, seeds
from saccade.models.sharding import shard_like
from saccade.training import distributed


@dataclass
class Update:
    """One loss on one set of weights.

    ``on`` names the rollout of a record that the loss reads ("" = the whole batch). ``every`` skips batches,
    ``repeats`` steps several times on the same one. ``max_norm`` clips this update's gradient alone. ``after`` runs
    behind each optimiser step (moving averages, target networks) and is given the number of steps taken.
    """

    name: str
    loss: Objective
    params: Sequence[nn.Parameter]
    optimizer: torch.optim.Optimizer
    on: str = ""
    every: int = 1
    repeats: int = 1
    max_norm: float = 1.0
    after: Callable[[int], None] | None = None
    schedule: Callable[[int], float] | None = None
    """Factor on the optimiser's learning rates for each step taken."""
    prepare: Callable[[Any], Any] | None = None
    """Changes a minibatch before it is cut: what is normalised over the minibatch does not depend on the cut."""
    steps: int = field(default=0, init=False)


class Updates:
    """The learner nearly everyone uses: epochs over a batch, minibatches, micro-batches, updates in order.

    A minibatch takes an equal part of the attempts of every group, in order, so it is the same whatever the number of
    processes. With a seed ``shuffle`` each epoch instead deals out the rows of this process at random, as PPO does with
    single decisions. ``micro_rows`` and ``micro_decisions`` bound what goes through a network at once. Where a GPU's
    memory is not enough for so many rows, the step is taken again with half of them, and all later ones are.
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
        sums: dict[str, Tensor] = {}
        counts: dict[str, Tensor] = {}
        rows = self.micro_rows
        for epoch in range(self.epochs):
            for part in range(self.minibatches):
                for update, base in zip(self.updates, self.base_lr):
                    if self.batches % update.every == 0:
                        mini = self._minibatch(_view(batch, update.on), epoch, part)
                        mini = update.prepare(mini) if update.prepare else mini
                        for _ in range(update.repeats):
                            self._step(update, base, mini, sums, counts)
        self.batches += 1
        cut = {} if self.micro_rows == rows else {"health/rows_that_fit": float(self.micro_rows)}
        return {k: float(v / counts[k].clamp(min=1e-12)) for k, v in sums.items()} | cut

    def _minibatch(self, batch: Any, epoch: int, part: int) -> Any:
        if self.shuffle is None:
            return minibatch(batch, part, self.minibatches)
        order = shuffled(len(batch), self.shuffle, self.batches * self.epochs + epoch)
        return batch.rows(order.tensor_split(self.minibatches)[part])

    def _step(self, update: Update, base: list[float], mini: Any, sums: dict, counts: dict) -> None:
        with train_only(update.params, self.updates):
            losses = self._losses(update, mini)
        names = sorted(losses[0].metrics)
        stacked = torch.stack([_sum(losses, lambda x: x.count), _sum(losses, lambda x: x.total.detach())])
        totals = torch.cat(
            [stacked, torch.stack([_sum(losses, lambda x: x.metrics[k]) for k in names])] if names else [stacked]
        )
        totals = distributed.all_sum(totals.double())
        count = totals[0]
        distributed.sum_gradients(update.params)
        for key, value in zip([f"loss/{update.name}", *(f"health/{update.name}_{k}" for k in names)], totals[1:]):
            sums[key] = sums.get(key, 0) + value
            counts[key] = counts.get(key, 0) + count
        if count > 0:
            self._descend(update, base, count, sums, counts)

    def _losses(self, update: Update, mini: Any) -> list[Loss]:
        while True:
            try:
                return [self._backward(update, part) for part in micro(mini, self.micro_rows, self.micro_decisions)]
            except torch.OutOfMemoryError:
                rows = min(self.micro_rows or len(mini), len(mini)) if isinstance(mini, Rollout) else 1
                # Sharded networks are called in step by all processes, so that one alone cannot begin again.
                if rows == 1 or any(hasattr(p, "full_tensor") for p in update.params):
                    raise
                self.micro_rows = max(rows // 2 // 2 * 2, 1)  # even, since pairs stay together
            update.optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()

    def _backward(self, update: Update, part: Any) -> Loss:
        loss = update.loss(part)
        if loss.total.requires_grad:
            loss.total.backward()
        return loss

    def _descend(self, update: Update, base: list[float], count: Tensor, sums: dict, counts: dict) -> None:
        scale = 1.0 / float(count)
        for p in update.params:
            if p.grad is not None:
                p.grad.mul_(scale)
        norm = nn.utils.clip_grad_norm_(update.params, update.max_norm)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        if not torch.isfinite(norm):
            raise FloatingPointError(f"the gradient of update '{update.name}' is {float(norm)}")
        for group, lr in zip(update.optimizer.param_groups, base):
            group["lr"] = lr * (update.schedule(update.steps) if update.schedule else 1.0)
        update.optimizer.step()
        update.optimizer.zero_grad(set_to_none=True)
        update.steps += 1
        key = f"health/{update.name}_gradient_norm"
        sums[key] = sums.get(key, 0) + norm.double()
        counts[key] = counts.get(key, 0) + torch.ones((), dtype=torch.float64)
        if update.after:
            update.after(update.steps)

    def state_dict(self) -> dict:
        return {
            "batches": self.batches,
            "micro_rows": self.micro_rows,
            "updates": {u.name: {"steps": u.steps, "optimizer": u.optimizer.state_dict()} for u in self.updates},
        }

    def load_state_dict(self, state: Mapping) -> None:
        self.batches, self.micro_rows = state["batches"], state["micro_rows"]
        for u in self.updates:
            u.steps = state["updates"][u.name]["steps"]
            u.optimizer.load_state_dict(_cut_as(u.params, state["updates"][u.name]["optimizer"]))


def minibatch(batch: Any, part: int, parts: int) -> Any:
    """Every ``parts``-th attempt of each group, from the ``part``-th on; groups that do not divide evenly begin one
    apart.
    """
    if parts == 1 or not isinstance(batch, Rollout):
        return batch
    place_B = rank_in_group(batch.group_B)
    _, number_B, sizes = batch.group_B.unique(return_inverse=True, return_counts=True)
    if (sizes % parts).any():
        place_B = place_B + number_B.cpu()
    return batch.rows(torch.nonzero(place_B % parts == part).flatten())


def shuffled(rows: int, seed: int, key: int) -> Tensor:
    """The numbers of ``rows`` rows in a random order that follows from seed and key."""
    return torch.randperm(rows, generator=generator(int(seeds(seed, 1, key=key))))


def rank_in_group(group_B: Tensor) -> Tensor:
    """The place of each row among the rows of its group: ``[B]``, 0 first."""
    seen: dict[int, int] = {}
    places = []
    for g in group_B.tolist():
        places.append(seen.get(g, 0))
        seen[g] = places[-1] + 1
    return torch.tensor(places)


def micro(batch: Any, rows: int | None, decisions: int | None) -> Iterator[Any]:
    """Cut a rollout into parts of at most so many rows and decisions; anything else stays whole."""
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
    """Only ``params`` take gradients inside; what the other updates own is closed and opened again."""
    own = {id(p) for p in params}
    closed = [p for u in updates for p in u.params if id(p) not in own and p.requires_grad]
    for p in closed:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in closed:
            p.requires_grad_(True)


def warmup(steps: int) -> Callable[[int], float]:
    """A learning-rate factor that rises to 1 over ``steps`` optimiser steps."""
    return lambda taken: min((taken + 1) / max(steps, 1), 1.0)


def rise_and_fall(steps: int, rise: int, least: float = 0.0) -> Callable[[int], float]:
    """A factor that rises to 1 over ``rise`` of ``steps`` optimiser steps and falls in a line to ``least``."""
    up = warmup(rise)
    return lambda taken: min(up(taken), max(1 - taken / steps, least))


def _cut_as(params: Sequence[nn.Parameter], saved: Mapping) -> dict:
    """An optimiser's saved state with its moments cut over the processes as their weights are."""
    moments = {i: {k: shard_like(params[i], v) for k, v in kept.items()} for i, kept in saved["state"].items()}
    return {**saved, "state": moments}


def _view(batch: Batch, on: str) -> Any:
    return batch[on] if on else batch


def _sum(losses: list[Loss], read: Callable[[Loss], Tensor]) -> Tensor:
    return torch.stack([read(loss).detach().double().cpu() for loss in losses]).sum()
