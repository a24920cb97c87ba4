"""DiffusionNFT 2509.16117: policy optimization on the forward process, without a likelihood or an SDE.

At states x_t = (1 - t) x0 + t eps of the old policy's samples, with the velocity v of the policy and v_old of the old,

    v+ = beta v + (1 - beta) v_old      must explain good samples,
    v- = (1 + beta) v_old - beta v      must explain bad samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from saccade.algorithms.forward_process import draw_noise
from saccade.config import Count, Fraction
from saccade.core import Loss, Rollout
from saccade.math.advantages import group_advantage
from saccade.math.flow import add_noise, to_data
from saccade.models.snapshot import Snapshot
from saccade.policies.flow import FlowPolicy
from saccade.training import distributed


@dataclass(frozen=True)
class NFT:
    """How DiffusionNFT computes advantages, what its loss is, and how fast the old policy follows."""

    std: Literal["group", "batch", "none"] = "batch"
    """Standard deviation that advantages are divided by: of the group, of the whole batch, or none."""
    std_eps: float = 1e-4
    """Term added to the standard deviation that advantages are divided by."""
    adv_clip: float = 5.0
    """Advantage, of either sign, from which a sample counts as optimal, or not at all."""
    beta: float = 0.3
    """Distance of the mirrored velocities from the old policy's velocity (release: 1; 0.1 for OCR or many rewards)."""
    weight: float = 5.0
    """Factor on the loss of the mirrored velocities."""
    reference_weight: float = 0.0
    """Weight of the squared distance to the reference's velocity; 0 saves the reference's forward pass."""
    noise_levels: Count = 4
    """Random times of the sampling grid at which each sample is trained."""
    decay_after: int = 0
    """Optimizer steps in which the old policy equals the trained policy."""
    decay_slope: float = 0.001
    """Growth of the old policy's decay in each optimizer step after `decay_after`."""
    decay_max: Fraction = 0.5
    """Largest decay of the old policy."""

    def __post_init__(self) -> None:
        for name in ("adv_clip", "beta"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} {getattr(self, name)} is not a positive number: the loss is divided by it")

    def advantage(self, reward_B: Tensor, group_B: Tensor) -> Tensor:
        """Advantage of each sample over its group ``[B]``; 0 where the reward is NaN."""
        return group_advantage(
            reward_B, group_B, scale=self.std, eps=self.std_eps, clip=self.adv_clip, all_sum=distributed.all_sum
        )

    def loss(self, policy: FlowPolicy, old: Snapshot, reference: Snapshot) -> NFTLoss:
        """The loss of the policy; ``old`` sampled the batch, ``reference`` is frozen."""
        return NFTLoss(policy, old, reference, self)

    def old_decay(self, taken: int) -> float:
        """Decay of the old policy, as a moving average of the trained one, after ``taken`` optimizer steps."""
        return min(self.decay_slope * max(taken - self.decay_after, 0), self.decay_max)


@dataclass(frozen=True)
class NFTLoss:
    """``weight nft(...) + reference_weight |v - v_ref|^2``, a mean over samples and ``noise_levels`` times of the grid.

    All velocities are without guidance. ValueError for more noise levels than sampling steps.
    """

    policy: FlowPolicy
    old: Snapshot
    reference: Snapshot
    settings: NFT

    def __post_init__(self) -> None:
        levels, steps = self.settings.noise_levels, self.policy.steps
        if not 1 <= levels <= steps:
            raise ValueError(f"noise_levels {levels} is not between 1 and the {steps} sampling steps")

    def __call__(self, rollout: Rollout) -> Loss:
        cfg = self.settings
        rollout = rollout.rows(torch.arange(len(rollout)).repeat_interleave(cfg.noise_levels))
        x0, problems = rollout.decisions["x0_B"], rollout.problems
        t_B, eps = draw_noise(self.policy, rollout, cfg.noise_levels)
        x_t = add_noise(x0, eps, t_B)
        v_ref = None
        with torch.no_grad():
            with self.old:
                v_old = self.policy.velocity(x_t, t_B, problems)
            if cfg.reference_weight:
                with self.reference:
                    v_ref = self.policy.velocity(x_t, t_B, problems)
        v = self.policy.velocity(x_t, t_B, problems)
        if rollout.advantage_BT is None:
            raise ValueError("the loss needs advantages, but the rollout has none")
        r_B = optimality(rollout.advantage_BT[:, 0], cfg.adv_clip)
        mirrored_B = nft(v, v_old, x_t, x0, t_B, r_B, cfg.beta)
        count = torch.tensor(float(len(rollout)))
        if v_ref is None:
            return Loss(cfg.weight * mirrored_B.sum(), count)
        kl_B = ((v - v_ref) ** 2).flatten(1).mean(1)
        total = (cfg.weight * mirrored_B + cfg.reference_weight * kl_B).sum()
        return Loss(total, count, {"kl": kl_B.detach().sum()})


def optimality(advantage: Tensor, clip: float = 5.0) -> Tensor:
    """Optimality probability r in [0, 1]: 1/2 + clip(A, +-clip) / (2 clip)."""
    return (0.5 + advantage.clamp(-clip, clip) / (2 * clip)).clamp(0, 1)


def nft(v: Tensor, v_old: Tensor, x_t: Tensor, x0: Tensor, t_B: Tensor, r_B: Tensor, beta: float) -> Tensor:
    """[r |x0(v+) - x0|^2 / q+ + (1 - r) |x0(v-) - x0|^2 / q-] / beta for each row ``[B]``, means over the latent.

    q is the detached mean absolute error of the prediction, at least 1e-5.
    """
    positive = to_data(x_t, beta * v + (1 - beta) * v_old, t_B)
    negative = to_data(x_t, (1 + beta) * v_old - beta * v, t_B)
    return (r_B * _scaled_error(positive, x0) + (1 - r_B) * _scaled_error(negative, x0)) / beta


def _scaled_error(estimate: Tensor, x0: Tensor) -> Tensor:
    with torch.no_grad():
        scale = (estimate - x0).abs().flatten(1).mean(1).clamp(min=1e-5)
    return ((estimate - x0) ** 2).flatten(1).mean(1) / scale
