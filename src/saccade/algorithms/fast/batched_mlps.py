"""N ReLU perceptrons side by side whose weights lie in one vector and whose gradient is written by hand.

For batches of a few hundred rows autograd, the allocator and the optimizer's bookkeeping cost as much as the products;
here every product goes into a buffer that is reused. The weights of the module become views of the vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor, nn

from saccade.models.control.critics import Ensemble
from saccade.models.control.networks import MLP

LARGE = 1 << 20
"""Multiplications from which a product gains from rounding its factors to bfloat16."""


@dataclass
class _Buffers:
    """Arrays for B rows: units and their gradients of each hidden layer ``[N, B, width]``, and the outputs
    ``[N, B, K]``.
    """

    units: list[Tensor]
    gradients: list[Tensor]
    output: Tensor


def fits(module: nn.Module) -> TypeGuard[Ensemble | MLP]:
    """Whether `BatchedMLPs` covers a module: an ensemble or a ReLU perceptron with hidden layers, without LayerNorm,
    in float32 on a CPU.
    """
    if any(p.dtype != torch.float32 or p.device.type != "cpu" for p in module.parameters()):
        return False
    if isinstance(module, Ensemble):
        return not module.norm and len(module.weights) > 1
    return isinstance(module, MLP) and module.activation == "relu" and not module.norm and len(module.sizes) > 2


class BatchedMLPs:
    """``weights_P`` are the weights, ``gradient_P`` is where `backward` writes their gradient.

    ``low``: large products are those of numbers rounded to bfloat16, twice as fast where the CPU supports it; all else
    is float32.
    """

    def __init__(self, module: Ensemble | MLP, low: bool = False):
        parameters = list(module.parameters())
        self.weights_P = torch.cat([p.detach().flatten() for p in parameters])
        self.gradient_P = torch.zeros_like(self.weights_P)
        for p, part in zip(parameters, _parts_of(self.weights_P, parameters)):
            p.data = part
        self.transposed, self.low = isinstance(module, MLP), low
        self.weights, self.biases = _layers(_parts_of(self.weights_P, parameters), self.transposed)
        self.weight_gradients, self.bias_gradients = _layers(_parts_of(self.gradient_P, parameters), self.transposed)
        self.count = len(self.biases[0])
        self.buffers: dict[int, _Buffers] = {}
        self.last = _Buffers([], [], self.weights_P)
        """The buffers of the last forward pass."""

    def forward(self, x_BF: Tensor, members: Tensor | None = None) -> Tensor:
        """Outputs of the networks, or only of ``members``: ``[N, B, K]``, overwritten by the next call with B rows."""
        count = self.count if members is None else len(members)
        self.last, x = self._buffers(len(x_BF)), x_BF.expand(count, *x_BF.shape)
        for weight, bias, out in zip(self.weights, self.biases, [*self.last.units, self.last.output]):
            weight, bias = (weight, bias) if members is None else (weight[members], bias[members])
            x = self._layer(x, weight, bias, out[:count])
            if out is not self.last.output:
                x.relu_()
        return x

    def _layer(self, x: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> Tensor:
        if out.shape[-1] > 1 and self.low:
            return self._product(x, weight, out).add_(bias)
        if out.shape[-1] > 1:
            return torch.baddbmm(bias, x, weight, out=out)
        # A product with one column is eight times as slow as the sum that it is.
        terms = torch.mul(x, weight.transpose(1, 2), out=self.last.gradients[-1][: len(x)])
        return torch.sum(terms, -1, keepdim=True, out=out).add_(bias)

    def backward(self, x_BF: Tensor, gradient_NBK: Tensor) -> None:
        """Write the gradient of the weights, given that of the last outputs of these rows, the first ones of the
        last `forward`.
        """
        gradient, rows = gradient_NBK, len(x_BF)
        inputs = [x_BF.expand(self.count, *x_BF.shape), *(units[:, :rows] for units in self.last.units)]
        for i in reversed(range(len(self.weights))):
            self._write_weight_gradient(i, inputs[i], gradient)
            torch.sum(gradient, 1, keepdim=True, out=self.bias_gradients[i])
            if i:
                gradient = self._through_relu(i, gradient)

    def _write_weight_gradient(self, i: int, inputs: Tensor, gradient: Tensor) -> None:
        """Write the gradient of the weights of layer i from the layer's inputs and the gradient of its outputs."""
        out = self.weight_gradients[i]
        if gradient.shape[-1] == 1:
            terms = torch.mul(inputs, gradient, out=self.last.gradients[-1][:, : gradient.shape[1]])
            torch.sum(terms, 1, keepdim=True, out=out.transpose(1, 2))
        elif self.transposed:
            self._product(gradient.transpose(1, 2), inputs, out.transpose(1, 2))
        else:
            self._product(inputs.transpose(1, 2), gradient, out)

    def input_gradient(self, gradient_NBK: Tensor, columns: int) -> Tensor:
        """Gradient of the last ``columns`` inputs ``[B, columns]``, summed over the networks; none of weights is
        written.
        """
        gradient = gradient_NBK
        for i in range(len(self.weights) - 1, 0, -1):
            gradient = self._through_relu(i, gradient)
        return torch.bmm(gradient, self.weights[0][:, -columns:].transpose(1, 2)).sum(0)

    def _product(self, a: Tensor, b: Tensor, out: Tensor) -> Tensor:
        """``a b``, written to ``out``."""
        if self.low and a[0].numel() * b.shape[2] >= LARGE:
            return out.copy_(torch.bmm(a.bfloat16(), b.bfloat16()))
        return torch.bmm(a, b, out=out)

    def _through_relu(self, i: int, gradient: Tensor) -> Tensor:
        """From the outputs of layer i to those of the layer below, through its ReLU."""
        rows = gradient.shape[1]
        units, below = self.last.units[i - 1][:, :rows], self.last.gradients[i - 1][:, :rows]
        if gradient.shape[-1] == 1:
            torch.mul(gradient, self.weights[i].transpose(1, 2), out=below)
        else:
            self._product(gradient, self.weights[i].transpose(1, 2), below)
        return torch.ops.aten.threshold_backward(below, units, 0, grad_input=below)

    def _buffers(self, rows: int) -> _Buffers:
        if rows not in self.buffers:
            widths = [weight.shape[-1] for weight in self.weights]
            units, gradients = ([self.weights_P.new_empty(self.count, rows, w) for w in widths] for _ in range(2))
            self.buffers[rows] = _Buffers(units[:-1], gradients[:-1], units[-1])
        return self.buffers[rows]


def _parts_of(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Views of ``vector``, one for each of ``like`` and of its shape."""
    return [part.view(p.shape) for part, p in zip(vector.split([p.numel() for p in like]), like)]


def _layers(parts: list[Tensor], transposed: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Weights ``[N, in, out]`` and biases ``[N, 1, out]`` of each layer, as views of ``parts`` in parameter order."""
    if transposed:
        return [weight.T[None] for weight in parts[::2]], [bias[None, None] for bias in parts[1::2]]
    half = len(parts) // 2
    return parts[:half], parts[half:]
