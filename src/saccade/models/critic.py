"""A small convolutional critic: which of some kinds of things a picture shows, smooth in its pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Critic(nn.Module):
    """Pictures ``[B, 3, H, W]`` in [0, 1] -> logits ``[B, K]``: how sure it is that each kind is somewhere to be seen.

    Two halvings, then a logit for each kind at each place, joined by log-sum-exp, so that a thing counts wherever it lies.
    """

    def __init__(self, kinds: int, width: int = 24):
        super().__init__()
        shapes = ((3, width, 5, 2), (width, 2 * width, 3, 2), (2 * width, 2 * width, 3, 1), (2 * width, 2 * width, 3, 1))
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

    def _look(self, pictures: Tensor) -> Tensor:
        x = 4 * (pictures - 0.85)  # pictures are light, and what is on them is dark
        for layer in self.eye:
            x = F.silu(layer(x))
        return x
