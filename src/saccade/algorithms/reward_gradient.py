"""Direct reward backpropagation: a differentiable reward is differentiated through the last steps of a sampler.

Methods differ in the steps that carry gradients, which fields of `RewardGradient` choose:

    ReFL      2304.05977   ``refl_window`` = m: the x0 predicted at a random one of the last m steps, through that step
    DRaFT-K   2309.17400   ``grad_steps`` = K: the last K steps of the sampler (0: all, which is DRaFT)
    DRaFT-LV  2309.17400   ``copies`` = n: the last step alone, n times, each with new noise on the finished sample
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.config import Count
from saccade.core import Collect, Loss, Problem, Reward, Rollout
from saccade.math.flow import add_noise, to_data
from saccade.policies.flow import FlowPolicy
from saccade.policies.unrolling import differentiable_reward, empty_rollout, refl_timesteps
from saccade.random import noise, stream
from saccade.training.groups import repeat_for_groups


@dataclass(frozen=True)
class RewardGradient:
    """Which steps of the sampler carry the gradient of the reward."""

    grad_steps: Count = 1
    """Number of last denoising steps that gradients pass through (DRaFT-K); 0 takes all steps."""
    refl_window: Count = 0
    """Number of last denoising steps of which a random one predicts the sample (ReFL); 0 samples to the end."""
    copies: int = 0
    """Times that the last denoising step is repeated with new noise on the finished sample (DRaFT-LV); 0 is off."""

    def loss(self, policy: FlowPolicy, reward: Reward) -> RewardGradientLoss:
        """The loss of the policy. ValueError for settings that contradict one another."""
        if self.refl_window and self.copies:
            raise ValueError("refl_window ends sampling early and copies need finished samples; choose one")
        if (self.refl_window or self.copies) and self.grad_steps != 1:
            raise ValueError(f"refl_window and copies carry gradients through one step, not {self.grad_steps}")
        if self.refl_window > policy.steps:
            raise ValueError(f"refl_window {self.refl_window} is more than the {policy.steps} steps of the sampler")
        return RewardGradientLoss(self, policy, reward)

    def collect(self, policy: FlowPolicy, group_size: int = 1) -> Collect:
        """Collects problems and seeds, since the loss samples itself; DRaFT-LV needs finished samples too.

        With ``group_size`` 1 a sample has the seed of its problem.
        """

        def collect(problems: Sequence[Problem], seeds_P: Tensor, step: int) -> Rollout:
            seeds_B = seeds_P
            if group_size > 1:
                problems, seeds_B, _ = repeat_for_groups(problems, seeds_P, group_size)
            if not self.copies:
                return empty_rollout(problems, seeds_B)
            with torch.no_grad():
                return empty_rollout(problems, seeds_B, x0_B=policy.unroll(problems, seeds_B, 1))

        return collect


@dataclass(frozen=True)
class RewardGradientLoss:
    """-reward, a mean over samples whose reward is finite. Metric: "reward"."""

    cfg: RewardGradient
    policy: FlowPolicy
    reward: Reward

    def __call__(self, rollout: Rollout) -> Loss:
        if self.cfg.copies:
            rollout = rollout.rows(torch.arange(len(rollout)).repeat_interleave(self.cfg.copies))
        reward_B, finite_B = differentiable_reward(self.policy, self.reward, rollout, self.latents(rollout))
        return Loss(-reward_B.sum(), finite_B.sum().float(), {"reward": reward_B.detach().sum()})

    def latents(self, rollout: Rollout) -> Tensor:
        """The latents x0 ``[B, C, h, w]`` that are rewarded, as functions of the weights."""
        problems, seeds_B, steps = rollout.problems, rollout.extras["seed_B"], self.policy.steps
        if self.cfg.refl_window:
            step_B = refl_timesteps(seeds_B, steps - self.cfg.refl_window, steps)
            return self.policy.predict_x0_at(problems, seeds_B, step_B)
        if not self.cfg.copies:
            return self.policy.unroll(problems, seeds_B, self.cfg.grad_steps or None)
        x0 = rollout.decisions["x0_B"]
        t_B = self.policy.times[-2].expand(len(rollout)).to(x0.device)
        copy = torch.arange(len(rollout)) % self.cfg.copies
        own = torch.cat([stream(s, "last step again", int(k)) for s, k in zip(seeds_B.split(1), copy)])
        x_t = add_noise(x0, noise(own, x0.shape[1:], "noising", device=x0.device), t_B)
        return to_data(x_t, self.policy.velocity(x_t, t_B, problems, self.policy.guidance), t_B)
