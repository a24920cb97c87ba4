"""Best-of-n sampling: several samples of each problem, of which the one with the highest reward is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.core import Problem, Reward, Rollout, Sampler
from saccade.training.groups import sample_groups


@dataclass(frozen=True)
class BestOf:
    """A sampler that draws ``count`` samples of each problem and keeps the one that ``reward`` rates highest.

    A sample whose reward is NaN is kept only if there is no other.
    """

    sampler: Sampler
    reward: Reward
    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count {self.count} is less than 1")

    def __call__(self, problems: Sequence[Problem], seeds_P: Tensor) -> Rollout:
        """One sample of each problem, in the order of the problems ``[P]``."""
        rollout = sample_groups(self.sampler, problems, seeds_P, self.count)
        reward_PG = self.reward(rollout).nan_to_num(-torch.inf).view(len(problems), self.count)
        best = rollout.rows(reward_PG.argmax(1) + torch.arange(len(problems)) * self.count)
        best.group_B = torch.arange(len(problems))
        return best
