"""Networks of control policies: a perceptron, an encoder of pictures, an encoder of observations by name.

Weights are initialized orthogonally, as policy gradients need them; the convolutions "nature" are DQN's for Atari.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TypeVar

import torch
from gymnasium import spaces
from torch import Tensor, nn

from saccade.math.pixels import to_float

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "silu": nn.SiLU, "elu": nn.ELU}

CONVOLUTIONS = {
    "nature": ((32, 8, 4), (64, 4, 2), (64, 3, 1)),
    "small": ((16, 4, 2), (32, 4, 2), (32, 3, 1)),
}
"""Channels, kernel and stride of each convolution; "nature" is for pictures of 84 pixels, "small" for 20 to 64."""

EMBEDDING = 32
"""Features of a Discrete observation where vectors have none of their own."""

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def orthogonal(layer: Layer, gain: float = math.sqrt(2)) -> Layer:
    """The same layer with orthogonal weights times ``gain`` and zero biases."""
    nn.init.orthogonal_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class MLP(nn.Module):
    """``[N, sizes[0]] -> [N, sizes[-1]]``; the activation follows every layer but the last, with ``norm`` a LayerNorm
    before it.

    ``gain`` is that of the last layer's weights: 0.01 starts a policy with hardly a preference, 1 suits values.
    """

    def __init__(self, sizes: Sequence[int], activation: str = "tanh", norm: bool = False, gain: float = 1.0):
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation '{activation}': one of {', '.join(ACTIVATIONS)}")
        self.sizes, self.activation, self.norm = tuple(sizes), activation, norm
        layers: list[nn.Module] = []
        for width, next_width in pairwise(sizes[:-1]):
            layers.append(orthogonal(nn.Linear(width, next_width)))
            if norm:
                layers.append(nn.LayerNorm(next_width))
            layers.append(ACTIVATIONS[activation]())
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
        # Pictures come with their channels last, which is the faster layout on a CPU. Weights keep the usual layout:
        # an optimizer's moments would lose the other one when they are saved.
        self.convolutions = nn.Sequential(*layers)
        self.features = nn.Sequential(nn.Flatten(), orthogonal(nn.Linear(height * width * below, features)), nn.ReLU())

    def forward(self, picture_N: Tensor) -> Tensor:
        return self.features(self.convolutions(to_float(picture_N)))


class RunningMeanStd(nn.Module):
    """Numbers ``[N, D]`` normalized by their running mean and standard deviation and clipped to +-10.

    `update_statistics` alone changes the running values.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(size, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def forward(self, x_ND: Tensor) -> Tensor:
        mean, std = self.mean.to(x_ND.dtype), (self.variance + 1e-8).sqrt().to(x_ND.dtype)
        return ((x_ND - mean) / std).clamp(-10, 10)

    @torch.no_grad()
    def update_statistics(self, x_ND: Tensor) -> None:
        """Add rows ``[N, D]`` to the mean and variance, which are then those of all rows ever added."""
        x_ND, total = x_ND.double(), self.count + len(x_ND)
        gap = x_ND.mean(0) - self.mean
        between = gap**2 * self.count * len(x_ND) / total
        self.variance.copy_((self.variance * self.count + x_ND.var(0, correction=0) * len(x_ND) + between) / total)
        self.mean.add_(gap * len(x_ND) / total)
        self.count.copy_(total)


class FeatureExtractor(nn.Module):
    """The interface of networks that turn observations by name into one row of ``size`` features."""

    parts: nn.ModuleDict
    """A network for each observation, by its name; their features are joined in this order."""
    size: int
    plain: bool = False
    """Whether the features are the observed vectors themselves, so that nothing must be computed."""

    def update_statistics(self, observation: Mapping[str, Tensor]) -> None:
        """Add observations ``[N, ...]`` to running means, where the network has any."""
        raise NotImplementedError


class Encoder(FeatureExtractor):
    """Observations by name to one row of ``size`` features: pictures, vectors and ids, in the order of names.

    Pictures (uint8, channels last) go through `Pixels` with ``picture_features``, ids through an embedding of
    ``vector_features`` numbers, vectors through a linear layer of ``vector_features`` or, where that is 0, unchanged.
    ``normalize`` keeps vectors near mean 0 and standard deviation 1. ValueError for any other space.
    """

    def __init__(
        self,
        space: spaces.Dict,
        vector_features: int = 0,
        picture_features: int = 512,
        convolutions: str = "nature",
        normalize: bool = False,
    ):
        super().__init__()
        self.parts, self.scales, self.size = nn.ModuleDict(), nn.ModuleDict(), 0
        for name, part in space.spaces.items():
            self.parts[name], size = _part(name, part, vector_features, picture_features, convolutions)
            self.size += size
            if normalize and _is_vector(part):
                self.scales[name] = RunningMeanStd(math.prod(part.shape))
        self.plain = not self.scales and all(isinstance(part, nn.Flatten) for part in self.parts.values())

    def forward(self, observation: Mapping[str, Tensor]) -> Tensor:
        """``[N, ...]`` by name -> ``[N, size]``."""
        parts = [part(self._normalized(name, observation[name])) for name, part in self.parts.items()]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def update_statistics(self, observation: Mapping[str, Tensor]) -> None:
        """Add observations to the running means and standard deviations."""
        for name, scale in self.scales.items():
            scale.update_statistics(observation[name].flatten(1))

    def _normalized(self, name: str, x: Tensor) -> Tensor:
        return self.scales[name](x.flatten(1)) if name in self.scales else x


def _is_vector(space: spaces.Space) -> bool:
    return isinstance(space, spaces.Box) and space.dtype.kind == "f"


def _part(
    name: str, space: spaces.Space, vector_features: int, picture_features: int, convolutions: str
) -> tuple[nn.Module, int]:
    """The network of one observation, and the number of its features."""
    if isinstance(space, spaces.Box) and space.dtype == "uint8" and len(space.shape) == 3:
        return Pixels(space.shape, picture_features, convolutions), picture_features
    if isinstance(space, spaces.Discrete):
        width = vector_features or EMBEDDING
        return nn.Embedding(int(space.n), width), width
    if _is_vector(space):
        size = math.prod(space.shape)
        if not vector_features:
            return nn.Flatten(), size
        return nn.Sequential(nn.Flatten(), orthogonal(nn.Linear(size, vector_features))), vector_features
    raise ValueError(
        f"observation '{name}' is {space}; supported are uint8 pictures [H, W, C], float vectors and Discrete ids"
    )
