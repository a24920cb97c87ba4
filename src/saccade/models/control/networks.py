"""Networks of those who act on what they see: a perceptron, an encoder of pictures, an encoder of observations by name.

Weights are orthogonal, as policy gradients need them; the convolutions "nature" are those of DQN on Atari.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from gymnasium import spaces
from torch import Tensor, nn

from saccade.math.pixels import to_unit

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "silu": nn.SiLU, "elu": nn.ELU}

CONVOLUTIONS = {
    "nature": ((32, 8, 4), (64, 4, 2), (64, 3, 1)),
    "small": ((16, 4, 2), (32, 4, 2), (32, 3, 1)),
}
"""Channels, kernel and stride of each convolution; "nature" is for pictures of 84 pixels, "small" for 20 to 64."""

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def orthogonal(layer: Layer, gain: float = math.sqrt(2)) -> Layer:
    """The same layer with orthogonal weights times ``gain`` and no bias."""
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class MLP(nn.Module):
    """``[N, sizes[0]] -> [N, sizes[-1]]``; the activation, with ``norm`` behind a LayerNorm, follows every layer but
    the last.

    ``gain`` is that of the last layer's weights: 0.01 lets a policy begin with hardly a preference, 1 suits values.
    """

    def __init__(self, sizes: Sequence[int], activation: str = "tanh", norm: bool = False, gain: float = 1.0):
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation '{activation}': one of {', '.join(ACTIVATIONS)}")
        self.sizes, self.activation, self.norm = tuple(sizes), activation, norm
        layers: list[nn.Module] = []
        for width, wider in zip(sizes[:-2], sizes[1:-1]):
            layers += [
                orthogonal(nn.Linear(width, wider)),
                *([nn.LayerNorm(wider)] if norm else []),
                ACTIVATIONS[activation](),
            ]
        self.layers = nn.Sequential(*layers, orthogonal(nn.Linear(sizes[-2], sizes[-1]), gain))

    def forward(self, x_NF: Tensor) -> Tensor:
        return self.layers(x_NF)


class Pixels(nn.Module):
    """Pictures uint8 ``[N, H, W, C]`` to ``[N, features]``: convolutions, then one linear layer, each with a ReLU."""

    def __init__(self, shape: Sequence[int], features: int = 512, convolutions: str = "nature"):
        super().__init__()
        if convolutions not in CONVOLUTIONS:
            raise ValueError(f"unknown convolutions '{convolutions}': one of {', '.join(CONVOLUTIONS)}")
        height, width, below = shape
        layers: list[nn.Module] = []
        for channels, kernel, stride in CONVOLUTIONS[convolutions]:
            layers += [orthogonal(nn.Conv2d(below, channels, kernel, stride)), nn.ReLU()]
            height, width, below = (height - kernel) // stride + 1, (width - kernel) // stride + 1, channels
        if min(height, width) < 1:
            raise ValueError(f"convolutions '{convolutions}' leave nothing of pictures of {shape[0]} x {shape[1]}")
        # Pictures come with their channels last, which is the faster layout on a CPU. Weights keep the usual one: what
        # an
        # optimiser remembers of them would lose the other when it is saved.
        self.convolutions = nn.Sequential(*layers)
        self.features = nn.Sequential(nn.Flatten(), orthogonal(nn.Linear(height * width * below, features)), nn.ReLU())

    def forward(self, picture_N: Tensor) -> Tensor:
        return self.features(self.convolutions(to_unit(picture_N)))


class RunningMeanStd(nn.Module):
    """Numbers ``[N, D]`` less their running mean over their running spread, clipped to +-10; `follow` lets both run."""

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(size, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def forward(self, x_ND: Tensor) -> Tensor:
        mean, spread = self.mean.to(x_ND.dtype), (self.variance + 1e-8).sqrt().to(x_ND.dtype)
        return ((x_ND - mean) / spread).clamp(-10, 10)

    @torch.no_grad()
    def update_statistics(self, x_ND: Tensor) -> None:
        """Take rows into mean and spread, which are then those of all rows ever taken in."""
        x_ND, seen = x_ND.double(), self.count + len(x_ND)
        gap = x_ND.mean(0) - self.mean
        between = gap**2 * self.count * len(x_ND) / seen
        self.variance.copy_((self.variance * self.count + x_ND.var(0, correction=0) * len(x_ND) + between) / seen)
        self.mean.add_(gap * len(x_ND) / seen)
        self.count.copy_(seen)


class Encoder(nn.Module):
    """Observations by name to one row of ``size`` features: pictures, vectors and integer ids, joined in the order of
    names.

    Pictures (uint8, channels last) go through `Pixels`, ids through an embedding of ``width`` numbers, vectors through
    a linear layer of ``width`` or, where that is 0, as they are. ``standardise`` keeps vectors near mean 0 and spread
    1. ``plain``: the features are the vectors themselves. ValueError for any other space.
    """

    def __init__(
        self,
        space: spaces.Dict,
        width: int = 0,
        features: int = 512,
        convolutions: str = "nature",
        standardise: bool = False,
    ):
        super().__init__()
        self.parts, self.scales, self.size = nn.ModuleDict(), nn.ModuleDict(), 0
        for name, part in space.spaces.items():
            self.parts[name], size = _part(name, part, width, features, convolutions)
            self.size += size
            if standardise and _is_vector(part):
                self.scales[name] = RunningMeanStd(math.prod(part.shape))

        self.plain = not self.scales and all(isinstance(part, nn.Flatten) for part in self.parts.values())

    def forward(self, seen: Mapping[str, Tensor]) -> Tensor:
        """``[N, ...]`` by name -> ``[N, size]``."""
        parts = [part(self._scaled(name, seen[name])) for name, part in self.parts.items()]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def update_statistics(self, seen: Mapping[str, Tensor]) -> None:
        """Take what was seen into the running means and spreads."""
        for name, scale in self.scales.items():
            scale.update_statistics(seen[name].flatten(1))

    def _scaled(self, name: str, x: Tensor) -> Tensor:
        return self.scales[name](x.flatten(1)) if name in self.scales else x


def _is_vector(space: spaces.Space) -> bool:
    return isinstance(space, spaces.Box) and space.dtype.kind == "f"


def _part(name: str, space: spaces.Space, width: int, features: int, convolutions: str) -> tuple[nn.Module, int]:
    """The network of one named observation, and how many features it gives."""
    if isinstance(space, spaces.Box) and space.dtype == "uint8" and len(space.shape) == 3:
        return Pixels(space.shape, features, convolutions), features
    if isinstance(space, spaces.Discrete):
        return nn.Embedding(int(space.n), width or 32), width or 32
    if _is_vector(space):
        size = math.prod(space.shape)
        return (
            (nn.Sequential(nn.Flatten(), orthogonal(nn.Linear(size, width))), width) if width else (nn.Flatten(), size)
        )
    raise ValueError(
        f"observation '{name}' is {space}; known are uint8 pictures [H, W, C], float vectors and Discrete ids"
    )
