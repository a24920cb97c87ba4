"""Groups of samples of one problem, which are compared with one another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from saccade.core import Problem, Rollout, Sampler
from saccade.random import stream


def sample_groups(sampler: Sampler, problems: Sequence[Problem], seeds_P: Tensor, group_size: int) -> Rollout:
    """``group_size`` independent samples of each problem, in adjacent rows with the same group number."""
    rows, seeds_B, group_B = repeat_for_groups(problems, seeds_P, group_size)
    rollout = sampler(rows, seeds_B)
    rollout.group_B = group_B
    return rollout


def repeat_for_groups(
    problems: Sequence[Problem], seeds_P: Tensor, group_size: int
) -> tuple[list[Problem], Tensor, Tensor]:
    """The rows of ``group_size`` samples of each problem: problems, their seeds ``[B]`` and group numbers ``[B]``.

    ValueError for a group of no samples.
    """
    if group_size < 1:
        raise ValueError(f"a group has 1 sample or more, not {group_size}")
    seeds_B = torch.stack([stream(seeds_P, "sample", k) for k in range(group_size)], 1).flatten()
    rows = [problem for problem in problems for _ in range(group_size)]
    return rows, seeds_B, torch.arange(len(problems)).repeat_interleave(group_size)
