"""Samples that are repeated with gradients: rollouts without outputs, and differentiable rewards of latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from saccade.core import Problem, Reward, Rollout
from saccade.policies.flow import FlowPolicy
from saccade.random import generator


def empty_rollout(problems: Sequence[Problem], seeds_B: Tensor, **decisions: Tensor) -> Rollout:
    """A rollout of problems, seeds and perhaps latents, without outputs and without stored decisions."""
    empty = torch.zeros(len(problems), 0)
    extras = {"length_B": torch.zeros(len(problems)), "seed_B": seeds_B.clone()}
    return Rollout(list(problems), decisions, None, empty, empty, torch.arange(len(problems)), extras=extras)


def refl_timesteps(seeds_B: Tensor, first: int, steps: int) -> Tensor:
    """A random step from ``first`` to ``steps`` - 1 for each row, from the row's seed: ``[B]`` (ReFL, 2304.05977)."""
    step = lambda seed: torch.randint(first, steps, (), generator=generator(seed, "prediction step"))
    return torch.stack([step(seed) for seed in seeds_B.tolist()])


def differentiable_reward(policy: FlowPolicy, reward: Reward, rollout: Rollout, x0: Tensor) -> tuple[Tensor, Tensor]:
    """The reward of latents ``x0``, 0 where the reward is not finite, and whether it is finite: two ``[B]``.

    Latents are decoded to pictures unless the reward has a true attribute ``latent``. ValueError if ``x0`` needs
    gradients and the reward has none.
    """
    rollout = replace(rollout, decisions=rollout.decisions | {"x0_B": x0})
    if not getattr(reward, "latent", False):
        rollout = replace(rollout, outputs=policy.decode(x0))
    reward_B = reward(rollout)
    if x0.requires_grad and not reward_B.requires_grad:
        raise ValueError("this reward cannot be differentiated: no gradient leads from its scores to the pictures")
    finite_B = reward_B.isfinite()
    return torch.where(finite_B, reward_B, 0.0), finite_B
