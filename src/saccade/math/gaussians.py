"""Diagonal Gaussians, and Gaussians squashed into (-1, 1) by tanh.

KL(q || p) = sum log(s_p / s_q) + (s_q^2 + (m_q - m_p)^2) / (2 s_p^2) - 1/2
log tanh(u) = log N(u; m, s) - sum 2 (log 2 - u - softplus(-2 u)),   action = tanh(u)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus


class Gaussian(NamedTuple):
    """Independent normal distributions: ``mean`` and ``std``, both ``[..., D]``."""

    mean: Tensor
    std: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """The reparameterized sample of standard normal ``noise`` ``[..., D]``: mean + std noise, with gradients."""
        return self.mean + self.std * noise

    def detach(self) -> Gaussian:
        return Gaussian(self.mean.detach(), self.std.detach())


def stack_gaussians(parts: Sequence[Gaussian], dim: int) -> Gaussian:
    """Several Gaussians as one, with a new axis ``dim``."""
    return Gaussian(torch.stack([p.mean for p in parts], dim), torch.stack([p.std for p in parts], dim))


def kl(q: Gaussian, p: Gaussian) -> Tensor:
    """KL(q || p) in nats, summed over the last dimension: ``[...]``."""
    ratio = q.std / p.std
    gap = (q.mean - p.mean) / p.std
    return (0.5 * (ratio**2 + gap**2 - 1) - ratio.log()).sum(-1)


def log_prob(gaussian: Gaussian, value: Tensor) -> Tensor:
    """log N(value), summed over the last dimension: ``[...]``."""
    gap = (value - gaussian.mean) / gaussian.std
    return (-0.5 * gap**2 - gaussian.std.log() - 0.5 * math.log(2 * math.pi)).sum(-1)


def squashed_log_prob(gaussian: Gaussian, pre_tanh: Tensor) -> Tensor:
    """Log-density of ``tanh(pre_tanh)``, summed over the last dimension: ``[...]``. Finite for any input."""
    log_det = 2 * (math.log(2) - pre_tanh - softplus(-2 * pre_tanh))
    return log_prob(gaussian, pre_tanh) - log_det.sum(-1)
