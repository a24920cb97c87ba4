"""Rewards on the text of a program relative to the reference program, whatever the two draw: overlap and length.

The control for rewards that look at pictures: many programs draw the same picture, and only one of them is the
reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from torch import Tensor

from saccade.core import Problem, Rollout
from saccade.rewards.text.parsing import edit_distance, parse_answer, score_rows

Tokens = Callable[[str], Sequence[Hashable]]
"""Splits a text into characters, words, or a tokenizer's tokens."""


@dataclass(frozen=True)
class TokenOverlap:
    """1 - edit distance / length of the longer one, in tokens, of the text and ``problem.answer["code"]``."""

    tokens: Tokens = list

    def __call__(self, rollout: Rollout) -> Tensor:
        """In [0, 1] ``[B]``; NaN where the problem has no reference program."""
        return score_rows(rollout, self._score)

    def _score(self, problem: Problem, text: str) -> float:
        reference = reference_program(problem)
        if reference is None:
            return math.nan
        written, target = self.tokens(parse_answer(text) or ""), self.tokens(reference)
        return 1 - edit_distance(written, target) / max(len(written), len(target))


@dataclass(frozen=True)
class LengthRatio:
    """Number of tokens of the text over that of the reference program: 1 is the same length, less is shorter."""

    tokens: Tokens = list

    def __call__(self, rollout: Rollout) -> Tensor:
        """At least 0 ``[B]``; NaN where the problem has no reference program."""
        return score_rows(rollout, self._score)

    def _score(self, problem: Problem, text: str) -> float:
        reference = reference_program(problem)
        if reference is None:
            return math.nan
        return len(self.tokens(parse_answer(text) or "")) / len(self.tokens(reference))


@dataclass(frozen=True)
class RelativeLength:
    """RLRF's 2505.20793 clip(1 - max(0, L / L_ref - 1/2)^2, -1, 1).

    1 up to half the reference's length, 0.75 at its length, 0 at one and a half.
    """

    tokens: Tokens = list

    def __call__(self, rollout: Rollout) -> Tensor:
        """In [-1, 1] ``[B]``; NaN where the problem has no reference program."""
        excess_B = (LengthRatio(self.tokens)(rollout) - 0.5).clamp(min=0)
        return (1 - excess_B**2).clamp(min=-1)


def reference_program(problem: Problem) -> str | None:
    """The reference program of a problem, None if it has none."""
    found = problem.answer.get("code") if isinstance(problem.answer, dict) else None
    return found.strip() or None if isinstance(found, str) else None
