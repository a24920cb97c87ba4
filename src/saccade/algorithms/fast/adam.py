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

    Numpy arrays are stepped by numpy, whose calls cost least on vectors of a few thousand numbers, tensors by torch.
    """

    def __init__(
        self,
        weights: np.ndarray | Tensor,
        gradient: np.ndarray | Tensor,
        lr: float,
        eps: float = 1e-8,
        betas: tuple[float, float] = (0.9, 0.999),
    ):
        self.lr, self.eps, self.betas, self.steps = lr, eps, betas, 0
        self.by_numpy = isinstance(weights, np.ndarray)
        self.weights, self.gradient = torch.as_tensor(weights), torch.as_tensor(gradient)
        self.mean, self.square, self._scratch = (torch.zeros_like(self.weights) for _ in range(3))

    def step(self, factor: float = 1.0) -> None:
        """One step with the learning rate times ``factor``."""
        self.steps += 1
        first, second = self.betas
        rate, correction = self.lr * factor / (1 - first**self.steps), math.sqrt(1 - second**self.steps)
        (self._numpy_step if self.by_numpy else self._torch_step)(rate, correction)

    def _numpy_step(self, rate: float, correction: float) -> None:
        weights, gradient, mean = self.weights.numpy(), self.gradient.numpy(), self.mean.numpy()
        square, scratch, (first, second) = self.square.numpy(), self._scratch.numpy(), self.betas
        np.subtract(gradient, mean, out=scratch)
        scratch *= 1 - first
        mean += scratch
        np.multiply(gradient, gradient, out=scratch)
        scratch -= square
        scratch *= 1 - second
        square += scratch
        np.sqrt(square, out=scratch)
        scratch *= 1 / correction
        scratch += self.eps
        np.divide(mean, scratch, out=scratch)
        scratch *= rate
        weights -= scratch

    def _torch_step(self, rate: float, correction: float) -> None:
        first, second = self.betas
        self.mean.lerp_(self.gradient, 1 - first)
        self.square.mul_(second).addcmul_(self.gradient, self.gradient, value=1 - second)
        torch.sqrt(self.square, out=self._scratch)
        self._scratch.div_(correction).add_(self.eps)
        self.weights.addcdiv_(self.mean, self._scratch, value=-rate)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "mean": self.mean.clone(), "square": self.square.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]
        self.mean.copy_(state["mean"])
        self.square.copy_(state["square"])
