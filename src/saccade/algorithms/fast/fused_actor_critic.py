"""Two tanh perceptrons of one shape, an actor and a critic, whose weights lie in one vector and whose gradient is
written by hand.

On one processor core the overhead of calls dominates a network of 64 units: here a batch of 64 rows goes forwards and
backwards through both networks in about twenty numpy calls, into buffers that are reused. The modules' weights become
views of the vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from saccade.models.control.networks import MLP
from saccade.policies.actor_critic import ActorCritic


class Parts(NamedTuple):
    """Views of one vector: weights ``[2, out, in]`` and biases ``[2, 1, out]`` of each hidden layer of both networks,
    then the last layers and the other parameters.
    """

    hidden: list[tuple[np.ndarray, np.ndarray]]
    actor: tuple[np.ndarray, np.ndarray]
    critic: tuple[np.ndarray, np.ndarray]
    others: list[np.ndarray]


@dataclass
class _Buffers:
    """Arrays for N rows: units and their gradients of each hidden layer ``[2, N, width]``, and the outputs."""

    units: list[np.ndarray]
    gradients: list[np.ndarray]
    output: np.ndarray
    value: np.ndarray


def fuse(policy: ActorCritic) -> FusedActorCritic | None:
    """The policy's actor and critic as one, on the same weights; None where their networks are others than these:
    float32 tanh perceptrons of the same hidden layers on a CPU, without LayerNorm, on a trunk without weights.
    """
    actor, critic = policy.actor, policy.critic
    perceptrons = isinstance(actor, MLP) and isinstance(critic, MLP)
    weightless = not list(policy.trunk.parameters()) and policy.model.precision == "float32"
    if not (perceptrons and weightless) or any(net.activation != "tanh" or net.norm for net in (actor, critic)):
        return None
    alike = len(actor.sizes) > 2 and actor.sizes[:-1] == critic.sizes[:-1] and critic.sizes[-1] == 1
    parameters = [*actor.parameters(), *critic.parameters()]
    if not alike or any(p.dtype != torch.float32 or p.device.type != "cpu" for p in parameters):
        return None
    return FusedActorCritic(actor, critic, list(policy.head.parameters()))


class FusedActorCritic:
    """``weights_P`` holds the weights of ``actor``, ``critic`` and ``others``, ``gradient_P`` the gradient that
    `backward` computed.
    """

    def __init__(self, actor: MLP, critic: MLP, others: Sequence[nn.Parameter] = ()):
        self.sizes, self.outputs = actor.sizes[:-1], actor.sizes[-1]
        self.other_shapes = [tuple(p.shape) for p in others]
        parameters = _in_order(actor, critic) + list(others)
        vector = torch.cat([p.detach().flatten() for p in parameters])
        for p, part in zip(parameters, vector.split([p.numel() for p in parameters])):
            p.data = part.view(p.shape)
        self.weights_P, self.gradient_P = vector.numpy(), np.zeros(len(vector), np.float32)
        self.weights, self.gradients = self._parts_of(self.weights_P), self._parts_of(self.gradient_P)
        self.buffers: dict[int, _Buffers] = {}

    def forward(self, x_NF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Outputs of the actor ``[N, outputs]`` and of the critic ``[N]``, overwritten by the next call with N rows."""
        buffers = self._buffers(len(x_NF))
        below = x_NF[None]
        for (weight, bias), units in zip(self.weights.hidden, buffers.units):
            np.matmul(below, weight.transpose(0, 2, 1), out=units)
            units += bias
            np.tanh(units, out=units)
            below = units
        np.matmul(below[0], self.weights.actor[0].T, out=buffers.output)
        np.matmul(below[1], self.weights.critic[0][0], out=buffers.value)
        buffers.output += self.weights.actor[1]
        buffers.value += self.weights.critic[1]
        return buffers.output, buffers.value

    def backward(self, x_NF: np.ndarray, output_NK: np.ndarray, value_N: np.ndarray) -> None:
        """Write the gradient, given that of the outputs of the last `forward` of these rows, whose units it
        overwrites.
        """
        buffers = self._buffers(len(x_NF))
        self._last_layers(buffers, output_NK, value_N)
        for i in reversed(range(len(buffers.units))):
            units, gradient, (weight, bias) = buffers.units[i], buffers.gradients[i], self.gradients.hidden[i]
            np.multiply(units, units, out=units)
            np.subtract(1, units, out=units)
            np.multiply(gradient, units, out=gradient)
            np.matmul(gradient.transpose(0, 2, 1), buffers.units[i - 1] if i else x_NF[None], out=weight)
            np.add.reduce(gradient, 1, out=bias, keepdims=True)
            if i:
                np.matmul(gradient, self.weights.hidden[i][0], out=buffers.gradients[i - 1])

    def _last_layers(self, buffers: _Buffers, output_NK: np.ndarray, value_N: np.ndarray) -> None:
        (actor, actor_bias), (critic, critic_bias) = self.gradients.actor, self.gradients.critic
        np.matmul(output_NK.T, buffers.units[-1][0], out=actor)
        np.add.reduce(output_NK, 0, out=actor_bias)
        np.matmul(value_N, buffers.units[-1][1], out=critic[0])
        critic_bias[0] = value_N.sum()
        np.matmul(output_NK, self.weights.actor[0], out=buffers.gradients[-1][0])
        np.multiply(value_N[:, None], self.weights.critic[0], out=buffers.gradients[-1][1])

    def _parts_of(self, vector: np.ndarray) -> Parts:
        """Views of ``vector`` in the order of `_in_order`, each in its shape."""
        start = 0

        def take(*shape: int) -> np.ndarray:
            nonlocal start
            part = vector[start : start + int(np.prod(shape))].reshape(shape)
            start += part.size
            return part

        hidden = [(take(2, wide, narrow), take(2, 1, wide)) for narrow, wide in pairwise(self.sizes)]
        last = self.sizes[-1]
        actor, critic = (take(self.outputs, last), take(self.outputs)), (take(1, last), take(1))
        return Parts(hidden, actor, critic, [take(*shape) for shape in self.other_shapes])

    def _buffers(self, rows: int) -> _Buffers:
        if rows not in self.buffers:
            units, gradients = ([np.empty((2, rows, width), np.float32) for width in self.sizes[1:]] for _ in range(2))
            output, value = np.empty((rows, self.outputs), np.float32), np.empty(rows, np.float32)
            self.buffers[rows] = _Buffers(units, gradients, output, value)
        return self.buffers[rows]


def _in_order(actor: MLP, critic: MLP) -> list[nn.Parameter]:
    """Layer by layer the weights of both networks, then their biases; then the last layers."""
    linear = [
        [list(layer.parameters()) for layer in net.layers if isinstance(layer, nn.Linear)] for net in (actor, critic)
    ]
    hidden = [p for a, c in zip(linear[0][:-1], linear[1][:-1]) for p in (a[0], c[0], a[1], c[1])]
    return hidden + [p for layers in linear for p in layers[-1]]
