"""Networks of ResFiT: planners of action chunks, and an encoder of vectors and camera views."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from gymnasium import spaces
from torch import Tensor, nn

from saccade.math.pixels import to_float


class Standardize(nn.Module):
    """The vectors of an observation, joined and standardized by their mean and deviation in the demonstrations."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, space: spaces.Dict):
        super().__init__()
        self.names = [name for name, part in space.items() if part.dtype.kind == "f"]
        self.width = sum(space[name].shape[0] for name in self.names)
        self.register_buffer("mean", torch.zeros(self.width))
        self.register_buffer("deviation", torch.ones(self.width))

    def fit(self, observation: Mapping[str, Tensor]) -> None:
        """Set mean and deviation to those of these rows; numbers that hardly change keep their scale."""
        joined = self._joined(observation)
        self.mean.copy_(joined.mean(0))
        deviation = joined.std(0)
        self.deviation.copy_(torch.where(deviation > 1e-3, deviation, torch.ones_like(deviation)))

    def forward(self, observation: Mapping[str, Tensor]) -> Tensor:
        return (self._joined(observation) - self.mean) / self.deviation

    def _joined(self, observation: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([observation[name].float() for name in self.names], 1)


class ChunkMLP(nn.Module):
    """Vectors to a chunk of actions ``[B, length, actions]``, with two hidden layers. ValueError for pictures."""

    def __init__(self, space: spaces.Dict, actions: int, length: int, width: int = 128):
        super().__init__()
        self.standardize = Standardize(space)
        if len(self.standardize.names) < len(space):
            raise ValueError("the perceptron plans from vectors alone; use the transformer for pictures")
        self.shape = (length, actions)
        self.body = nn.Sequential(
            nn.Linear(self.standardize.width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )
        self.head = nn.Linear(width, length * actions)

    def forward(self, observation: Mapping[str, Tensor]) -> Tensor:
        return self.head(self.body(self.standardize(observation))).view(-1, *self.shape)


class ChunkTransformer(nn.Module):
    """Action-chunking transformer (ACT): one token of vectors, patches of each camera, and a learned query per action.

    ACT's latent variable of style is left out; it is zero at test time.
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
        self.standardize = Standardize(space)
        self.vectors = nn.Linear(self.standardize.width, width)
        self.cameras = nn.ModuleDict(
            {
                n: PatchEmbedding(part.shape, patch, width, 1, heads)
                for n, part in space.items()
                if part.dtype.kind == "u"
            }
        )
        self.encoder = nn.ModuleList(transformer_layer(width, heads) for _ in range(depth))
        self.decoder = nn.ModuleList(
            nn.TransformerDecoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(depth)
        )
        self.query = nn.Parameter(torch.randn(1, length, width) * 0.02)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, actions)

    def forward(self, observation: Mapping[str, Tensor]) -> Tensor:
        patches = (embed(observation[name]) for name, embed in self.cameras.items())
        memory = torch.cat([self.vectors(self.standardize(observation))[:, None], *patches], 1)
        for layer in self.encoder:
            memory = layer(memory)
        query = self.query.expand(len(memory), -1, -1)
        for layer in self.decoder:
            query = layer(query, memory)
        return self.head(self.norm(query))


class PatchEmbedding(nn.Module):
    """Pictures uint8 ``[B, H, W, C]`` to a token for each of N patches ``[B, N, width]``.

    ValueError for sides that are not multiples of the patch.
    """

    def __init__(self, shape: tuple[int, int, int], patch: int = 8, width: int = 128, depth: int = 1, heads: int = 4):
        super().__init__()
        height, width_in_pixels, channels = shape
        if height % patch or width_in_pixels % patch:
            size = f"{height} x {width_in_pixels}"
            raise ValueError(f"a picture of {size} pixels cannot be divided into patches of {patch} x {patch}")
        self.count = (height // patch) * (width_in_pixels // patch)
        self.project = nn.Conv2d(channels, width, patch, patch)
        self.position = nn.Parameter(torch.randn(1, self.count, width) * 0.02)
        self.layers = nn.ModuleList(transformer_layer(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, picture: Tensor) -> Tensor:
        pixels = to_float(picture) - 0.5
        tokens = self.project(pixels).flatten(2).transpose(1, 2) + self.position
        for layer in self.layers:
            tokens = layer(tokens)
        return self.norm(tokens)


class ViewEncoder(nn.Module):
    """An observation to one vector ``[B, size]``: features of each camera with the vectors, and of the vectors alone.

    Each channel of a camera's patches is joined with the vectors and mapped by one shared linear layer; the channels
    are then summed with learned weights, so positions are kept.
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
        width = sum(space[name].shape[0] for name in self.vectors)
        patches = {n: PatchEmbedding(space[n].shape, patch, channels, depth, heads) for n in self.cameras}
        self.patches = nn.ModuleDict(patches)
        self.mix = nn.ModuleDict({n: _features(part.count + width, features) for n, part in patches.items()})
        self.weights = nn.ParameterDict({n: nn.Parameter(torch.randn(channels, features) * 0.02) for n in self.cameras})
        self.vector_features = _features(width, features)
        self.size = features * (len(self.cameras) + 1)

    def forward(self, observation: Mapping[str, Tensor]) -> Tensor:
        vectors = torch.cat([observation[name].float() for name in self.vectors], 1)
        views = [self._view(name, observation[name], vectors) for name in self.cameras]
        return torch.cat([*views, self.vector_features(vectors)], 1)

    def _view(self, name: str, picture: Tensor, vectors: Tensor) -> Tensor:
        channels = self.patches[name](picture).transpose(1, 2)
        joined = torch.cat([channels, vectors[:, None].expand(-1, channels.shape[1], -1)], 2)
        return (self.mix[name](joined) * self.weights[name]).sum(1)


def transformer_layer(width: int, heads: int) -> nn.TransformerEncoderLayer:
    """A transformer layer with norms first and without dropout."""
    return nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)


def _features(size: int, features: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, features), nn.LayerNorm(features), nn.ReLU())
