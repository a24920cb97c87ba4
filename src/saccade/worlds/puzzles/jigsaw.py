"""Jigsaw: the pieces of a picture in random order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from saccade.worlds.puzzles.puzzle import MIN_DIFFERENCE, Another, Pictures

WORDINGS = (
    "A picture was cut into {grid} x {grid} pieces, shown in mixed order and counted from 1. For each place of the"
    " whole picture, row by row from the top left, give the number of the piece that belongs there, with commas.",
    "These are the {number} pieces of one picture, mixed, numbered 1 to {number} as they are shown. List, in raster"
    " order of the whole {grid} x {grid} picture, the number of the piece that belongs at each place, with commas.",
    "Put the {number} pieces back into a {grid} x {grid} picture. Go through its places row by row and write for each"
    " the number of the piece that belongs there, as counted from 1 in the order shown, with commas.",
    "Which of the {number} pieces belongs at each place of the {grid} x {grid} picture? Answer place by place, each"
    " row from left to right and the top row first, with the number of the piece (1 is shown first), with commas.",
    "The {number} pieces of a {grid} x {grid} picture are shown in mixed order. Tell me, for the places from the top"
    " left to the bottom right, row by row, which piece goes there: its number as shown, from 1, with commas.",
    "Solve the {grid} x {grid} jigsaw: for every place, row by row, name the number (from 1, as shown) of the piece"
    " that belongs there, with commas.",
)
Order = tuple[int, ...]
"""Numbers of pieces from 0, counted row by row in the picture, in the order in which they are shown."""


@dataclass(frozen=True)
class Jigsaw:
    """Asks for each place of a picture, row by row, which of its pieces, shown in random order, belongs there.

    An answer is the order in which the pieces are shown; its text is the inverse order, counted from 1. ``grid`` is the
    number of pieces a side (2 to 6), ``gap`` the pixels removed around each piece, so that edges do not fit.
    """

    name: ClassVar[str] = "jigsaw"
    kind: ClassVar[str] = "list"
    wordings: ClassVar[tuple[str, ...]] = WORDINGS
    grid: int = 2
    gap: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.grid <= 6:
            raise ValueError(f"jigsaw has grid {self.grid}; it must be 2 to 6")
        if self.gap < 0:
            raise ValueError(f"jigsaw has gap {self.gap}; it must be 0 or more")

    def sample_answers(self, count: int, rng: np.random.Generator) -> Sequence[Order]:
        orders = rng.random((count, self.grid**2)).argsort(1)
        return [tuple(order) for order in orders.tolist()]

    def min_side(self, side: int) -> int:
        return side // self.grid - 2 * self.gap

    def pictures(
        self, picture: np.ndarray, another: Another, answer: Order, rng: np.random.Generator
    ) -> Pictures | None:
        side, inner = len(picture) // self.grid, self.min_side(len(picture))
        corners = [(k // self.grid * side + self.gap, k % self.grid * side + self.gap) for k in range(self.grid**2)]
        pieces = [picture[y : y + inner, x : x + inner].copy() for y, x in corners]
        return None if _has_duplicates(pieces) else tuple(pieces[k] for k in answer)

    def text(self, answer: Order) -> str:
        return ",".join(str(answer.index(place) + 1) for place in range(len(answer)))

    def slots(self) -> dict[str, str]:
        return {"grid": str(self.grid), "number": str(self.grid**2)}


def _has_duplicates(pieces: Sequence[np.ndarray]) -> bool:
    """Whether two pieces are nearly equal, so that their places are ambiguous."""
    step = max(1, pieces[0].shape[0] // 24)
    small = np.stack([piece[::step, ::step] for piece in pieces]).astype(np.int16).reshape(len(pieces), -1)
    return any(float(np.abs(small[i + 1 :] - small[i]).mean(1).min()) < MIN_DIFFERENCE for i in range(len(pieces) - 1))
