"""A small convolutional critic: which of some kinds of things a picture shows, smooth in its pixels or its noisy latents."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Critic(nn.Module):
    """Pictures ``[B, C, H, W]`` -> logits ``[B, K]``: how sure it is that each kind is somewhere to be seen.

    Pictures are RGB in [0, 1] and halved twice, or, with other ``channels``, latents that are small already. Then comes a
    logit for each kind at each place, joined by log-sum-exp, so that a thing counts wherever it lies.
    """

    def __init__(self, kinds: int, width: int = 24, channels: int = 3):
        super().__init__()
        self.pixels = channels == 3
        halving = 2 if self.pixels else 1
        shapes = (
            (channels, width, 5, halving), (width, 2 * width, 3, halving), (2 * width, 2 * width, 3, 1), (2 * width, 2 * width, 3, 1),
        )  # fmt: skip
        self.eye = nn.ModuleList(nn.Conv2d(a, b, size, stride, size // 2) for a, b, size, stride in shapes)
        self.name = nn.Conv2d(2 * width, kinds, 1)
        for layer in self.eye:
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.name.bias, -7.5)  # most kinds are absent from most pictures, and places add up

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits of presence ``[B, K]``."""
        return torch.logsumexp(self.name(self._look(pictures)), (2, 3))

    def features(self, pictures: Tensor) -> Tensor:
        """What a picture is like before anything is named: the map averaged over its quarters, ``[B, D]``."""
        return F.adaptive_avg_pool2d(self._look(pictures), 2).flatten(1)

    def _look(self, x: Tensor) -> Tensor:
        if self.pixels:
            x = 4 * (x - 0.85)  # pictures are light, and what is on them is dark
        for layer in self.eye:
            x = F.silu(layer(x))
        return x
