"""Losses on the forward process: no likelihood, no SDE. DiffusionNFT 2509.16117, Diffusion-DPO 2311.12908.

All velocities are predictions at the same noised states x_t = (1 - t) x0 + t eps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.math.paths import to_data


def optimality(advantage: Tensor, clip: float = 5.0) -> Tensor:
    """NFT's r in [0, 1]: 1/2 + clip(A, +-clip) / (2 clip)."""
    return (0.5 + advantage.clamp(-clip, clip) / (2 * clip)).clamp(0, 1)


def nft(v: Tensor, v_old: Tensor, x_t: Tensor, x0: Tensor, t_B: Tensor, r_B: Tensor, beta: float) -> Tensor:
    """DiffusionNFT: the new velocity, mirrored about the old one, must explain bad samples: ``[B]``.

    v+ = beta v + (1 - beta) v_old, v- = (1 + beta) v_old - beta v; [r |x0(v+) - x0|^2 / q+ + (1 - r) |x0(v-) - x0|^2 / q-]
    / beta with q the detached mean absolute error (at least 1e-5), means over the latent.
    """
    positive = to_data(x_t, beta * v + (1 - beta) * v_old, t_B)
    negative = to_data(x_t, (1 + beta) * v_old - beta * v, t_B)
    return (r_B * _scaled_error(positive, x0) + (1 - r_B) * _scaled_error(negative, x0)) / beta


def diffusion_dpo(error_w: Tensor, ref_w: Tensor, error_l: Tensor, ref_l: Tensor, beta: float) -> Tensor:
    """-log sigmoid(-beta / 2 [(e_w - e_w_ref) - (e_l - e_l_ref)]), e = mean squared velocity error: ``[B]``."""
    return -F.logsigmoid(-0.5 * beta * ((error_w - ref_w) - (error_l - ref_l)))


def velocity_error(v: Tensor, x0: Tensor, eps: Tensor) -> Tensor:
    """Mean over the latent of |v - (eps - x0)|^2: ``[B]``."""
    return ((v - (eps - x0)) ** 2).flatten(1).mean(1)


def _scaled_error(estimate: Tensor, x0: Tensor) -> Tensor:
    with torch.no_grad():
        scale = (estimate - x0).abs().flatten(1).mean(1).clamp(min=1e-5)
    return ((estimate - x0) ** 2).flatten(1).mean(1) / scale
