"""Contrast: two augmented views of the same picture, or of two pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from saccade.worlds.puzzles.puzzle import MIN_DIFFERENCE, Another, Pictures, check_strength
from saccade.worlds.puzzles.views import augmented, distance, resized
from saccade.worlds.splits import balanced

WORDINGS = (
    "Do the two pictures show the same scene, changed, or different scenes? Answer same or different.",
    "Were the two pictures made from the same picture? Answer same or different.",
    "Are the two pictures changed views of the same picture or of different ones? Answer same or different.",
    "Is the second picture another view of the same scene? Answer same or different.",
    "Tell me if the two pictures come from the same picture: same or different.",
    "One picture or two behind these views: same or different?",
)


@dataclass(frozen=True)
class Contrast:
    """Asks whether two augmented views show one picture or two; ``strength`` of the augmentation is 0 to 1."""

    name: ClassVar[str] = "contrast"
    kind: ClassVar[str] = "word"
    wordings: ClassVar[tuple[str, ...]] = WORDINGS
    strength: float = 1.0

    def __post_init__(self) -> None:
        check_strength("contrast", self.strength)

    def sample_answers(self, count: int, rng: np.random.Generator) -> Sequence[bool]:
        return (balanced(count, 2, rng) == 1).tolist()

    def min_side(self, side: int) -> int:
        return side

    def pictures(
        self, picture: np.ndarray, another: Another, answer: bool, rng: np.random.Generator
    ) -> Pictures | None:
        side, other = len(picture), another()
        if distance(picture, resized(other, side)) < MIN_DIFFERENCE:
            return None
        views = (picture, picture if answer else other)
        return tuple(augmented(view, self.strength, side, rng) for view in views)

    def text(self, answer: bool) -> str:
        return "same" if answer else "different"

    def slots(self) -> dict[str, str]:
        return {}
