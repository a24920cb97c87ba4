"""Noised samples for losses on the forward process x_t = (1 - t) x0 + t eps, and the error of a velocity there."""

from __future__ import annotations

import torch
from torch import Tensor

from saccade.core import Rollout
from saccade.policies.flow import FlowPolicy
from saccade.random import generator, noise, stream


def draw_noise(policy: FlowPolicy, rollout: Rollout, copies: int = 1) -> tuple[Tensor, Tensor]:
    """A random time of the policy's grid ``[B]`` and fresh noise ``[B, C, h, w]`` for each row, from the row's seed.

    Every ``copies`` neighbouring rows are copies of one sample and get different times, in random order.
    """
    x0, times = rollout.decisions["x0_B"], policy.times[:-1]
    sample_seeds = rollout.extras["seed_B"][::copies]
    steps = [
        torch.randperm(len(times), generator=generator(seed, "noised times"))[:copies] for seed in sample_seeds.tolist()
    ]
    seeds_B = torch.stack([stream(sample_seeds, "copy", copy) for copy in range(copies)], 1).flatten()
    return times[torch.cat(steps)].to(x0.device), noise(seeds_B, x0.shape[1:], "noising", device=x0.device)


def velocity_error(v: Tensor, x0: Tensor, eps: Tensor) -> Tensor:
    """Mean over the latent of |v - (eps - x0)|^2: ``[B]``."""
    return ((v - (eps - x0)) ** 2).flatten(1).mean(1)
