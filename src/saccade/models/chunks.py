"""Networks that plan several actions at once from what is seen: a perceptron for vectors, a transformer for pictures too."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from gymnasium import spaces
from torch import Tensor, nn

from saccade.models.views import Patches, layer


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
    """Two hidden layers from the vectors that are seen to ``[B, length, actions]``. ValueError where pictures are seen."""

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
    """Action-chunking transformer: vectors are one token, each camera its patches; one learned query an action asks them all.

    The latent of style that ACT infers from whole demonstrations is left out; at test time it is zero there too.
    """

    def __init__(
        self, space: spaces.Dict, actions: int, length: int, width: int = 128, depth: int = 2, heads: int = 4, patch: int = 8
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
