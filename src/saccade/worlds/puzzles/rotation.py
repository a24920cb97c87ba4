"""Rotation: the second picture is the first, turned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from saccade.worlds.puzzles.puzzle import ALIKE, Another, Shown
from saccade.worlds.puzzles.views import distance, turned
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
    """The second picture is the first turned counterclockwise: by how many degrees?

    ``steps`` is the number of angles: 2 (0 or 180), 4 (right angles) or 8 (every 45 degrees; then both pictures are cut
    to the square that every turn keeps). ``marked`` first paints a white mark into the upper left corner: trivial.
    """

    name: ClassVar[str] = "rotation"
    kind: ClassVar[str] = "number"
    wordings: ClassVar[tuple[str, ...]] = WORDINGS
    steps: int = 4
    marked: bool = False

    def __post_init__(self) -> None:
        if self.steps not in (2, 4, 8):
            raise ValueError(f"rotation has steps {self.steps}; it must be 2, 4 or 8")

    def deal(self, count: int, rng: np.random.Generator) -> Sequence[int]:
        return (balanced(count, self.steps, rng) * (360 // self.steps)).tolist()

    def smallest(self, side: int) -> int:
        return int(side / np.sqrt(2)) if self.steps == 8 else side

    def pose(self, picture: np.ndarray, another: Another, truth: int, rng: np.random.Generator) -> Shown | None:
        inner = self.smallest(len(picture))
        cut = (len(picture) - inner) // 2
        kept = np.s_[cut : cut + inner, cut : cut + inner]
        if self.marked:
            picture = picture.copy()
            picture[kept][: max(2, inner // 6), : max(2, inner // 6)] = 255
        turns = (180,) if self.steps == 2 else (90, 180)
        if any(distance(picture[kept], turned(picture[kept], angle)) < ALIKE for angle in turns):
            return None
        return picture[kept], turned(picture, truth)[kept]

    def text(self, truth: int) -> str:
        return str(truth)

    def slots(self) -> dict[str, str]:
        angles = [str(k * 360 // self.steps) for k in range(self.steps)]
        return {"options": " or ".join([", ".join(angles[:-1]), angles[-1]])}
