"""Position: the second picture is a part of the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from saccade.worlds.puzzles.puzzle import MIN_DIFFERENCE, Another, Pictures, check_strength
from saccade.worlds.puzzles.views import distance, recolored
from saccade.worlds.splits import QUARTERS, balanced

WORDINGS = (
    "The second picture is a part of the first. In which quarter does it lie: {options}?",
    "From which quarter of the first picture was the second one cut: {options}?",
    "Which quarter of the first picture does the second one show a part of: {options}?",
    "Find the second picture in the first. Which quarter is it in: {options}?",
    "Tell me from which quarter of the first picture the second one comes: {options}.",
    "The second picture was cut out of the first: {options}?",
)
_TRIES = 8
"""Number of random parts of a picture that are tried."""
_MIN_STD = 12.0
"""Least standard deviation, in some channel, of a part that can be located."""


@dataclass(frozen=True)
class Position:
    """Asks out of which quarter of the first picture the second one is cut.

    The part's height and width are fractions of the quarter's, sampled from the range ``share``; ``strength``, 0 to 1,
    is that of the change of its colors.
    """

    name: ClassVar[str] = "position"
    kind: ClassVar[str] = "word"
    wordings: ClassVar[tuple[str, ...]] = WORDINGS
    share: tuple[float, float] = (0.2, 0.8)
    strength: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.share[0] <= self.share[1] <= 1:
            raise ValueError(f"position has share {self.share}; the least and greatest lie between 0 and 1")
        check_strength("position", self.strength)

    def sample_answers(self, count: int, rng: np.random.Generator) -> Sequence[int]:
        return balanced(count, len(QUARTERS), rng).tolist()

    def min_side(self, side: int) -> int:
        return round(side // 2 * self.share[0])

    def pictures(self, picture: np.ndarray, another: Another, answer: int, rng: np.random.Generator) -> Pictures | None:
        half = len(picture) // 2
        corners = [(y, x) for y in (0, len(picture) - half) for x in (0, len(picture) - half)]
        quarters = [picture[y : y + half, x : x + half] for y, x in corners]
        for _ in range(_TRIES):
            height, width = np.rint(half * rng.uniform(*self.share, 2)).astype(int)
            top, left = rng.integers([half - height + 1, half - width + 1])
            parts = [quarter[top : top + height, left : left + width] for quarter in quarters]
            if _is_unique(parts, answer):
                part = parts[answer].copy()
                return picture, recolored(part, self.strength, rng) if self.strength else part
        return None

    def text(self, answer: int) -> str:
        return QUARTERS[answer]

    def slots(self) -> dict[str, str]:
        return {"options": f"{', '.join(QUARTERS[:-1])} or {QUARTERS[-1]}"}


def _is_unique(parts: Sequence[np.ndarray], answer: int) -> bool:
    """Whether a part is not plain and differs from the same place in the other quarters."""
    others = [part for k, part in enumerate(parts) if k != answer]
    return (
        parts[answer].std((0, 1)).max() > _MIN_STD
        and min(distance(parts[answer], part) for part in others) > MIN_DIFFERENCE
    )
