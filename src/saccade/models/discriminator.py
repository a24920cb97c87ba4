"""Tells one kind of features from another through a narrow, noisy code, so that it cannot win by small differences.

Variational discriminator bottleneck 1810.00821: the code is a Gaussian whose divergence from N(0, 1) is limited in training.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from saccade.math.gaussians import Gaussian, kl
from saccade.models.rssm import mlp


class Discriminator(nn.Module):
    """Features ``[N, E]`` and noise ``[N, code]`` -> verdicts ``[N]``, and the code's divergence from N(0, 1) in nats ``[N]``."""

    def __init__(self, features: int, hidden: int, code: int = 16):
        super().__init__()
        self.code = code
        self.encode, self.judge = mlp([features, hidden, 2 * code]), mlp([code, hidden, 1])

    def forward(self, x_NE: Tensor, noise_NC: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = self.encode(x_NE).chunk(2, -1)
        code = Gaussian(mean, softplus(raw) + 1e-4)
        told = kl(code, Gaussian(torch.zeros_like(mean), torch.ones_like(mean)))
        return self.judge(code.at(noise_NC)).squeeze(-1), told
