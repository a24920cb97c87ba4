"""Networks that plan a chunk of actions: from vectors, or from vectors and camera views."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from gymnasium import spaces
from torch import Tensor, nn

from saccade.math.pixels import to_unit


class Standard(nn.Module):
    """Vectors of what is seen, joined, each number less its mean and over its deviation in the demonstrations."""

    def __init__(self, space: spaces.Dict):
        super().__init__()
        self.names = [name for name, part in space.items() if part.dtype.kind == "f"]
        self.width = sum(space[name].shape[0] for name in self.names)
        self.register_buffer("mean", torch.zeros(self.width))
        self.register_buffer("deviation", torch.ones(self.width))

    def fit(self, seen: Mapping[str, Tensor]) -> None:
        """Take mean and deviation from these rows; numbers that hardly change are left at their scale."""
        joined = self._joined(seen)
        self.mean.copy_(joined.mean(0))
        deviation = joined.std(0)
        self.deviation.copy_(torch.where(deviation > 1e-3, deviation, torch.ones_like(deviation)))

    def forward(self, seen: Mapping[str, Tensor]) -> Tensor:
        return (self._joined(seen) - self.mean) / self.deviation

    def _joined(self, seen: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([seen[name].float() for name in self.names], 1)


class ChunkMLP(nn.Module):
    """Two hidden layers from the vectors that are seen to ``[B, length, actions]``. ValueError where pictures are
    seen.
    """

    def __init__(self, space: spaces.Dict, actions: int, length: int, width: int = 128):
        super().__init__()
        self.standard = Standard(space)
        if len(self.standard.names) < len(space):
            raise ValueError("the perceptron plans from vectors alone; take the transformer where pictures are seen")
        self.shape = (length, actions)
        self.body = nn.Sequential(nn.Linear(self.standard.width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.head = nn.Linear(width, length * actions)

    def forward(self, seen: Mapping[str, Tensor]) -> Tensor:
        return self.head(self.body(self.standard(seen))).view(-1, *self.shape)


class ChunkTransformer(nn.Module):
    """Action-chunking transformer: vectors are one token, each camera its patches; one learned query an action asks
    them all.

    The latent of style that ACT infers from whole demonstrations is left out; at test time it is zero there too.
    """

    def __init__(
        self,
        space: spaces.Dict,
        actions: int,
        length: int,
        width: int = 128,
        depth: int = 2,
        heads: int = 4,
        patch: int = 8,
    ):
        super().__init__()
        self.standard = Standard(space)
        self.vectors = nn.Linear(self.standard.width, width)
        self.cameras = nn.ModuleDict(
            {n: Patches(part.shape, patch, width, 1, heads) for n, part in space.items() if part.dtype.kind == "u"}
        )
        self.encoder = nn.ModuleList(layer(width, heads) for _ in range(depth))
        self.decoder = nn.ModuleList(
            nn.TransformerDecoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(depth)
        )
        self.query = nn.Parameter(torch.randn(1, length, width) * 0.02)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, actions)

    def forward(self, seen: Mapping[str, Tensor]) -> Tensor:
        tokens = [self.vectors(self.standard(seen))[:, None], *(cut(seen[name]) for name, cut in self.cameras.items())]
        memory = torch.cat(tokens, 1)
        for one in self.encoder:
            memory = one(memory)
        asked = self.query.expand(len(memory), -1, -1)
        for one in self.decoder:
            asked = one(asked, memory)
        return self.head(self.norm(asked))


class Patches(nn.Module):
    """Pictures uint8 ``[B, H, W, C]`` to tokens ``[B, N, width]``, N patches; ValueError for sides that patches do
    not fill.
    """

    def __init__(self, shape: tuple[int, int, int], patch: int = 8, width: int = 128, depth: int = 1, heads: int = 4):
        super().__init__()
        high, wide, channels = shape
        if high % patch or wide % patch:
            raise ValueError(f"a picture of {high} x {wide} pixels is not filled by patches of {patch} x {patch}")
        self.count = (high // patch) * (wide // patch)
        self.cut = nn.Conv2d(channels, width, patch, patch)
        self.place = nn.Parameter(torch.randn(1, self.count, width) * 0.02)
        self.layers = nn.ModuleList(layer(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, picture: Tensor) -> Tensor:
        pixels = to_unit(picture) - 0.5
        tokens = self.cut(pixels).flatten(2).transpose(1, 2) + self.place
        for one in self.layers:
            tokens = one(tokens)
        return self.norm(tokens)


class Views(nn.Module):
    """All that is seen as one vector ``[B, size]``: of each camera, and of the vectors alone.

    Each channel of a camera's patches is read together with the vectors by one shared linear map; the channels are then
    added up with weights of their own, so that where something is stays known.
    """

    def __init__(
        self,
        space: spaces.Dict,
        features: int = 128,
        patch: int = 8,
        channels: int = 128,
        depth: int = 1,
        heads: int = 4,
    ):
        super().__init__()
        self.cameras = [name for name, part in space.items() if part.dtype.kind == "u"]
        self.vectors = [name for name in space if name not in self.cameras]
        beside = sum(space[name].shape[0] for name in self.vectors)
        self.patches = nn.ModuleDict({n: Patches(space[n].shape, patch, channels, depth, heads) for n in self.cameras})
        self.read = nn.ModuleDict({n: _reader(part.count + beside, features) for n, part in self.patches.items()})
        self.weights = nn.ParameterDict({n: nn.Parameter(torch.randn(channels, features) * 0.02) for n in self.cameras})
        self.alone = nn.Sequential(nn.Linear(beside, features), nn.LayerNorm(features), nn.ReLU())
        self.size = features * (len(self.cameras) + 1)

    def forward(self, seen: Mapping[str, Tensor]) -> Tensor:
        beside = torch.cat([seen[name].float() for name in self.vectors], 1)
        return torch.cat([*(self._view(name, seen[name], beside) for name in self.cameras), self.alone(beside)], 1)

    def _view(self, name: str, picture: Tensor, beside: Tensor) -> Tensor:
        channels = self.patches[name](picture).transpose(1, 2)
        joined = torch.cat([channels, beside[:, None].expand(-1, channels.shape[1], -1)], 2)
        return (self.read[name](joined) * self.weights[name]).sum(1)


def layer(width: int, heads: int) -> nn.TransformerEncoderLayer:
    """One transformer layer, norms first, without dropout."""
    return nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)


def _reader(size: int, features: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, features), nn.LayerNorm(features), nn.ReLU())
