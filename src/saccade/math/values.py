"""Advantages and returns from rewards and the critic's values: GAE and lambda-returns.

GAE 1506.02438; lambda-returns as in Dreamer 1912.01603. ``ended_BT`` is 1 at the last decision of an episode, whether
it terminated (no value follows) or was truncated (the value of the last observation is bootstrapped).
``next_value_BT`` is the value of the next observation, at an end that of the true last one. ``terminated_BT`` may hold
probabilities. All are ``[B, T]`` of one dtype, except that the two marks may be bool; gradients flow through rewards
and values.
"""

from __future__ import annotations

import torch
from torch import Tensor


def gae(
    reward_BT: Tensor,
    value_BT: Tensor,
    next_value_BT: Tensor,
    terminated_BT: Tensor,
    ended_BT: Tensor,
    gamma: float,
    lam: float,
) -> Tensor:
    """Advantages ``[B, T]``: A_t = d_t + gamma lam A_{t+1} within an episode, d_t = r_t + gamma V_{t+1} - V_t."""
    td_error_BT = one_step(reward_BT, next_value_BT, terminated_BT, gamma) - value_BT
    return _discounted_sum(td_error_BT, gamma * lam * _continues(ended_BT, reward_BT))


def lambda_return(
    reward_BT: Tensor,
    next_value_BT: Tensor,
    terminated_BT: Tensor,
    ended_BT: Tensor | None = None,
    *,
    gamma: float,
    lam: float,
) -> Tensor:
    """Returns ``[B, T]``: R_t = r_t + gamma (1 - d_t) ((1 - lam) V_{t+1} + lam R_{t+1}), at ends and at T with lam 0.

    Without ``ended_BT`` a row is one episode that only termination ends, as in imagined rollouts.
    """
    carry_BT = lam * _continues(torch.zeros_like(terminated_BT) if ended_BT is None else ended_BT, reward_BT)
    carry_BT = torch.cat([carry_BT[:, :-1], torch.zeros_like(carry_BT[:, -1:])], 1)
    now_BT = one_step(reward_BT, (1 - carry_BT) * next_value_BT, terminated_BT, gamma)
    return _discounted_sum(now_BT, gamma * _continues(terminated_BT, reward_BT) * carry_BT)


def one_step(reward_BT: Tensor, next_value_BT: Tensor, terminated_BT: Tensor, gamma: float) -> Tensor:
    """r + gamma (1 - terminated) V' ``[B, T]``."""
    return reward_BT + gamma * _continues(terminated_BT, reward_BT) * next_value_BT


def _continues(mark_BT: Tensor, like_BT: Tensor) -> Tensor:
    return 1 - mark_BT.to(like_BT.dtype)


def _discounted_sum(now_BT: Tensor, carry_BT: Tensor) -> Tensor:
    """y_t = now_t + carry_t y_{t+1}, from the end of the row backwards: ``[B, T]``."""
    next_B, sums = torch.zeros_like(now_BT[:, 0]), []
    for now_B, carry_B in zip(reversed(now_BT.unbind(1)), reversed(carry_BT.unbind(1))):
        next_B = torch.addcmul(now_B, carry_B, next_B)
        sums.append(next_B)
    return torch.stack(sums[::-1], 1)
