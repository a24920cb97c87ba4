"""Adam on one vector of weights, in place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


class FlatAdam:
    """Adam 1412.6980 on a vector ``weights`` ``[P]`` with its ``gradient`` ``[P]``, which are always the same arrays.

        mean += (1 - b1) (g - mean),  square += (1 - b2) (g^2 - square)
        weights -= lr factor (mean / (1 - b1^t)) / (sqrt(square / (1 - b2^t)) + eps)

    Both are numpy arrays, whose calls cost least on vectors of a few thousand numbers, or both are tensors.
    """

    def __init__(
        self,
        weights: np.ndarray | Tensor,
        gradient: np.ndarray | Tensor,
        lr: float,
        eps: float = 1e-8,
        betas: tuple[float, float] = (0.9, 0.999),
    ):
        self.weights, self.gradient, self.lr, self.eps, self.betas, self.steps = weights, gradient, lr, eps, betas, 0
        zeros = np.zeros_like if isinstance(weights, np.ndarray) else torch.zeros_like
        self.mean, self.square, self._scratch = (zeros(weights) for _ in range(3))

    def step(self, factor: float = 1.0) -> None:
        """One step with the learning rate times ``factor``."""
        self.steps += 1
        first, second = self.betas
        rate, scale = self.lr * factor / (1 - first**self.steps), 1 / math.sqrt(1 - second**self.steps)
        if isinstance(self.weights, np.ndarray):
            self._numpy_step(rate, scale)
        else:
            self._torch_step(rate, math.sqrt(1 - second**self.steps))

    def _numpy_step(self, rate: float, scale: float) -> None:
        scratch, (first, second) = self._scratch, self.betas
        np.subtract(self.gradient, self.mean, out=scratch)
        scratch *= 1 - first
        self.mean += scratch
        np.multiply(self.gradient, self.gradient, out=scratch)
        scratch -= self.square
        scratch *= 1 - second
        self.square += scratch
        np.sqrt(self.square, out=scratch)
        scratch *= scale
        scratch += self.eps
        np.divide(self.mean, scratch, out=scratch)
        scratch *= rate
        self.weights -= scratch

    def _torch_step(self, rate: float, correction: float) -> None:
        first, second = self.betas
        self.mean.lerp_(self.gradient, 1 - first)
        self.square.mul_(second).addcmul_(self.gradient, self.gradient, value=1 - second)
        torch.sqrt(self.square, out=self._scratch)
        self._scratch.div_(correction).add_(self.eps)
        self.weights.addcdiv_(self.mean, self._scratch, value=-rate)

    def state_dict(self) -> dict[str, Any]:
        moments = {name: torch.as_tensor(getattr(self, name)).clone() for name in ("mean", "square")}
        return {"steps": self.steps, **moments}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]
        for name in ("mean", "square"):
            torch.as_tensor(getattr(self, name)).copy_(state[name])
