"""Problems of this world: a picture, what was done to it, and the question about that; no label is needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from saccade.core import Problem, Question
from saccade.worlds.images import Indexed
from saccade.worlds.puzzles.contrast import Contrast
from saccade.worlds.puzzles.jigsaw import Jigsaw
from saccade.worlds.puzzles.position import Position
from saccade.worlds.puzzles.puzzle import Pictures, Puzzle
from saccade.worlds.puzzles.rotation import Rotation
from saccade.worlds.puzzles.views import resized, square
from saccade.worlds.splits import balanced, sample_wordings, split_rng

PUZZLES: tuple[Puzzle, ...] = (Rotation(), Position(), Jigsaw(), Contrast())


PictureSource = Indexed[np.ndarray]
"""Pictures uint8 ``[H, W, 3]``, each of its own size: a list, an array ``[N, H, W, 3]``, or a folder."""


def sample_problems(
    pictures: PictureSource,
    count: int,
    seed: int,
    puzzles: Sequence[Puzzle] = PUZZLES,
    split: str | None = "train",
    size: int | None = None,
    crop: float = 1.0,
    min_side: int = 4,
) -> list[Problem]:
    """``count`` problems, puzzles in equal parts.

    ``inputs`` is a Question about two pictures or more, ``source`` the puzzle's name, ``answer`` {"text", "kind"}.

    Every picture is first cut to a square, whose side is at least ``crop`` of the shorter side, and resized to ``size``
    pixels (None keeps its size). ``split`` selects the wordings: "train", "held_out", None for all; to hold out
    pictures, give other ones. A picture for which the answer is ambiguous (pieces that are nearly equal, a rotation
    that changes nothing) is replaced by another. ValueError where all pictures are ambiguous, where a picture would be
    shown with less than ``min_side`` pixels, or for settings out of range.
    """
    _check(pictures, puzzles, size, crop)
    rng = split_rng(seed, split)
    puzzle_P = balanced(count, len(puzzles), rng)
    rows: list[Any] = [None] * count
    for k, puzzle in enumerate(puzzles):
        indices = np.flatnonzero(puzzle_P == k).tolist()
        source = _Squares(pictures, size, crop, rng)
        texts = sample_wordings(puzzle.wordings, split, [puzzle.slots()] * len(indices), rng)
        for i, text, answer in zip(indices, texts, puzzle.sample_answers(len(indices), rng)):
            shown = _pictures(puzzle, answer, source, min_side, rng)
            rows[i] = Question(text, shown), {"text": puzzle.text(answer), "kind": puzzle.kind}, puzzle.name
    return [Problem(i, *row) for i, row in enumerate(rows)]


class _Squares:
    """Square cuts of pictures; ``order`` gives each picture as often as any other."""

    def __init__(self, pictures: PictureSource, size: int | None, crop: float, rng: np.random.Generator):
        self.pictures, self.size, self.crop, self.rng = pictures, size, crop, rng
        self.order = self._shuffled()

    def _shuffled(self) -> Iterator[int]:
        while True:
            yield from self.rng.permutation(len(self.pictures)).tolist()

    def cut(self, index: int) -> np.ndarray:
        """A square of picture ``index``. ValueError unless it is uint8 ``[H, W, 3]``."""
        picture = np.asarray(self.pictures[index])
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(f"picture {index} is {picture.dtype} {list(picture.shape)}; uint8 [H, W, 3] is needed")
        part = square(picture, self.crop, self.rng)
        return part if self.size is None or self.size == len(part) else resized(part, self.size)

    def another(self, index: int, picture: np.ndarray) -> np.ndarray:
        """A square of another picture than ``index``; ``picture`` itself where there is no other."""
        count = len(self.pictures)
        return self.cut((index + int(self.rng.integers(1, count))) % count) if count > 1 else picture


def _pictures(puzzle: Puzzle, answer: Any, source: _Squares, min_side: int, rng: np.random.Generator) -> Pictures:
    """The pictures of one problem, made from the first picture for which the answer is unambiguous."""
    for _ in range(len(source.pictures)):
        index = next(source.order)
        picture = source.cut(index)
        side = puzzle.min_side(len(picture))
        if side < min_side:
            why = f"would show {side} px of picture {index} ({len(picture)} px); the least is {min_side}"
            raise ValueError(f"{puzzle.name} {why}")
        another = lambda index=index, picture=picture: source.another(index, picture)
        shown = puzzle.pictures(picture, another, answer, rng)
        if shown is not None:
            return shown
    raise ValueError(f"{puzzle.name}: the answer is ambiguous in each of the {len(source.pictures)} pictures")


def _check(pictures: PictureSource, puzzles: Sequence[Puzzle], size: int | None, crop: float) -> None:
    if not len(pictures):
        raise ValueError("there are no pictures")
    if not puzzles:
        raise ValueError("no puzzle is chosen; known: Rotation, Position, Jigsaw, Contrast")
    if size is not None and size < 1:
        raise ValueError(f"size is {size}; it must be 1 or more")
    if not 0 < crop <= 1:
        raise ValueError(f"crop is {crop}; it lies between 0 and 1")
