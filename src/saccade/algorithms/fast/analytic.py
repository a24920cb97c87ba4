"""The learner of weights that lie in one vector and have their gradient written out: shuffled minibatches, clipping,
Adam in place.

It takes the steps of `Updates` with one update, ``shuffle`` and torch's Adam, within rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch

from saccade.core import Rollout
from saccade.training.learner import permutation


class Flat(Protocol):
    """``flat`` are the weights, ``slope`` is where a gradient of them is written: both ``[P]`` float32, for ever the
    same arrays.
    """

    flat: np.ndarray
    slope: np.ndarray


class Written(Protocol):
    """A loss whose gradient is written into ``twin.slope`` when it is called; it returns means, one of them named
    "loss".
    """

    twin: Flat

    def columns(self, rollout: Rollout) -> Mapping[str, np.ndarray]: ...

    def __call__(self, rows: Mapping[str, np.ndarray]) -> dict[str, float]: ...


class Adam:
    """Adam 1412.6980 on one vector, in place."""

    def __init__(self, size: int, lr: float, eps: float = 1e-8, betas: tuple[float, float] = (0.9, 0.999)):
        self.lr, self.eps, self.betas, self.steps = lr, eps, betas, 0
        self.mean, self.square, self._spare = (np.zeros(size, np.float32) for _ in range(3))

    def step(self, weights: np.ndarray, slope: np.ndarray, factor: float = 1.0) -> None:
        """weights -= lr factor mean / (sqrt(square) + eps), both moments corrected for their start."""
        self.steps += 1
        spare, (first, second) = self._spare, self.betas
        np.subtract(slope, self.mean, out=spare)
        spare *= 1 - first
        self.mean += spare
        np.multiply(slope, slope, out=spare)
        spare -= self.square
        spare *= 1 - second
        self.square += spare
        np.sqrt(self.square, out=spare)
        spare *= 1 / math.sqrt(1 - second**self.steps)
        spare += self.eps
        np.divide(self.mean, spare, out=spare)
        spare *= self.lr * factor / (1 - first**self.steps)
        weights -= spare


class AnalyticUpdates:
    """Epochs over a rollout in shuffled minibatches of decisions; ``schedule`` is a factor on ``lr`` for each step
    taken.
    """

    def __init__(
        self,
        name: str,
        loss: Written,
        *,
        lr: float,
        shuffle: int,
        eps: float = 1e-8,
        epochs: int = 1,
        minibatches: int = 1,
        max_norm: float = 1.0,
        schedule: Callable[[int], float] | None = None,
    ):
        self.name, self.loss, self.shuffle = name, loss, shuffle
        self.epochs, self.minibatches, self.max_norm, self.schedule = epochs, minibatches, max_norm, schedule
        self.adam, self.batches = Adam(len(loss.twin.flat), lr, eps), 0

    def update(self, batch: Rollout) -> dict[str, float]:
        """Train on a batch; metrics are means over its minibatches, named as those of `Updates`."""
        columns, told = self.loss.columns(batch), []
        for epoch in range(self.epochs):
            order = permutation(len(batch), self.shuffle, self.batches * self.epochs + epoch).numpy()
            mixed = {name: part[order] for name, part in columns.items()}
            for place in torch.arange(len(batch)).tensor_split(self.minibatches):
                start, end = int(place[0]), int(place[-1]) + 1
                told.append(self._step({name: part[start:end] for name, part in mixed.items()}))
        self.batches += 1
        means = {name: float(np.mean([each[name] for each in told])) for name in told[0]}
        return {f"loss/{self.name}": means.pop("loss")} | {
            f"health/{self.name}_{name}": mean for name, mean in means.items()
        }

    def _step(self, rows: Mapping[str, np.ndarray]) -> dict[str, float]:
        with np.errstate(invalid="ignore", over="ignore"):  # the norm tells
            metrics = self.loss(rows)
        slope = self.loss.twin.slope
        norm = math.sqrt(float(slope @ slope))
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient of update '{self.name}' is {norm}")
        if norm + 1e-6 > self.max_norm:
            slope *= self.max_norm / (norm + 1e-6)
        self.adam.step(self.loss.twin.flat, slope, self.schedule(self.adam.steps) if self.schedule else 1.0)
        return metrics | {"gradient_norm": norm}

    def state_dict(self) -> dict[str, Any]:
        moments = {name: torch.from_numpy(getattr(self.adam, name).copy()) for name in ("mean", "square")}
        return {"batches": self.batches, "steps": self.adam.steps, **moments}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.batches, self.adam.steps = state["batches"], state["steps"]
        for name in ("mean", "square"):
            getattr(self.adam, name)[:] = state[name].numpy()
