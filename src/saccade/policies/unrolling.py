"""Attempts made once more with gradients, and what a reward says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from saccade.core import Problem, Reward, Rollout, generator, spawn
from saccade.policies.flow import FlowPolicy

_STEP = 1 << 21
"""Key of the seeds that late steps are drawn from."""


def empty_rollout(problems: Sequence[Problem], seeds_B: Tensor, **decisions: Tensor) -> Rollout:
    """Attempts whose pictures nobody has looked at: problems, seeds and perhaps latents, to be unrolled from there."""
    none = torch.zeros(len(problems), 0)
    extras = {"length_B": torch.zeros(len(problems)), "seed_B": seeds_B.clone()}
    return Rollout(list(problems), decisions, None, none, none, torch.arange(len(problems)), extras=extras)


def refl_timesteps(seeds_B: Tensor, first: int, steps: int) -> Tensor:
    """A step of ``first`` … ``steps`` - 1 for each row, from the row's own seed: ``[B]``."""
    draw = lambda s: torch.randint(first, steps, (), generator=generator(s))
    return torch.stack([draw(s) for s in spawn(seeds_B, _STEP).tolist()])


def differentiable_reward(policy: FlowPolicy, reward: Reward, rollout: Rollout, x0: Tensor) -> tuple[Tensor, Tensor]:
    """A differentiable reward of latents, 0 where it has no verdict, and where it has one: two ``[B]``.

    Pictures are decoded for it unless it reads latents, which it says by an attribute ``latent``. ValueError if
    gradients are asked for and the reward has none.
    """
    seen = replace(rollout, decisions=rollout.decisions | {"x0_B": x0})
    reward_B = reward(seen if getattr(reward, "latent", False) else replace(seen, outputs=policy.decode(x0)))
    if x0.requires_grad and not reward_B.requires_grad:
        raise ValueError("this reward cannot be differentiated: no gradient leads from its verdicts to the pictures")
    known_B = reward_B.isfinite()
    return torch.where(known_B, reward_B, 0.0), known_B
