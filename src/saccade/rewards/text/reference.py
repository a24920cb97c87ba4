"""Rewards on a program's text beside its reference's, whatever the two draw: how much is the same, how long it is.

The control for rewards that look at pictures: many programs draw the same picture, and only one of them is the
reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from torch import Tensor

from saccade.core import Problem, Rollout
from saccade.rewards.text.parsing import edit_distance
from saccade.rewards.text.reading import each_row, said

Tokens = Callable[[str], Sequence[Hashable]]
"""What a text is taken apart into: letters, words, a tokenizer's tokens."""


@dataclass(frozen=True)
class TokenOverlap:
    """1 - edit distance / length of the longer one, between the tokens written and those of
    ``problem.answer["code"]``.
    """

    tokens: Tokens = list

    def __call__(self, rollout: Rollout) -> Tensor:
        """In [0, 1] ``[B]``; NaN where the problem has no reference program."""
        return each_row(rollout, self._verdict)

    def _verdict(self, problem: Problem, text: str) -> float:
        reference = code(problem)
        if reference is None:
            return math.nan
        one, other = self.tokens(said(text) or ""), self.tokens(reference)
        return 1 - edit_distance(one, other) / max(len(one), len(other))


@dataclass(frozen=True)
class LengthRatio:
    """How many tokens were written for each of the reference's: 1 is its own length, less is shorter."""

    tokens: Tokens = list

    def __call__(self, rollout: Rollout) -> Tensor:
        """At least 0 ``[B]``; NaN where the problem has no reference program."""
        return each_row(rollout, self._verdict)

    def _verdict(self, problem: Problem, text: str) -> float:
        reference = code(problem)
        return math.nan if reference is None else len(self.tokens(said(text) or "")) / len(self.tokens(reference))


@dataclass(frozen=True)
class RelativeLength:
    """RLRF's 2505.20793 clip(1 - max(0, L / L_ref - 1/2)^2, -1, 1).

    Free up to half the reference's length, 0.75 at its length, 0 at one and a half.
    """

    tokens: Tokens = list

    def __call__(self, rollout: Rollout) -> Tensor:
        """In [-1, 1] ``[B]``; NaN where the problem has no reference program."""
        excess_B = (LengthRatio(self.tokens)(rollout) - 0.5).clamp(min=0)
        return (1 - excess_B**2).clamp(min=-1)


def code(problem: Problem) -> str | None:
    """The reference program of a problem, None if it has none."""
    found = problem.answer.get("code") if isinstance(problem.answer, dict) else None
    return found.strip() or None if isinstance(found, str) else None
