"""N ReLU perceptrons side by side whose weights lie in one vector and whose gradient is written out.

For batches of a few hundred rows autograd, the allocator and the optimiser's bookkeeping cost as much as the products;
here every product goes into a buffer that is kept. The weights of the module that it is made of become views of the
vector.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saccade.models.control.critics import Ensemble
from saccade.models.control.networks import MLP

LARGE = 1 << 20
"""Multiplications from which a product is worth rounding for."""


@dataclass
class _Room:
    """Buffers for so many rows: units and slopes of each hidden layer ``[N, B, width]``, what comes out ``[N, B,
    K]``.
    """

    units: list[Tensor]
    slopes: list[Tensor]
    out: Tensor


def fits(module: nn.Module) -> bool:
    """Whether a stack can be made of it: an ensemble or a ReLU perceptron with hidden layers, without norm, float32
    on a CPU.
    """
    plain = all(p.dtype == torch.float32 and p.device.type == "cpu" for p in module.parameters())
    if isinstance(module, Ensemble):
        return plain and not module.norm and len(module.weights) > 1
    return (
        plain and isinstance(module, MLP) and module.activation == "relu" and not module.norm and len(module.sizes) > 2
    )


class BatchedMLPs:
    """``flat`` are the weights, ``slope`` is where `backward` writes their gradient.

    ``low``: large products are those of numbers rounded to bfloat16, twice as fast where the CPU has it; all else is
    float32.
    """

    def __init__(self, module: Ensemble | MLP, low: bool = False):
        own = list(module.parameters())
        self.flat = torch.cat([p.detach().flatten() for p in own])
        self.slope = torch.zeros_like(self.flat)
        for p, part in zip(own, _carved(self.flat, own)):
            p.data = part
        parts = _carved(self.flat, own), _carved(self.slope, own)
        self.turned, self.low = isinstance(module, MLP), low
        self.weights, self.biases = _layers(parts[0], self.turned)
        self.weight_slopes, self.bias_slopes = _layers(parts[1], self.turned)
        self.count = len(self.biases[0])
        self.rooms: dict[int, _Room] = {}
        self.kept: _Room | None = None

    def forward(self, x_BF: Tensor, members: Tensor | None = None) -> Tensor:
        """What the networks, or only ``members``, say ``[N, B, K]``: overwritten by the next call with as many rows."""
        count = self.count if members is None else len(members)
        self.kept, x = self._room(len(x_BF)), x_BF.expand(count, *x_BF.shape)
        for weight, bias, out in zip(self.weights, self.biases, [*self.kept.units, self.kept.out]):
            weight, bias = (weight, bias) if members is None else (weight[members], bias[members])
            x = self._layer(x, weight, bias, out[:count])
            if out is not self.kept.out:
                x.relu_()
        return x

    def _layer(self, x: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> Tensor:
        if out.shape[-1] > 1 and self.low:
            return self._product(x, weight, out).add_(bias)
        if out.shape[-1] > 1:
            return torch.baddbmm(bias, x, weight, out=out)
        # A product with one column is eight times as slow as the sum that it is.
        spare = torch.mul(x, weight.transpose(1, 2), out=self.kept.slopes[-1][: len(x)])
        return torch.sum(spare, -1, keepdim=True, out=out).add_(bias)

    def backward(self, x_BF: Tensor, slope_NBK: Tensor) -> None:
        """Write the weights' gradient, given that of what `forward` last said of these rows, its first ones."""
        slope, rows = slope_NBK, len(x_BF)
        below = [x_BF.expand(self.count, *x_BF.shape), *(units[:, :rows] for units in self.kept.units)]
        for i in reversed(range(len(self.weights))):
            self._weigh(i, below[i], slope)
            torch.sum(slope, 1, keepdim=True, out=self.bias_slopes[i])
            if i:
                slope = self._down(i, slope)

    def _weigh(self, i: int, below: Tensor, slope: Tensor) -> None:
        """Write the gradient of the weights of layer i, between what is below it and the slope of what it says."""
        out = self.weight_slopes[i]
        if slope.shape[-1] == 1:
            spare = torch.mul(below, slope, out=self.kept.slopes[-1][:, : slope.shape[1]])
            torch.sum(spare, 1, keepdim=True, out=out.transpose(1, 2))
        elif self.turned:
            self._product(slope.transpose(1, 2), below, out.transpose(1, 2))
        else:
            self._product(below.transpose(1, 2), slope, out)

    def to_input(self, slope_NBK: Tensor, columns: int) -> Tensor:
        """The gradient of the last ``columns`` inputs ``[B, columns]``, summed over the networks; no weight's is
        written.
        """
        slope = slope_NBK
        for i in range(len(self.weights) - 1, 0, -1):
            slope = self._down(i, slope)
        return torch.bmm(slope, self.weights[0][:, -columns:].transpose(1, 2)).sum(0)

    def _product(self, a: Tensor, b: Tensor, out: Tensor) -> Tensor:
        """``a b``, written to ``out``."""
        if self.low and a[0].numel() * b.shape[2] >= LARGE:
            return out.copy_(torch.bmm(a.bfloat16(), b.bfloat16()))
        return torch.bmm(a, b, out=out)

    def _down(self, i: int, slope: Tensor) -> Tensor:
        """From the outputs of layer i to those of the layer below, through its ReLU."""
        units, below = (kept[i - 1][:, : slope.shape[1]] for kept in (self.kept.units, self.kept.slopes))
        if slope.shape[-1] == 1:
            torch.mul(slope, self.weights[i].transpose(1, 2), out=below)
        else:
            self._product(slope, self.weights[i].transpose(1, 2), below)
        return torch.ops.aten.threshold_backward(below, units, 0, grad_input=below)

    def _room(self, rows: int) -> _Room:
        if rows not in self.rooms:
            widths = [weight.shape[-1] for weight in self.weights]
            units, slopes = ([self.flat.new_empty(self.count, rows, w) for w in widths] for _ in range(2))
            self.rooms[rows] = _Room(units[:-1], slopes[:-1], units[-1])
        return self.rooms[rows]


class FlatAdam:
    """Adam 1412.6980 on one vector ``flat`` with the gradient ``slope``, in place."""

    def __init__(
        self, flat: Tensor, slope: Tensor, lr: float, eps: float = 1e-8, betas: tuple[float, float] = (0.9, 0.999)
    ):
        self.flat, self.slope, self.lr, self.eps, self.betas, self.steps = flat, slope, lr, eps, betas, 0
        self.mean, self.square, self._spare = (torch.zeros_like(flat) for _ in range(3))

    def step(self) -> None:
        """flat -= lr mean / (sqrt(square) + eps), both moments corrected for their start."""
        self.steps += 1
        first, second = self.betas
        self.mean.lerp_(self.slope, 1 - first)
        self.square.mul_(second).addcmul_(self.slope, self.slope, value=1 - second)
        torch.sqrt(self.square, out=self._spare)
        self._spare.div_(math.sqrt(1 - second**self.steps)).add_(self.eps)
        self.flat.addcdiv_(self.mean, self._spare, value=-self.lr / (1 - first**self.steps))

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "mean": self.mean, "square": self.square}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]
        self.mean.copy_(state["mean"])
        self.square.copy_(state["square"])


def _carved(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Views of ``vector``, one for each of ``like`` and of its shape."""
    return [part.view(p.shape) for part, p in zip(vector.split([p.numel() for p in like]), like)]


def _layers(parts: list[Tensor], turned: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Weights ``[N, in, out]`` and biases ``[N, 1, out]`` of each layer, as views of ``parts`` in the order of the
    parameters.
    """
    if turned:
        return [weight.T[None] for weight in parts[::2]], [bias[None, None] for bias in parts[1::2]]
    half = len(parts) // 2
    return parts[:half], parts[half:]
