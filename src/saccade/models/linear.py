"""Linear layers of a network on a CPU by oneDNN, up to twice as fast as the library that torch takes for float32."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def can_use_onednn(layer: nn.Module) -> bool:
    """Whether a module is a plain linear layer in float32 on a CPU, and torch was built with oneDNN."""
    if not (torch.backends.mkldnn.is_available() and type(layer) is nn.Linear):
        return False
    weight = layer.weight  # not one of a sharded layer, nor what stands in for a weight
    return type(weight) in (Tensor, nn.Parameter) and (weight.device.type, weight.dtype) == ("cpu", torch.float32)


@contextlib.contextmanager
def onednn_linears(network: nn.Module) -> Iterator[nn.Module]:
    """Within it, linear layers in float32 on a CPU are computed by oneDNN, with or without gradients.

    Results equal those of torch's own layers within rounding; the backward pass has first derivatives alone. Under
    autocast nothing changes.
    """
    lower = torch.is_autocast_enabled("cpu")
    layers = [layer for layer in network.modules() if not lower and can_use_onednn(layer)]
    with replaced_forwards({layer: partial(_linear, layer) for layer in layers}):
        yield network


@contextlib.contextmanager
def replaced_forwards(forwards: dict[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Within it, modules compute other functions."""
    before = {layer: vars(layer).get("forward") for layer in forwards}
    for layer, forward in forwards.items():
        layer.forward = forward
    try:
        yield
    finally:
        for layer, forward in before.items():
            if forward is None:
                del layer.forward
            else:
                layer.forward = forward


def linear_gelu(layer: Any, x: Tensor) -> Tensor:
    """The GELU (by tanh) of a linear layer's output in one pass, without gradients."""
    return torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, "gelu", [], "tanh")


def _linear(layer: Any, x: Tensor) -> Tensor:
    return _Linear.apply(x, layer.weight, layer.bias)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias for ``[..., K]`` and ``[N, K]``."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _Linear(torch.autograd.Function):
    """x W^T + b."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:  # pyrefly: ignore[bad-override]
        (grad,), (x, weight) = grads, ctx.saved_tensors
        of_input, of_weight, of_bias = ctx.needs_input_grad
        rows = grad.flatten(0, -2)
        return (
            _product(grad, weight.t()) if of_input else None,
            _product(rows.t(), x.flatten(0, -2).t()) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )
