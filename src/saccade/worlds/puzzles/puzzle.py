"""The interface of puzzles: answers sampled in equal parts, and the pictures of a question with a given answer.

A puzzle's ``name`` is the source of its problems, ``kind`` the kind of its answer, ``wordings`` are six questions, of
which the last two are held out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

Pictures = tuple[np.ndarray, ...]
"""The pictures of a question, each uint8 ``[H, W, 3]``."""
Another = Callable[[], np.ndarray]
"""Loads another picture, cut to a square as the first one was."""
MIN_DIFFERENCE = 2.0
"""Mean difference in 0..255 below which two pictures look the same."""


class Puzzle(Protocol):
    """Changes a picture and asks what was done."""

    name: ClassVar[str]
    kind: ClassVar[str]
    wordings: ClassVar[tuple[str, ...]]

    def sample_answers(self, count: int, rng: np.random.Generator) -> Sequence[Any]:
        """``count`` answers, each as often as any other."""
        ...

    def min_side(self, side: int) -> int:
        """The least side in pixels of the pictures made from a square of ``side`` pixels."""
        ...

    def pictures(self, picture: np.ndarray, another: Another, answer: Any, rng: np.random.Generator) -> Pictures | None:
        """The pictures of a question with this answer, made from a square picture and, if need be, from another.

        None where the picture makes the answer ambiguous, so that another one has to be taken.
        """
        ...

    def text(self, answer: Any) -> str:
        """The answer as text."""
        ...

    def slots(self) -> dict[str, str]:
        """Texts that fill the slots of the wordings."""
        ...


def check_strength(name: str, strength: float) -> None:
    """ValueError where a strength lies outside 0 to 1."""
    if not 0 <= strength <= 1:
        raise ValueError(f"{name} has strength {strength}; it lies between 0 and 1")
