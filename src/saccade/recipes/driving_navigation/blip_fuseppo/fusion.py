"""Fusion of several sensors into one row of features: pictures, vectors and captions of token ids, joined and mixed.

The sizes are those of the network that came with BLIP-FusePPO (2510.22370): three convolutions of 3 x 3 with stride 2,
one linear layer a vector, an embedding of 32 numbers a token, 128 features. The position of a marking in the picture
matters: nothing is pooled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from gymnasium import spaces
from torch import Tensor, nn

from saccade.math.pixels import to_float
from saccade.models.control.networks import MLP, FeatureExtractor, orthogonal
from saccade.policies.actor_critic import ActorCritic, Gaussian
from saccade.random import initialized

TOKEN_FEATURES = 32
"""Numbers in the embedding of a token."""

SCALAR_FEATURES = 16
"""Features of a vector of one number."""


class Fusion(FeatureExtractor):
    """Observations by name ``[N, ...]`` to features ``[N, size]``: uint8 pictures, float vectors, token ids.

    ``width`` is the number of features of each vector and of each caption. ValueError for any other space, and for
    pictures that are too small.
    """

    def __init__(self, space: spaces.Dict, size: int = 128, width: int = 64, channels: Sequence[int] = (32, 64, 64)):
        super().__init__()
        self.size = size
        parts = {name: _part(name, part, width, channels) for name, part in space.spaces.items()}
        self.parts = nn.ModuleDict({name: network for name, (network, _) in parts.items()})
        features = sum(part_features for _, part_features in parts.values())
        self.mix = nn.Sequential(orthogonal(nn.Linear(features, size)), nn.ReLU())

    def forward(self, observation: Mapping[str, Tensor]) -> Tensor:
        # Copied, since an environment's arrays begin at any address, and products may round otherwise at another one.
        parts = [part(observation[name].clone()) for name, part in self.parts.items()]
        return self.mix(torch.cat(parts, -1))

    def update_statistics(self, observation: Mapping[str, Tensor]) -> None:
        """Do nothing: there are no running means."""


class PictureEncoder(nn.Module):
    """Pictures uint8 ``[N, H, W, C]`` to ``[N, features]``: convolutions of 3 x 3 with stride 2, each with a ReLU."""

    def __init__(self, shape: Sequence[int], channels: Sequence[int]):
        super().__init__()
        height, width, below = shape
        layers: list[nn.Module] = []
        for above in channels:
            layers += [orthogonal(nn.Conv2d(below, above, 3, 2)), nn.ReLU()]
            height, width, below = (height - 1) // 2, (width - 1) // 2, above
        self.features = height * width * below
        self.layers = nn.Sequential(*layers)

    def forward(self, picture_N: Tensor) -> Tensor:
        return self.layers(to_float(picture_N)).flatten(1)


def _part(name: str, space: spaces.Space, width: int, channels: Sequence[int]) -> tuple[nn.Module, int]:
    """The network of one observation, and the number of its features."""
    if isinstance(space, spaces.Box) and space.dtype == "uint8" and len(space.shape) == 3:
        if min(space.shape[:2]) < 2 ** (len(channels) + 1) - 1:
            size = f"{space.shape[0]} x {space.shape[1]}"
            raise ValueError(f"observation '{name}' has {size} pixels, too few for {len(channels)} convolutions")
        encoder = PictureEncoder(space.shape, channels)
        return encoder, encoder.features
    if isinstance(space, spaces.MultiDiscrete):
        embedding, numbers = nn.Embedding(int(space.nvec.max()), TOKEN_FEATURES), len(space.nvec) * TOKEN_FEATURES
        return nn.Sequential(embedding, nn.Flatten(), orthogonal(nn.Linear(numbers, width)), nn.ReLU()), width
    if isinstance(space, spaces.Box) and space.dtype.kind == "f":
        numbers = math.prod(space.shape)
        features = SCALAR_FEATURES if numbers == 1 else width
        return nn.Sequential(nn.Flatten(), orthogonal(nn.Linear(numbers, features)), nn.ReLU()), features
    raise ValueError(
        f"observation '{name}' is {space}; supported are uint8 pictures, float vectors and MultiDiscrete token ids"
    )


def build_fusion_policy(
    observation: spaces.Dict, action: spaces.Box, channels: tuple[int, ...], log_std: float, seed: int
) -> ActorCritic:
    """An actor-critic of one layer each on the fusion of all observations, its weights initialized from ``seed``."""
    with initialized(seed, "actor and critic"):
        trunk, head = Fusion(observation, channels=channels), Gaussian(action.shape[0], log_std)
        actor, critic = MLP((trunk.size, head.outputs), gain=0.01), MLP((trunk.size, 1))
    return ActorCritic(trunk, actor, critic, head)
