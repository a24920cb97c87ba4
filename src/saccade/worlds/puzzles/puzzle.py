"""What a puzzle is: truths dealt in equal parts, and a square picture posed for one of them.

A puzzle's ``name`` is the source of its problems, ``kind`` the kind of its answer, ``wordings`` six questions of which
training never shows the last two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

Shown = tuple[np.ndarray, ...]
"""The pictures of a question."""
Another = Callable[[], np.ndarray]
"""Reads another picture, cut to a square as the first one was."""
ALIKE = 2.0
"""Mean difference in 0..255 below which two pictures look the same."""


class Puzzle(Protocol):
    """What is done to a picture and asked about it."""

    name: ClassVar[str]
    kind: ClassVar[str]
    wordings: ClassVar[tuple[str, ...]]

    def deal(self, count: int, rng: np.random.Generator) -> Sequence[Any]:
        """Truths, each as often as any other."""

    def smallest(self, side: int) -> int:
        """The least side of a picture that is shown of a square of ``side`` pixels."""

    def pose(self, picture: np.ndarray, another: Another, truth: Any, rng: np.random.Generator) -> Shown | None:
        """What is shown of a square picture, and if need be of another, for a truth.

        None where this picture leaves the truth in doubt, so that another has to be taken.
        """

    def text(self, truth: Any) -> str:
        """The answer."""

    def slots(self) -> dict[str, str]:
        """What fills the wording."""


def check_strength(name: str, strength: float) -> None:
    """ValueError where a strength is none."""
    if not 0 <= strength <= 1:
        raise ValueError(f"{name} has strength {strength}; it lies between 0 and 1")
