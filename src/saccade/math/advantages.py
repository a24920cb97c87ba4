"""Advantages from the rewards of samples.

GRPO 2402.03300, Dr. GRPO 2503.20783, RLOO 2402.14740, DDPO's rolling statistics 2305.13301, GDPO (per-reward
normalization, as in TRL). Rows whose reward is NaN get advantage 0 and stay out of every mean and deviation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence

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
    valid = reward_B.isfinite()
    r = torch.where(valid, reward_B, torch.zeros_like(reward_B)).double()
    count, total = _per_group(valid.double(), group_B), _per_group(r, group_B)
    centered = (r - total / count.clamp(min=1)) * valid
    if scale == "group":
        std = _std(_per_group(centered**2, group_B), count, unbiased)
    elif scale == "batch":
        n = all_sum(valid.double().sum())
        mean = all_sum(r.sum()) / n.clamp(min=1)
        std = _std(all_sum((((r - mean) * valid) ** 2).sum()), n, unbiased)
    elif scale == "none":
        return centered.to(reward_B.dtype).clamp(-clip, clip)
    else:
        raise ValueError(f"unknown scale '{scale}': one of group, batch, none")
    return (centered / (std + eps)).clamp(-clip, clip).to(reward_B.dtype)


def leave_one_out(reward_B: Tensor, group_B: Tensor) -> Tensor:
    """RLOO: r minus the mean of the other samples of the group, G / (G - 1) (r - mean): ``[B]``."""
    valid = reward_B.isfinite()
    r = torch.where(valid, reward_B, torch.zeros_like(reward_B))
    count, total = _per_group(valid.to(r.dtype), group_B), _per_group(r, group_B)
    others = (total - r) / (count - 1).clamp(min=1)
    return torch.where(valid & (count > 1), r - others, torch.zeros_like(r))


def per_reward(rewards_KB: Tensor, weights_K: Tensor, group_B: Tensor, eps: float = 1e-4) -> Tensor:
    """Several rewards, each normalized in its group before the weighted sum (GDPO, MixGRPO): ``[B]``."""
    each = torch.stack([group_advantage(r, group_B, eps=eps) for r in rewards_KB])
    return (weights_K[:, None] * each).sum(0)


class RollingBaseline:
    """DDPO: mean and std of the last ``size`` rewards of each prompt; of the batch below ``min_count`` rewards."""

    def __init__(self, size: int = 32, min_count: int = 16, eps: float = 1e-6):
        self.size, self.min_count, self.eps = size, min_count, eps
        self.history: dict[str, deque[float]] = {}

    def __call__(self, reward_B: Tensor, keys: Sequence[Hashable]) -> Tensor:
        """Advantage ``[B]`` of rewards whose prompts are ``keys``; keeps the rewards."""
        valid = reward_B.isfinite()
        batch = reward_B[valid]
        for key, r in zip(keys, reward_B.tolist()):
            if r == r:
                self.history.setdefault(str(key), deque(maxlen=self.size)).append(r)
        out = torch.zeros_like(reward_B)
        for i, key in enumerate(keys):
            past = self.history.get(str(key), ())
            base = torch.tensor(list(past)) if len(past) >= self.min_count else batch
            if valid[i]:
                out[i] = (reward_B[i] - base.mean()) / (base.std(unbiased=False) + self.eps)
        return out

    def state_dict(self) -> dict:
        return {key: list(values) for key, values in self.history.items()}

    def load_state_dict(self, state: dict) -> None:
        self.history = {key: deque(values, maxlen=self.size) for key, values in state.items()}


def whitened(values_BT: Tensor, mask_BT: Tensor, *, eps: float = 1e-8, all_sum: AllSum = lambda x: x) -> Tensor:
    """(A - mean) / (std + eps) over the batch's unmasked decisions, else 0: ``[B, T]`` (REINFORCE++ 2501.03262)."""
    unmasked = mask_BT > 0
    values = torch.where(unmasked, values_BT, 0.0).double()
    count = all_sum(unmasked.double().sum()).clamp(min=1)
    centered = (values - all_sum(values.sum()) / count) * unmasked
    return (centered / (_std(all_sum((centered**2).sum()), count, False) + eps)).to(values_BT.dtype)


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


def _std(squares: Tensor, count: Tensor, unbiased: bool) -> Tensor:
    return (squares / (count - float(unbiased)).clamp(min=1)).clamp(min=0).sqrt()


def shuffle_rewards(reward_B: Tensor, seed: int) -> Tensor:
    """The same rewards permuted at random ``[B]``: the control experiment in which nothing can be learned."""
    return reward_B[torch.randperm(len(reward_B), generator=generator(seed, "shuffled rewards"))]


def random_rewards(seeds_P: Tensor, group_size: int) -> Tensor:
    """0 or 1 at random for each of ``group_size`` samples of each problem: ``[P * group_size]``."""
    return (noise(seeds_P, (group_size,), "random rewards") > 0).float().flatten()
