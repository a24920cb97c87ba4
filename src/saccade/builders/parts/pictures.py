"""Pictures as tensors and latents, and the losses of models that generate pictures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def pixels(pictures: np.ndarray) -> Tensor:
    """uint8 ``[N, H, W, 3]`` -> ``[N, 3, H, W]`` in [-1, 1]."""
    x = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return x.to(memory_format=torch.channels_last)


@torch.no_grad()
def encode(vae: nn.Module, pictures: np.ndarray, rows: int = 256) -> Tensor:
    """uint8 ``[N, H, W, 3]`` -> latents ``[N, C, h, w]``, shifted and scaled by the autoencoder's configuration."""
    parts = [vae.encode(pixels(pictures[i : i + rows])).latent_dist.mean for i in range(0, len(pictures), rows)]
    return (torch.cat(parts).contiguous() - vae.config.shift_factor) * vae.config.scaling_factor


def pixel_loss(error: Tensor) -> Tensor:
    """Mean |error| + 2 mean error^2."""
    return error.abs().mean() + 2 * error.square().mean()


def flow_loss(x0: Tensor, velocity: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """E |v(x_t, t) - (noise - x0)|^2 with more times near the noise, where the content of a picture is decided."""
    u_B = torch.rand(len(x0))
    t_B = 2 * u_B / (1 + u_B)
    noise = torch.randn_like(x0)
    return F.mse_loss(velocity(torch.lerp(x0, noise, t_B[:, None, None, None]), t_B), noise - x0)
