"""A differentiable reward, back-propagated into a sampler; which part of the walk carries the gradient tells methods
apart.

ReFL      2304.05977   ``late`` = m: one step, a random one of the last m, and straight to the x0 predicted there
DRaFT-K   2309.17400   ``through`` = K: the last K steps of a whole walk (None: all, which is DRaFT itself)
DRaFT-LV  2309.17400   ``copies`` = n: the last step alone, n times from fresh noise on the picture that was made
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.core import Loss, Reward, Rollout, noise, spawn
from saccade.math.flow import add_noise, to_data
from saccade.policies.flow import FlowPolicy
from saccade.policies.unrolling import differentiable_reward, refl_timesteps

_COPY = 1 << 22
"""Key of the noise that DRaFT-LV puts on its own pictures."""


@dataclass(frozen=True)
class RewardGradient:
    """-reward, a mean over attempts; ``through``, ``late`` and ``copies`` are told above, at most one of the last two.

    Rewards without a verdict count for nothing. Metrics: the reward itself.
    """

    policy: FlowPolicy
    reward: Reward
    through: int | None = 1
    late: int = 0
    copies: int = 0

    def __post_init__(self) -> None:
        if self.late and self.copies:
            raise ValueError("late leaves the walk early and copies need its end; choose one")
        if (self.late or self.copies) and self.through != 1:
            raise ValueError(f"late and copies carry gradients through one step, not through {self.through}")
        if self.late > self.policy.steps:
            raise ValueError(f"late {self.late} is more than the {self.policy.steps} steps there are")

    def __call__(self, rollout: Rollout) -> Loss:
        if self.copies:
            rollout = rollout.rows(torch.arange(len(rollout)).repeat_interleave(self.copies))
        reward_B, known_B = differentiable_reward(self.policy, self.reward, rollout, self._pictured(rollout))
        return Loss(-reward_B.sum(), known_B.sum().float(), {"reward": reward_B.detach().sum()})

    def _pictured(self, rollout: Rollout) -> Tensor:
        """The latents that are judged, as functions of the weights."""
        problems, seeds_B = rollout.problems, rollout.extras["seed_B"]
        if self.late:
            steps = self.policy.steps
            return self.policy.predict_x0_at(problems, seeds_B, refl_timesteps(seeds_B, steps - self.late, steps))
        if not self.copies:
            return self.policy.unroll(problems, seeds_B, self.through)
        x0, t_B = rollout.decisions["x0_B"], self.policy.times[-2].expand(len(rollout))
        copy = torch.arange(len(rollout)) % self.copies
        own = torch.cat([spawn(s, _COPY + int(k)) for s, k in zip(seeds_B.split(1), copy)])
        t_B = t_B.to(x0.device)
        x_t = add_noise(x0, noise(own, x0.shape[1:], x0.device), t_B)
        return to_data(x_t, self.policy.velocity(x_t, t_B, problems, self.policy.guidance), t_B)
