"""What losses on the forward process share: freshly noised samples, and the error of a velocity there."""

from __future__ import annotations

import torch
from torch import Tensor

from saccade.core import Rollout, generator, noise, spawn
from saccade.policies.flow import FlowPolicy


def draw_noise(policy: FlowPolicy, rollout: Rollout, copies: int = 1) -> tuple[Tensor, Tensor]:
    """A time of the sampler's grid and fresh noise for each row, from the row's own seed.

    ``copies`` of an attempt that follow one another get different times, in an order of the attempt's own.
    """
    x0, times = rollout.decisions["x0_B"], policy.times[:-1]
    own = spawn(rollout.extras["seed_B"][::copies], 1 << 20)
    picks = [torch.randperm(len(times), generator=generator(s))[:copies] for s in own.tolist()]
    seeds_B = torch.stack([spawn(own, 1 + copy) for copy in range(copies)], 1).flatten()
    return times[torch.cat(picks)].to(x0.device), noise(seeds_B, x0.shape[1:], x0.device)


def velocity_error(v: Tensor, x0: Tensor, eps: Tensor) -> Tensor:
    """Mean over the latent of |v - (eps - x0)|^2: ``[B]``."""
    return ((v - (eps - x0)) ** 2).flatten(1).mean(1)
