"""Rotation: the second picture is the first one rotated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from saccade.worlds.puzzles.puzzle import MIN_DIFFERENCE, Another, Pictures
from saccade.worlds.puzzles.views import distance, rotated
from saccade.worlds.splits import balanced

WORDINGS = (
    "The second picture is the first one turned counterclockwise. By how many degrees: {options}?",
    "By how many degrees was the first picture turned counterclockwise to give the second: {options}?",
    "Compare the two pictures. How many degrees counterclockwise was the first one turned: {options}?",
    "How far counterclockwise is the second picture turned against the first, in degrees: {options}?",
    "Tell me by how many degrees the first picture was turned counterclockwise to become the second: {options}.",
    "The first picture was turned counterclockwise into the second: {options} degrees?",
)


@dataclass(frozen=True)
class Rotation:
    """Asks by how many degrees the second picture is the first one rotated counterclockwise.

    ``angles`` is the number of angles: 2 (0 or 180 degrees), 4 (right angles) or 8 (every 45 degrees; then both
    pictures are cut to the square inside every rotation). ``marked`` first paints a white mark into the upper left
    corner, which makes the puzzle trivial.
    """

    name: ClassVar[str] = "rotation"
    kind: ClassVar[str] = "number"
    wordings: ClassVar[tuple[str, ...]] = WORDINGS
    angles: int = 4
    marked: bool = False

    def __post_init__(self) -> None:
        if self.angles not in (2, 4, 8):
            raise ValueError(f"rotation has angles {self.angles}; it must be 2, 4 or 8")

    def sample_answers(self, count: int, rng: np.random.Generator) -> Sequence[int]:
        return (balanced(count, self.angles, rng) * (360 // self.angles)).tolist()

    def min_side(self, side: int) -> int:
        return int(side / np.sqrt(2)) if self.angles == 8 else side

    def pictures(self, picture: np.ndarray, another: Another, answer: int, rng: np.random.Generator) -> Pictures | None:
        inner = self.min_side(len(picture))
        cut = (len(picture) - inner) // 2
        center = np.s_[cut : cut + inner, cut : cut + inner]
        if self.marked:
            picture = picture.copy()
            picture[center][: max(2, inner // 6), : max(2, inner // 6)] = 255
        rotations = (180,) if self.angles == 2 else (90, 180)
        if any(distance(picture[center], rotated(picture[center], angle)) < MIN_DIFFERENCE for angle in rotations):
            return None
        return picture[center], rotated(picture, answer)[center]

    def text(self, answer: int) -> str:
        return str(answer)

    def slots(self) -> dict[str, str]:
        degrees = [str(k * 360 // self.angles) for k in range(self.angles)]
        return {"options": " or ".join([", ".join(degrees[:-1]), degrees[-1]])}
