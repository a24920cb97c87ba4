"""Independent attempts in groups, and schedules of which denoising steps are drawn.

Flow-GRPO-Fast and MixGRPO (2507.21802) draw and train a window of steps; the window is a function of the training step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from saccade.core import Problem, Rollout, spawn

Attempt = Callable[[Sequence[Problem], Tensor], Rollout]


def sample_groups(attempt: Attempt, problems: Sequence[Problem], seeds_P: Tensor, group: int) -> Rollout:
    """``group`` independent attempts of each problem, rows of a problem side by side and numbered alike."""
    rows, seeds_B, group_B = repeat_for_groups(problems, seeds_P, group)
    rollout = attempt(rows, seeds_B)
    rollout.group_B = group_B
    return rollout


def repeat_for_groups(problems: Sequence[Problem], seeds_P: Tensor, group: int) -> tuple[list[Problem], Tensor, Tensor]:
    """Rows for ``group`` attempts of each problem: problems, their own seeds ``[B]`` and group numbers ``[B]``."""
    if group < 1:
        raise ValueError(f"a group is of 1 attempt or more, not {group}")
    seeds_B = torch.stack([spawn(seeds_P, k) for k in range(group)], 1).flatten()
    return [p for p in problems for _ in range(group)], seeds_B, torch.arange(len(problems)).repeat_interleave(group)
