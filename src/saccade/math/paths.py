"""Noise schedules: the grid of times that a sampler walks, from noise (t = 1) to data (t = 0).

Flow matching: x_t = (1 - t) x0 + t eps, network v ~ eps - x0, hence x0 = x - t v and eps = x + (1 - t) v
(Lipman et al. 2210.02747, Liu et al. 2209.03003).
"""

from __future__ import annotations

import torch
from torch import Tensor


def flow_times(steps: int, shift: float = 1.0) -> Tensor:
    """Times ``[steps + 1]`` float32, 1 down to 0; ``shift`` s warps t to s t / (1 + (s - 1) t) (SD3, 2403.03206)."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    t = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)
    return (shift * t / (1 + (shift - 1) * t)).float()


def add_noise(x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """The forward process x_t = (1 - t) x0 + t eps; ``t`` broadcasts from the left."""
    t = _like(t, x0)
    return (1 - t) * x0 + t * eps


def to_data(x: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """The clean sample that a velocity points to: x0 = x - t v."""
    return x - _like(t, x) * v


def to_noise(x: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """The noise that a velocity comes from: eps = x + (1 - t) v."""
    return x + (1 - _like(t, x)) * v


def _like(t: Tensor, x: Tensor) -> Tensor:
    return t.reshape(t.shape + (1,) * (x.dim() - t.dim()))
