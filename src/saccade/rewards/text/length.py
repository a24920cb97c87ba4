"""Rewards on how much was written: by the cosine of its length, past a limit, over and over.

Cosine: 2502.03373, as VLM-R1 2504.07615 uses it. Overlong: DAPO 2503.14476. Lengths are a row's own decisions,
``extras["length_B"]``. Lengths beside a reference's are in `imitation`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.core import Problem, Reward, Rollout
from saccade.rewards.text.reading import each_row


def words(text: str) -> list[str]:
    """What stands between spaces, in lower case."""
    return text.lower().split()


@dataclass(frozen=True)
class CosineLength:
    """A bonus that follows half a cosine from no length to ``longest``: right answers had better be short, wrong ones
    long.

    ``score`` tells right (``least`` or more) from wrong; ``right`` and ``wrong`` are the values at no and at full
    length.
    """

    score: Reward
    longest: int = 1024
    least: float = 0.7
    right: tuple[float, float] = (1.0, 0.5)
    wrong: tuple[float, float] = (-0.5, 0.0)

    def __call__(self, rollout: Rollout) -> Tensor:
        """``[B]``; NaN where ``score`` has no verdict."""
        score_B = self.score(rollout)
        share_B = (rollout.extras["length_B"].to(score_B) / self.longest).clamp(max=1)
        falling_B = (1 + (math.pi * share_B).cos()) / 2
        values = lambda ends: ends[1] + (ends[0] - ends[1]) * falling_B
        bonus_B = torch.where(score_B >= self.least, values(self.right), values(self.wrong))
        return bonus_B.masked_fill(score_B.isnan(), math.nan)


@dataclass(frozen=True)
class Overlong:
    """DAPO's soft punishment: 0 up to ``longest - cache``, falling to -1 at ``longest``, -1 beyond."""

    longest: int
    cache: int

    def __post_init__(self) -> None:
        if not 0 < self.cache <= self.longest:
            raise ValueError(f"cache {self.cache} is outside 1 … {self.longest}, the longest row")

    def __call__(self, rollout: Rollout) -> Tensor:
        """In [-1, 0] ``[B]``."""
        return ((self.longest - self.cache - rollout.extras["length_B"]) / self.cache).clamp(-1, 0)


@dataclass(frozen=True)
class Repetition:
    """-(1 - different / all) over the runs of ``size`` items of a text: 0 where nothing is said twice.

    ``items`` takes a text apart: into `words`, or into the boxes in it (`reading.boxes`, with ``size`` 1).
    """

    size: int = 6
    items: Callable[[str], Sequence[Hashable] | None] = words

    def __call__(self, rollout: Rollout) -> Tensor:
        """In (-1, 0] ``[B]``."""
        return each_row(rollout, self._verdict)

    def _verdict(self, problem: Problem, text: str) -> float:
        items = self.items(text) or ()
        runs = [tuple(items[i : i + self.size]) for i in range(len(items) - self.size + 1)]
        return len(set(runs)) / len(runs) - 1 if runs else 0.0
