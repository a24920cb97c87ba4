"""Rewards on length: by the cosine of the length, beyond a limit, and for repetition.

Cosine: 2502.03373, as VLM-R1 2504.07615 uses it. Overlong: DAPO 2503.14476. The length of a row is the number of its
decisions, ``extras["length_B"]``. Lengths relative to a reference program are in `reference`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.core import Problem, Reward, Rollout
from saccade.rewards.text.parsing import score_rows


def words(text: str) -> list[str]:
    """The words of a text, split at spaces, in lower case."""
    return text.lower().split()


@dataclass(frozen=True)
class CosineLength:
    """A reward that follows half a cosine from length 0 to ``longest``: high for short correct and long wrong answers.

    An answer is correct where ``score`` is ``threshold`` or more; ``correct`` and ``wrong`` are the rewards at length 0
    and at full length.
    """

    score: Reward
    longest: int = 1024
    threshold: float = 0.7
    correct: tuple[float, float] = (1.0, 0.5)
    wrong: tuple[float, float] = (-0.5, 0.0)

    def __call__(self, rollout: Rollout) -> Tensor:
        """``[B]``; NaN where ``score`` is NaN."""
        score_B = self.score(rollout)
        fraction_B = (rollout.extras["length_B"].to(score_B) / self.longest).clamp(max=1)
        falling_B = (1 + (math.pi * fraction_B).cos()) / 2
        values = lambda ends: ends[1] + (ends[0] - ends[1]) * falling_B
        reward_B = torch.where(score_B >= self.threshold, values(self.correct), values(self.wrong))
        return reward_B.masked_fill(score_B.isnan(), math.nan)


@dataclass(frozen=True)
class Overlong:
    """DAPO's soft overlong punishment: 0 up to ``longest - cache``, falling to -1 at ``longest``, -1 beyond."""

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
    """-(1 - distinct / all) over the n-grams of ``size`` items of a text: 0 where none is repeated.

    ``items`` splits a text: into `words`, or into its boxes (`parsing.parse_boxes`, with ``size`` 1).
    """

    size: int = 6
    items: Callable[[str], Sequence[Hashable] | None] = words

    def __call__(self, rollout: Rollout) -> Tensor:
        """In (-1, 0] ``[B]``."""
        return score_rows(rollout, self._score)

    def _score(self, problem: Problem, text: str) -> float:
        items = self.items(text) or ()
        ngrams = [tuple(items[i : i + self.size]) for i in range(len(items) - self.size + 1)]
        return len(set(ngrams)) / len(ngrams) - 1 if ngrams else 0.0
