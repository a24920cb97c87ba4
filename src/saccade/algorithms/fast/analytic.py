"""The learner of weights that lie in one vector and have a hand-written gradient: shuffled minibatches, gradient
clipping, Adam in place.

It makes the updates of `Updates` with one update, ``shuffle`` and torch's Adam, within rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch

from saccade.algorithms.fast.adam import FlatAdam
from saccade.core import Rollout
from saccade.training.learner import permutation
from saccade.training.settings import AdamW


class FlatNetworks(Protocol):
    """Networks whose weights lie in ``weights_P`` and whose gradient is written to ``gradient_P``, both float32."""

    weights_P: np.ndarray
    gradient_P: np.ndarray


class AnalyticLoss(Protocol):
    """A loss that writes its gradient to ``networks.gradient_P`` and returns means, one of them named "loss"."""

    @property
    def networks(self) -> FlatNetworks: ...

    def columns(self, rollout: Rollout) -> Mapping[str, np.ndarray]:
        """The inputs of the loss, by name, each ``[N, ...]``."""
        ...

    def __call__(self, rows: Mapping[str, np.ndarray], /) -> dict[str, float]: ...


class AnalyticUpdates:
    """Epochs over a rollout in shuffled minibatches of decisions.

    ``schedule`` maps the number of optimizer steps taken to a factor on the learning rate.
    """

    def __init__(
        self,
        name: str,
        loss: AnalyticLoss,
        optim: AdamW,
        *,
        shuffle: int,
        epochs: int = 1,
        minibatches: int = 1,
        schedule: Callable[[int], float] | None = None,
    ):
        self.name, self.loss, self.shuffle = name, loss, shuffle
        self.epochs, self.minibatches, self.schedule = epochs, minibatches, schedule
        self.max_grad_norm, self.batches = optim.max_grad_norm, 0
        self.adam = FlatAdam(loss.networks.weights_P, loss.networks.gradient_P, optim.lr, optim.eps, optim.betas)

    def update(self, batch: Rollout) -> dict[str, float]:
        """Train on a batch; metrics are means over its minibatches, named as those of `Updates`."""
        columns, metrics = self.loss.columns(batch), []
        for epoch in range(self.epochs):
            order = permutation(len(batch), self.shuffle, self.batches * self.epochs + epoch).numpy()
            permuted = {name: part[order] for name, part in columns.items()}
            for place in torch.arange(len(batch)).tensor_split(self.minibatches):
                start, end = int(place[0]), int(place[-1]) + 1
                metrics.append(self._step({name: part[start:end] for name, part in permuted.items()}))
        self.batches += 1
        means = {name: float(np.mean([each[name] for each in metrics])) for name in metrics[0]}
        health = {f"health/{self.name}_{name}": mean for name, mean in means.items() if name != "loss"}
        return {f"loss/{self.name}": means["loss"]} | health

    def _step(self, rows: Mapping[str, np.ndarray]) -> dict[str, float]:
        with np.errstate(invalid="ignore", over="ignore"):  # the norm is then not finite
            metrics = self.loss(rows)
        gradient = self.loss.networks.gradient_P
        norm = math.sqrt(float(gradient @ gradient))
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient of update '{self.name}' is {norm}")
        if norm + 1e-6 > self.max_grad_norm:
            gradient *= self.max_grad_norm / (norm + 1e-6)
        self.adam.step(self.schedule(self.adam.steps) if self.schedule else 1.0)
        return metrics | {"gradient_norm": norm}

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.batches, **self.adam.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.batches = state["batches"]
        self.adam.load_state_dict(state)
