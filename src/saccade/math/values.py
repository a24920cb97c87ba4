"""What a state or an action is worth, from rewards and the critic's values: GAE, lambda-returns, n-step returns.

GAE 1506.02438; lambda-returns as in Dreamer 1912.01603. A decision that ends its episode is marked in ``ended_BT``,
whether it terminated (nothing comes after it) or was truncated (the value of what was seen last stands for what would
have come). ``next_value_BT`` is the value of what each decision led to, at an end of the true last observation.
``terminated_BT`` may hold probabilities. All are ``[B, T]`` of one dtype but the marks, which may be bool; gradients
flow through rewards and values.
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
    """Advantages ``[B, T]``: A_t = d_t + gamma lam A_{t+1}, d_t = r_t + gamma V_{t+1} - V_t, nothing across the end
    of an episode.
    """
    surprise_BT = one_step(reward_BT, next_value_BT, terminated_BT, gamma) - value_BT
    return _summed(surprise_BT, gamma * lam * _goes_on(ended_BT, reward_BT))


def lambda_return(
    reward_BT: Tensor,
    next_value_BT: Tensor,
    terminated_BT: Tensor,
    ended_BT: Tensor | None = None,
    *,
    gamma: float,
    lam: float,
) -> Tensor:
    """Returns ``[B, T]``: R_t = r_t + gamma (1 - d_t) ((1 - lam) V_{t+1} + lam R_{t+1}), and at ends and at T the value
    alone.

    Without ``ended_BT`` a row is one episode, which only termination ends, as where it is imagined.
    """
    carry_BT = lam * _goes_on(torch.zeros_like(terminated_BT) if ended_BT is None else ended_BT, reward_BT)
    carry_BT = torch.cat([carry_BT[:, :-1], torch.zeros_like(carry_BT[:, -1:])], 1)
    now_BT = one_step(reward_BT, (1 - carry_BT) * next_value_BT, terminated_BT, gamma)
    return _summed(now_BT, gamma * _goes_on(terminated_BT, reward_BT) * carry_BT)


def n_step(
    reward_BT: Tensor, next_value_BT: Tensor, terminated_BT: Tensor, ended_BT: Tensor, *, gamma: float, steps: int
) -> Tensor:
    """Returns ``[B, T]`` of ``steps`` rewards and the value after them; fewer where the episode or the row ends
    before.
    """
    target_BT = one_step(reward_BT, next_value_BT, terminated_BT, gamma)
    single_BT, goes_on_BT = target_BT, _goes_on(ended_BT, reward_BT)[:, :-1] > 0
    for _ in range(steps - 1):
        further_BT = reward_BT[:, :-1] + gamma * target_BT[:, 1:]
        target_BT = torch.cat([torch.where(goes_on_BT, further_BT, single_BT[:, :-1]), single_BT[:, -1:]], 1)
    return target_BT


def one_step(reward_BT: Tensor, next_value_BT: Tensor, terminated_BT: Tensor, gamma: float) -> Tensor:
    """r + gamma V', of which termination leaves r alone: ``[B, T]``."""
    return reward_BT + gamma * _goes_on(terminated_BT, reward_BT) * next_value_BT


def _goes_on(mark_BT: Tensor, like_BT: Tensor) -> Tensor:
    return 1 - mark_BT.to(like_BT.dtype)


def _summed(now_BT: Tensor, carry_BT: Tensor) -> Tensor:
    """y_t = now_t + carry_t y_{t+1}, from the end of the row backwards: ``[B, T]``."""
    later_B, found = torch.zeros_like(now_BT[:, 0]), []
    for now_B, carry_B in zip(reversed(now_BT.unbind(1)), reversed(carry_BT.unbind(1))):
        later_B = torch.addcmul(now_B, carry_B, later_B)
        found.append(later_B)
    return torch.stack(found[::-1], 1)
