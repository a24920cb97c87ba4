"""Two tanh perceptrons of one shape, an actor and a critic, whose weights lie in one vector and whose gradient is
written out.

On a processor core a network of 64 units is all overhead: here a batch of 64 rows goes forwards and backwards through
both networks in about twenty calls of numpy into buffers that are kept. The modules' own weights become views of the
vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from saccade.models.control.networks import MLP


class Carved(NamedTuple):
    """Views of one vector: weights ``[2, out, in]`` and biases ``[2, 1, out]`` of each hidden layer of both, then
    the last layers.
    """

    hidden: list[tuple[np.ndarray, np.ndarray]]
    actor: tuple[np.ndarray, np.ndarray]
    critic: tuple[np.ndarray, np.ndarray]
    more: list[np.ndarray]


@dataclass
class _Room:
    """Buffers for so many rows: units and their slopes of each hidden layer ``[2, N, width]``, and what comes out."""

    units: list[np.ndarray]
    slopes: list[np.ndarray]
    out: np.ndarray
    value: np.ndarray


def fits(actor: nn.Module, critic: nn.Module) -> bool:
    """Whether a twin can hold both: tanh perceptrons of the same hidden layers, without norm, in float32 on a CPU."""
    both = isinstance(actor, MLP) and isinstance(critic, MLP)
    return (
        both
        and len(actor.sizes) > 2
        and actor.sizes[:-1] == critic.sizes[:-1]
        and critic.sizes[-1] == 1
        and all(net.activation == "tanh" and not net.norm for net in (actor, critic))
        and all(
            p.dtype == torch.float32 and p.device.type == "cpu" for net in (actor, critic) for p in net.parameters()
        )
    )


class FusedActorCritic:
    """``flat`` holds the weights of ``actor``, ``critic`` and ``more``, ``slope`` the gradient that `backward`
    found.
    """

    def __init__(self, actor: MLP, critic: MLP, more: Sequence[nn.Parameter] = ()):
        self.sizes, self.outputs = actor.sizes[:-1], actor.sizes[-1]
        self.more = [tuple(p.shape) for p in more]
        own = _in_order(actor, critic) + list(more)
        vector = torch.cat([p.detach().flatten() for p in own])
        for p, part in zip(own, vector.split([p.numel() for p in own])):
            p.data = part.view(p.shape)
        self.flat, self.slope = vector.numpy(), np.zeros(len(vector), np.float32)
        self.weights, self.slopes = self._carve(self.flat), self._carve(self.slope)
        self.rooms: dict[int, _Room] = {}

    def forward(self, x_NF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the actor ``[N, outputs]`` and the critic ``[N]`` say; both are overwritten by the next call with as
        many rows.
        """
        room = self._room(len(x_NF))
        below = x_NF[None]
        for (weight, bias), units in zip(self.weights.hidden, room.units):
            np.matmul(below, weight.transpose(0, 2, 1), out=units)
            units += bias
            np.tanh(units, out=units)
            below = units
        np.matmul(below[0], self.weights.actor[0].T, out=room.out)
        np.matmul(below[1], self.weights.critic[0][0], out=room.value)
        room.out += self.weights.actor[1]
        room.value += self.weights.critic[1]
        return room.out, room.value

    def backward(self, x_NF: np.ndarray, out_NK: np.ndarray, value_N: np.ndarray) -> None:
        """Write the gradient, given that of what `forward` last said of the same rows; it uses up what `forward`
        kept.
        """
        room = self._room(len(x_NF))
        self._last_layers(room, out_NK, value_N)
        for i in reversed(range(len(room.units))):
            units, slope, (weight, bias) = room.units[i], room.slopes[i], self.slopes.hidden[i]
            np.multiply(units, units, out=units)
            np.subtract(1, units, out=units)
            np.multiply(slope, units, out=slope)
            np.matmul(slope.transpose(0, 2, 1), room.units[i - 1] if i else x_NF[None], out=weight)
            np.add.reduce(slope, 1, out=bias, keepdims=True)
            if i:
                np.matmul(slope, self.weights.hidden[i][0], out=room.slopes[i - 1])

    def _last_layers(self, room: _Room, out_NK: np.ndarray, value_N: np.ndarray) -> None:
        (actor, actor_bias), (critic, critic_bias) = self.slopes.actor, self.slopes.critic
        np.matmul(out_NK.T, room.units[-1][0], out=actor)
        np.add.reduce(out_NK, 0, out=actor_bias)
        np.matmul(value_N, room.units[-1][1], out=critic[0])
        critic_bias[0] = value_N.sum()
        np.matmul(out_NK, self.weights.actor[0], out=room.slopes[-1][0])
        np.multiply(value_N[:, None], self.weights.critic[0], out=room.slopes[-1][1])

    def _carve(self, vector: np.ndarray) -> Carved:
        """``vector`` in the order of `_in_order`, each part in its shape."""
        place = 0

        def take(*shape: int) -> np.ndarray:
            nonlocal place
            part = vector[place : place + int(np.prod(shape))].reshape(shape)
            place += part.size
            return part

        hidden = [(take(2, wide, narrow), take(2, 1, wide)) for narrow, wide in zip(self.sizes, self.sizes[1:])]
        last = self.sizes[-1]
        return Carved(
            hidden,
            (take(self.outputs, last), take(self.outputs)),
            (take(1, last), take(1)),
            [take(*s) for s in self.more],
        )

    def _room(self, rows: int) -> _Room:
        if rows not in self.rooms:
            units, slopes = ([np.empty((2, rows, width), np.float32) for width in self.sizes[1:]] for _ in range(2))
            self.rooms[rows] = _Room(
                units, slopes, np.empty((rows, self.outputs), np.float32), np.empty(rows, np.float32)
            )
        return self.rooms[rows]


def _in_order(actor: MLP, critic: MLP) -> list[nn.Parameter]:
    """Layer by layer the weights of both, then their biases; then the last layers."""
    linear = [[layer for layer in net.layers if isinstance(layer, nn.Linear)] for net in (actor, critic)]
    hidden = [p for a, c in zip(linear[0][:-1], linear[1][:-1]) for p in (a.weight, c.weight, a.bias, c.bias)]
    return hidden + [p for layers in linear for p in (layers[-1].weight, layers[-1].bias)]
