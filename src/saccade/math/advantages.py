"""Credit: from the rewards of attempts to their advantages.

GRPO 2402.03300, Dr. GRPO 2503.20783, RLOO 2402.14740, DDPO's rolling statistics 2305.13301, GDPO (per-reward
normalisation, as in TRL). NaN = no verdict: such rows get advantage 0 and stay out of every mean and spread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from saccade.core import generator, noise, spawn

AllSum = Callable[[Tensor], Tensor]
"""Adds a tensor over all processes; the identity where there is one."""

LARGEST = 5.0
"""Where advantages are cut off on both sides: in spreads or, where they are not divided by one, in units of the
reward.
"""

_COINS = 1 << 20
"""A key that no attempt's seed has."""


def group_advantage(
    reward_B: Tensor,
    group_B: Tensor,
    *,
    scale: str = "group",
    eps: float = 1e-4,
    unbiased: bool = False,
    clip: float = LARGEST,
    all_sum: AllSum = lambda x: x,
) -> Tensor:
    """(r - mean of the group) / (spread + eps), cut off at ``+-clip``, which is `LARGEST` = 5 unless told: ``[B]``.

    ``scale`` is where the spread is taken: "group", "batch" (one for all rows, over all processes; Flow-GRPO's
    global std) or "none" (Dr. GRPO). ``unbiased`` takes the sample standard deviation (n - 1).
    """
    valid = reward_B.isfinite()
    r = torch.where(valid, reward_B, torch.zeros_like(reward_B)).double()
    count, total = _per_group(valid.double(), group_B), _per_group(r, group_B)
    centred = (r - total / count.clamp(min=1)) * valid
    if scale == "group":
        spread = _spread(_per_group(centred**2, group_B), count, unbiased)
    elif scale == "batch":
        n = all_sum(valid.double().sum())
        mean = all_sum(r.sum()) / n.clamp(min=1)
        spread = _spread(all_sum((((r - mean) * valid) ** 2).sum()), n, unbiased)
    elif scale == "none":
        return centred.to(reward_B.dtype).clamp(-clip, clip)
    else:
        raise ValueError(f"unknown scale '{scale}': one of group, batch, none")
    return (centred / (spread + eps)).clamp(-clip, clip).to(reward_B.dtype)


def leave_one_out(reward_B: Tensor, group_B: Tensor) -> Tensor:
    """RLOO: r minus the mean of the other attempts of the group, G / (G - 1) (r - mean): ``[B]``."""
    valid = reward_B.isfinite()
    r = torch.where(valid, reward_B, torch.zeros_like(reward_B))
    count, total = _per_group(valid.to(r.dtype), group_B), _per_group(r, group_B)
    others = (total - r) / (count - 1).clamp(min=1)
    return torch.where(valid & (count > 1), r - others, torch.zeros_like(r))


def per_reward(rewards_KB: Tensor, weights_K: Tensor, group_B: Tensor, eps: float = 1e-4) -> Tensor:
    """Several rewards, each normalised in its group before the weighted sum (GDPO, MixGRPO): ``[B]``."""
    each = torch.stack([group_advantage(r, group_B, eps=eps) for r in rewards_KB])
    return (weights_K[:, None] * each).sum(0)


class RollingBaseline:
    """DDPO: mean and spread of the last ``size`` rewards of each prompt; of the batch until ``least`` were seen."""

    def __init__(self, size: int = 32, least: int = 16, eps: float = 1e-6):
        self.size, self.least, self.eps = size, least, eps
        self.seen: dict[str, deque[float]] = {}

    def __call__(self, reward_B: Tensor, keys: Sequence[Hashable]) -> Tensor:
        """Advantage ``[B]`` of rewards whose prompts are ``keys``; remembers the rewards."""
        valid = reward_B.isfinite()
        known = reward_B[valid]
        for key, r in zip(keys, reward_B.tolist()):
            if r == r:
                self.seen.setdefault(str(key), deque(maxlen=self.size)).append(r)
        out = torch.zeros_like(reward_B)
        for i, key in enumerate(keys):
            past = self.seen.get(str(key), ())
            base = torch.tensor(list(past)) if len(past) >= self.least else known
            if valid[i]:
                out[i] = (reward_B[i] - base.mean()) / (base.std(unbiased=False) + self.eps)
        return out

    def state_dict(self) -> dict:
        return {key: list(values) for key, values in self.seen.items()}

    def load_state_dict(self, state: dict) -> None:
        self.seen = {key: deque(values, maxlen=self.size) for key, values in state.items()}


def whitened(values_BT: Tensor, mask_BT: Tensor, *, eps: float = 1e-8, all_sum: AllSum = lambda x: x) -> Tensor:
    """(A - mean) / (spread + eps) over all own decisions of the batch, 0 elsewhere: ``[B, T]`` (REINFORCE++
    2501.03262).
    """
    own = mask_BT > 0
    values = torch.where(own, values_BT, 0.0).double()
    count = all_sum(own.double().sum()).clamp(min=1)
    centred = (values - all_sum(values.sum()) / count) * own
    return (centred / (_spread(all_sum((centred**2).sum()), count, False) + eps)).to(values_BT.dtype)


def has_reward_variance(reward_B: Tensor, group_B: Tensor) -> Tensor:
    """Whether the attempts of a row's group got different rewards, so that there is something to learn: bool
    ``[B]``.
    """
    spread, inverse = _group_spread(reward_B, group_B)
    return (spread > 1e-8)[inverse]


def zero_variance_groups(reward_B: Tensor, group_B: Tensor) -> Tensor:
    """Share of groups whose attempts all got the same reward, hence no signal: a health metric."""
    return (_group_spread(reward_B, group_B)[0] <= 1e-8).float().mean()


def _group_spread(reward_B: Tensor, group_B: Tensor) -> tuple[Tensor, Tensor]:
    """Highest minus lowest reward of each group (-inf without a verdict), and the place of each row's group."""
    ids, inverse = group_B.unique(return_inverse=True)
    highest = lambda values_B: values_B.new_full((len(ids),), -torch.inf).scatter_reduce(0, inverse, values_B, "amax")
    top, bottom = (highest(torch.where(reward_B.isfinite(), x, -torch.inf)) for x in (reward_B, -reward_B))
    return top + bottom, inverse


def _per_group(values_B: Tensor, group_B: Tensor) -> Tensor:
    """The sum over each row's group, given back to each row: ``[B]``."""
    _, inverse = group_B.unique(return_inverse=True)
    sums = torch.zeros(int(inverse.max()) + 1 if len(inverse) else 0, dtype=values_B.dtype, device=values_B.device)
    return sums.index_add(0, inverse, values_B)[inverse]


def _spread(squares: Tensor, count: Tensor, unbiased: bool) -> Tensor:
    return (squares / (count - float(unbiased)).clamp(min=1)).clamp(min=0).sqrt()


def shuffle_rewards(reward_B: Tensor, seed: int) -> Tensor:
    """The same rewards dealt out at random: the control with which nothing can be learned."""
    return reward_B[torch.randperm(len(reward_B), generator=generator(seed))]


def random_rewards(seeds_P: Tensor, group: int) -> Tensor:
    """0 or 1 for each of ``group`` attempts at each problem ``[B]``: the control that rewards nothing but sharper
    habits.
    """
    return (noise(spawn(seeds_P, _COINS), (group,)) > 0).float().flatten()
