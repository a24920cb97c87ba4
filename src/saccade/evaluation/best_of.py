"""The best of several attempts: what a sampler gives when it may try more than once and can judge what it made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.core import Problem, Reward, Rollout, Sampler
from saccade.training.groups import sample_groups


@dataclass(frozen=True)
class BestOf:
    """``count`` attempts at each problem, of which the one that ``reward`` rates highest is kept; one without
    verdict is last.
    """

    attempt: Sampler
    reward: Reward
    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count {self.count} is less than 1")

    def __call__(self, problems: Sequence[Problem], seeds_P: Tensor) -> Rollout:
        """One attempt at each problem, in their order."""
        rollout = sample_groups(self.attempt, problems, seeds_P, self.count)
        value_PG = self.reward(rollout).nan_to_num(-torch.inf).view(len(problems), self.count)
        best = rollout.rows(value_PG.argmax(1) + torch.arange(len(problems)) * self.count)
        best.group_B = torch.arange(len(problems))
        return best
