"""A learned reward: how much of what was asked a critic sees in a picture, and how little else; smooth in the pixels.

With p_k the probability that kind k is present, w_i = 1 - prod over the kinds that answer thing i of (1 - p_k), and e the sum
of all other p_k: r = mean_i w_i . sum_i w_i / (sum_i w_i + e). It knows no numbers and no places, and its critic is small:
it is imperfect, and so the place to see whether a generator games what it is trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.core import Problem, Rollout
from saccade.models.critic import Critic


@dataclass(frozen=True, eq=False)
class CriticReward:
    """r in [0, 1] ``[B]``; ``wanted`` gives the kinds that answer each thing of a problem, ``[things, K]``, NaN for no verdict.

    Saved and loaded with the critic's weights.
    """

    critic: Critic
    wanted: Callable[[Problem], Tensor]

    def __call__(self, rollout: Rollout) -> Tensor:
        return verdict(self.critic(rollout.outputs), self.wanted, rollout.problems)

    @torch.no_grad()
    def features(self, pictures: Tensor, rows: int = 256) -> Tensor:
        """Features of pictures, whatever was asked: ``[B, D]``."""
        return torch.cat([self.critic.features(part) for part in pictures.split(rows)])

    def state_dict(self) -> dict[str, Tensor]:
        return self.critic.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.critic.load_state_dict(dict(state))


def verdict(logit_BK: Tensor, wanted: Callable[[Problem], Tensor], problems: Sequence[Problem]) -> Tensor:
    """r ``[B]`` of logits of presence, NaN for a problem that wants no kinds."""
    want_BTK = torch.stack([wanted(problem) for problem in problems]).to(logit_BK.device)
    known_B = want_BTK.isfinite().flatten(1).all(1)
    return torch.where(known_B, soft_points(logit_BK, torch.where(known_B[:, None, None], want_BTK, 0.0)), torch.nan)


def soft_points(logit_BK: Tensor, want_BTK: Tensor) -> Tensor:
    """r ``[B]`` of logits of presence and of the kinds wanted; 0 where nothing is."""
    absent_BK = F.softplus(logit_BK)
    won_BT = -torch.expm1(-(want_BTK * absent_BK[:, None]).sum(2))
    strangers_B = (logit_BK.sigmoid() * (1 - want_BTK.amax(1))).sum(1)
    things_B, won_B = want_BTK.any(2).sum(1).clamp(min=1), won_BT.sum(1)
    return won_B / things_B * won_B / (won_B + strangers_B).clamp(min=1e-6)
