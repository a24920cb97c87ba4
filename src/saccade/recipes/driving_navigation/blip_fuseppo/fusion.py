"""What several sensors show, as one row of features: pictures, vectors and captions of token ids, joined and mixed.

The sizes are those of the network that came with BLIP-FusePPO (2510.22370): three convolutions of 3 x 3 with stride 2,
one linear layer a vector, an embedding of 32 numbers a token, 128 features. Where a marking stands matters: nothing is
pooled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from gymnasium import spaces
from torch import Tensor, nn

from saccade.core import seeded
from saccade.math.pixels import to_unit
from saccade.models.control.networks import MLP, orthogonal
from saccade.policies.actor_critic import ActorCritic, Gaussian

EMBEDDING = 32
"""Numbers of a token."""

SCALAR = 16
"""Features of a vector of one number."""


class Fusion(nn.Module):
    """Observations by name ``[N, ...]`` to features ``[N, size]``: uint8 pictures, float vectors, MultiDiscrete token
    ids.

    ``width`` features for each vector and for each caption. ValueError for any other space, and for pictures that are
    too small.
    """

    def __init__(self, space: spaces.Dict, size: int = 128, width: int = 64, channels: Sequence[int] = (32, 64, 64)):
        super().__init__()
        self.size = size
        parts = {name: _part(name, part, width, channels) for name, part in space.spaces.items()}
        self.parts = nn.ModuleDict({name: network for name, (network, _) in parts.items()})
        self.mix = nn.Sequential(orthogonal(nn.Linear(sum(wide for _, wide in parts.values()), size)), nn.ReLU())

    def forward(self, seen: Mapping[str, Tensor]) -> Tensor:
        # Copied, since arrays of an environment begin at any address, and a product may round otherwise at another one.
        return self.mix(torch.cat([part(seen[name].clone()) for name, part in self.parts.items()], -1))

    def update_statistics(self, seen: Mapping[str, Tensor]) -> None:
        """Nothing here has running means."""


class Sight(nn.Module):
    """Pictures uint8 ``[N, H, W, C]`` through convolutions of 3 x 3 with stride 2, each with a ReLU, to ``[N,
    features]``.
    """

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
        return self.layers(to_unit(picture_N)).flatten(1)


def _part(name: str, space: spaces.Space, width: int, channels: Sequence[int]) -> tuple[nn.Module, int]:
    """The network of one named observation, and how many features it gives."""
    if isinstance(space, spaces.Box) and space.dtype == "uint8" and len(space.shape) == 3:
        if min(space.shape[:2]) < 2 ** (len(channels) + 1) - 1:
            size = f"{space.shape[0]} x {space.shape[1]}"
            raise ValueError(f"observation '{name}' has {size} pixels, too few for {len(channels)} convolutions")
        sight = Sight(space.shape, channels)
        return sight, sight.features
    if isinstance(space, spaces.MultiDiscrete):
        embedding, numbers = nn.Embedding(int(space.nvec.max()), EMBEDDING), len(space.nvec) * EMBEDDING
        return nn.Sequential(embedding, nn.Flatten(), orthogonal(nn.Linear(numbers, width)), nn.ReLU()), width
    if isinstance(space, spaces.Box) and space.dtype.kind == "f":
        numbers = math.prod(space.shape)
        wide = SCALAR if numbers == 1 else width
        return nn.Sequential(nn.Flatten(), orthogonal(nn.Linear(numbers, wide)), nn.ReLU()), wide
    raise ValueError(
        f"observation '{name}' is {space}; known are uint8 pictures, float vectors and MultiDiscrete token ids"
    )


def fused(seen: spaces.Dict, action: spaces.Box, channels: tuple[int, ...], log_std: float, seed: int) -> ActorCritic:
    """An actor-critic of one layer each on a fusion of all that an environment shows, its weights drawn from
    ``seed``.
    """
    with seeded(seed):
        trunk, head = Fusion(seen, channels=channels), Gaussian(action.shape[0], log_std)
        actor, critic = MLP((trunk.size, head.outputs), gain=0.01), MLP((trunk.size, 1))
    return ActorCritic(trunk, actor, critic, head)
