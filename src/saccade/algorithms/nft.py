"""Losses on the forward process: no likelihood, no SDE. DiffusionNFT 2509.16117, Diffusion-DPO 2311.12908.

All velocities are predictions at the same noised states x_t = (1 - t) x0 + t eps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.algorithms.forward_process import draw_noise
from saccade.core import Loss, Rollout
from saccade.math.flow import add_noise, to_data
from saccade.models.snapshot import Snapshot
from saccade.policies.flow import FlowPolicy


@dataclass(frozen=True)
class NFT:
    """DiffusionNFT 2509.16117: ``5 nft(...) + beta_reference |v - v_ref|^2``, a mean over ``times`` of the grid.

    ``old`` is the policy that sampled; ``reference`` the frozen one. Sampled and trained without guidance.
    """

    policy: FlowPolicy
    old: Snapshot
    reference: Snapshot
    beta: float = 1.0
    beta_reference: float = 1e-4
    times: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.times <= self.policy.steps:
            raise ValueError(f"times {self.times} is not between 1 and the {self.policy.steps} sampling steps")

    def __call__(self, rollout: Rollout) -> Loss:
        rollout = rollout.rows(torch.arange(len(rollout)).repeat_interleave(self.times))
        x0, problems = rollout.decisions["x0_B"], rollout.problems
        t_B, eps = draw_noise(self.policy, rollout, self.times)
        x_t = add_noise(x0, eps, t_B)
        with torch.no_grad():
            with self.old:
                v_old = self.policy.velocity(x_t, t_B, problems)
            v_ref = None
            if self.beta_reference:
                with self.reference:
                    v_ref = self.policy.velocity(x_t, t_B, problems)
        v = self.policy.velocity(x_t, t_B, problems)
        advantage_B = rollout.advantage_BT[:, 0]
        contrast = nft(v, v_old, x_t, x0, t_B, optimality(advantage_B), self.beta)
        count = torch.tensor(float(len(rollout)))
        if v_ref is None:
            return Loss(5 * contrast.sum(), count)
        drift = ((v - v_ref) ** 2).flatten(1).mean(1)
        return Loss((5 * contrast + self.beta_reference * drift).sum(), count, {"kl": drift.detach().sum()})


def optimality(advantage: Tensor, clip: float = 5.0) -> Tensor:
    """NFT's r in [0, 1]: 1/2 + clip(A, +-clip) / (2 clip)."""
    return (0.5 + advantage.clamp(-clip, clip) / (2 * clip)).clamp(0, 1)


def nft(v: Tensor, v_old: Tensor, x_t: Tensor, x0: Tensor, t_B: Tensor, r_B: Tensor, beta: float) -> Tensor:
    """DiffusionNFT: the new velocity, mirrored about the old one, must explain bad samples: ``[B]``.

    v+ = beta v + (1 - beta) v_old, v- = (1 + beta) v_old - beta v; [r |x0(v+) - x0|^2 / q+ + (1 - r) |x0(v-) - x0|^2 /
    q-] / beta with q the detached mean absolute error (at least 1e-5), means over the latent.
    """
    positive = to_data(x_t, beta * v + (1 - beta) * v_old, t_B)
    negative = to_data(x_t, (1 + beta) * v_old - beta * v, t_B)
    return (r_B * _scaled_error(positive, x0) + (1 - r_B) * _scaled_error(negative, x0)) / beta


def _scaled_error(estimate: Tensor, x0: Tensor) -> Tensor:
    with torch.no_grad():
        scale = (estimate - x0).abs().flatten(1).mean(1).clamp(min=1e-5)
    return ((estimate - x0) ** 2).flatten(1).mean(1) / scale
