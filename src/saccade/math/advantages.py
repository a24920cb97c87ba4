"""Advantages from the rewards of samples.

GRPO 2402.03300, Dr. GRPO 2503.20783, RLOO 2402.14740, GDPO (per-reward normalization, as in TRL). Rows whose reward is
NaN get advantage 0 and stay out of every mean and deviation. Rows of a group with equal rewards get exactly 0, of
whatever size these are: a mean of large numbers is rounded by more than the term added to the deviation.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from saccade.random import generator, noise

AllSum = Callable[[Tensor], Tensor]
"""Adds a tensor over all processes; the identity where there is one."""

ADV_CLIP = 5.0
"""Largest absolute advantage: in standard deviations or, where there is none, in units of the reward."""

_SAME_REWARD = 1e-8
"""Difference up to which rewards count as equal."""


def group_advantage(
    reward_B: Tensor,
    group_B: Tensor,
    *,
    scale: str = "group",
    eps: float = 1e-4,
    unbiased: bool = False,
    clip: float = ADV_CLIP,
    all_sum: AllSum = lambda x: x,
) -> Tensor:
    """(r - mean of the group) / (standard deviation + eps), clipped to ``+-clip``: ``[B]``.

    ``scale`` names what the standard deviation is taken over: "group", "batch" (all rows of all processes; Flow-GRPO's
    global std) or "none" (no division; Dr. GRPO). ``unbiased`` divides the variance by n - 1. ValueError for another
    ``scale``.
    """
    if scale not in ("group", "batch", "none"):
        raise ValueError(f"unknown scale '{scale}': one of group, batch, none")
    centered, valid, count = _centered(reward_B, group_B)
    if scale == "none":
        return centered.clamp(-clip, clip).to(reward_B.dtype)
    if scale == "group":
        std = _std(_per_group(centered**2, group_B), count, unbiased)
    else:
        std = _batch_moments(reward_B.double(), valid, unbiased, all_sum)[1]
    return _divided(centered, std, eps).clamp(-clip, clip).to(reward_B.dtype)


def leave_one_out(reward_B: Tensor, group_B: Tensor) -> Tensor:
    """RLOO: r minus the mean of the other samples of the group, G / (G - 1) (r - mean): ``[B]``."""
    valid = reward_B.isfinite()
    r = torch.where(valid, reward_B, torch.zeros_like(reward_B))
    count, total = _per_group(valid.to(r.dtype), group_B), _per_group(r, group_B)
    others = (total - r) / (count - 1).clamp(min=1)
    return torch.where(valid & has_reward_variance(reward_B, group_B), r - others, torch.zeros_like(r))


def per_reward(
    rewards_KB: Tensor,
    weights_K: Tensor,
    group_B: Tensor,
    *,
    eps: float = 1e-4,
    clip: float = ADV_CLIP,
    all_sum: AllSum = lambda x: x,
) -> Tensor:
    """Several rewards, each normalized in its group, then their weighted sum over the batch: ``[B]``.

    GDPO, TRL's "normalize_then_sum", with deviations over n - 1: z_k = (r_k - group mean) / (std + ``eps``),
    s = sum w_k z_k, A = (s - batch mean) / (std + ``eps``), clipped to ``+-clip``. A reward that is NaN on a row counts
    as its group's mean there; rows that no reward judges get 0 and stay out of the batch's mean and deviation.
    """
    each_KB = torch.stack([group_advantage(r, group_B, eps=eps, unbiased=True, clip=math.inf) for r in rewards_KB])
    sum_B = (weights_K.to(each_KB)[:, None] * each_KB).sum(0).double()
    judged = rewards_KB.isfinite().any(0)
    mean, std = _batch_moments(sum_B, judged, True, all_sum)
    return _divided((sum_B - mean) * judged, std, eps).clamp(-clip, clip).to(rewards_KB.dtype)


def has_reward_variance(reward_B: Tensor, group_B: Tensor) -> Tensor:
    """Whether the rewards of a row's group differ, so that it has a learning signal: bool ``[B]``."""
    range_G, inverse = _group_range(reward_B, group_B)
    return (range_G > _SAME_REWARD)[inverse]


def zero_variance_groups(reward_B: Tensor, group_B: Tensor) -> Tensor:
    """Share of groups whose samples all have the same reward, hence no signal: a health metric."""
    return (_group_range(reward_B, group_B)[0] <= _SAME_REWARD).float().mean()


def _group_range(reward_B: Tensor, group_B: Tensor) -> tuple[Tensor, Tensor]:
    """Highest minus lowest reward of each group (-inf without a reward), and the index of each row's group."""
    ids, inverse = group_B.unique(return_inverse=True)
    highest = lambda values_B: values_B.new_full((len(ids),), -torch.inf).scatter_reduce(0, inverse, values_B, "amax")
    top, bottom = (highest(torch.where(reward_B.isfinite(), x, -torch.inf)) for x in (reward_B, -reward_B))
    return top + bottom, inverse


def _per_group(values_B: Tensor, group_B: Tensor) -> Tensor:
    """The sum over the group of each row: ``[B]``."""
    _, inverse = group_B.unique(return_inverse=True)
    sums = torch.zeros(int(inverse.max()) + 1 if len(inverse) else 0, dtype=values_B.dtype, device=values_B.device)
    return sums.index_add(0, inverse, values_B)[inverse]


def _centered(reward_B: Tensor, group_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards minus the mean of their group, 0 where they are NaN or the group's are equal; which rewards are finite;
    and how many of each row's group are: ``[B]`` each, float64 but for the mark.
    """
    valid = reward_B.isfinite()
    r = torch.where(valid, reward_B, torch.zeros_like(reward_B)).double()
    count, total = _per_group(valid.double(), group_B), _per_group(r, group_B)
    return (r - total / count.clamp(min=1)) * (valid & has_reward_variance(reward_B, group_B)), valid, count


def _batch_moments(values_B: Tensor, valid_B: Tensor, unbiased: bool, all_sum: AllSum) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the valid values of all processes."""
    values_B = torch.where(valid_B, values_B, 0.0)
    n = all_sum(valid_B.double().sum())
    mean = all_sum(values_B.sum()) / n.clamp(min=1)
    return mean, _std(all_sum((((values_B - mean) * valid_B) ** 2).sum()), n, unbiased)


def _divided(centered_B: Tensor, std: Tensor, eps: float) -> Tensor:
    """centered / (std + eps); 0 where nothing deviates, also without ``eps``."""
    scale = std + eps
    return torch.where(scale > 0, centered_B / torch.where(scale > 0, scale, 1.0), 0.0)


def _std(squares: Tensor, count: Tensor, unbiased: bool) -> Tensor:
    return (squares / (count - float(unbiased)).clamp(min=1)).clamp(min=0).sqrt()


def shuffle_rewards(reward_B: Tensor, seed: int) -> Tensor:
    """The same rewards permuted at random ``[B]``: the control experiment in which nothing can be learned."""
    return reward_B[torch.randperm(len(reward_B), generator=generator(seed, "shuffled rewards"))]


def random_rewards(seeds_P: Tensor, group_size: int) -> Tensor:
    """0 or 1 at random for each of ``group_size`` samples of each problem: ``[P * group_size]``."""
    return (noise(seeds_P, (group_size,), "random rewards") > 0).float().flatten()
