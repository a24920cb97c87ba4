"""Independent attempts in groups, and schedules of which denoising steps are drawn.

Flow-GRPO-Fast and MixGRPO (2507.21802) draw and train a window of steps; the window is a function of the training step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from saccade.core import Problem, Rollout, generator, spawn

Attempt = Callable[[Sequence[Problem], Tensor], Rollout]


def in_groups(attempt: Attempt, problems: Sequence[Problem], seeds_P: Tensor, group: int) -> Rollout:
    """``group`` independent attempts of each problem, rows of a problem side by side and numbered alike."""
    rows, seeds_B, group_B = spread(problems, seeds_P, group)
    rollout = attempt(rows, seeds_B)
    rollout.group_B = group_B
    return rollout


def spread(problems: Sequence[Problem], seeds_P: Tensor, group: int) -> tuple[list[Problem], Tensor, Tensor]:
    """Rows for ``group`` attempts of each problem: problems, their own seeds ``[B]`` and group numbers ``[B]``."""
    if group < 1:
        raise ValueError(f"a group is of 1 attempt or more, not {group}")
    seeds_B = torch.stack([spawn(seeds_P, k) for k in range(group)], 1).flatten()
    return [p for p in problems for _ in range(group)], seeds_B, torch.arange(len(problems)).repeat_interleave(group)


def sliding_window(step: int, width: int, steps: int, every: int = 25, stride: int = 1) -> tuple[int, ...]:
    """MixGRPO: ``width`` steps that move on by ``stride`` each ``every`` updates and wrap round to the first."""
    places = max(steps - width + 1, 1)
    start = (step // every * stride) % places
    return tuple(range(start, min(start + width, steps)))


def random_window(seed: int, step: int, width: int, steps: int) -> tuple[int, ...]:
    """Flow-GRPO-Fast: ``width`` neighbouring ones of ``steps`` steps, that begin at a random one of the first half."""
    g = generator(int(spawn(torch.tensor([seed]), step)))
    last = max(min(steps // 2, steps - width), 0)
    start = int(torch.randint(last + 1, (1,), generator=g))
    return tuple(range(start, min(start + width, steps)))
