"""Problems that any picture poses by itself: no label is needed, what was done to the picture is the truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from saccade.core import Problem, Question
from saccade.worlds.puzzles.contrast import Contrast
from saccade.worlds.puzzles.jigsaw import Jigsaw
from saccade.worlds.puzzles.position import Position
from saccade.worlds.puzzles.puzzle import Puzzle, Shown
from saccade.worlds.puzzles.rotation import Rotation
from saccade.worlds.puzzles.views import resized, square
from saccade.worlds.splits import balanced, stream, worded

PUZZLES: tuple[Puzzle, ...] = (Rotation(), Position(), Jigsaw(), Contrast())


class Pictures(Protocol):
    """Pictures uint8 [H, W, 3], each of its own size: a list, an array [N, H, W, 3], or a folder that reads them
    late.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> np.ndarray: ...


def problems(
    pictures: Pictures,
    count: int,
    seed: int,
    puzzles: Sequence[Puzzle] = PUZZLES,
    split: str | None = "train",
    size: int | None = None,
    crop: float = 1.0,
    least: int = 4,
) -> list[Problem]:
    """``count`` problems, puzzles in equal parts: ``inputs`` a Question about two pictures or more, ``source`` the
    puzzle's name, ``answer`` {"text", "kind"}.

    Every picture is first cut to a square, whose side is drawn from ``crop`` of the shorter side to all of it, and
    brought to ``size`` pixels (None: left as it is). ``split`` has wordings of its own ("train", "held_out", None for
    all); keep pictures apart by giving other ones. A picture that leaves a truth in doubt (pieces that look alike, a
    turn that changes nothing) is passed over for another. ValueError where all are, where a picture that would be shown
    is less than ``least`` pixels wide, or for a value that makes no sense.
    """
    _check(pictures, puzzles, size, crop)
    rng = stream(seed, split)
    which = balanced(count, len(puzzles), rng)
    rows: list[Any] = [None] * count
    for k, puzzle in enumerate(puzzles):
        mine = np.flatnonzero(which == k).tolist()
        source = _Squares(pictures, size, crop, rng)
        texts = worded(puzzle.wordings, split, [puzzle.slots()] * len(mine), rng)
        for i, text, truth in zip(mine, texts, puzzle.deal(len(mine), rng)):
            shown = _shown(puzzle, truth, source, least, rng)
            rows[i] = Question(text, shown), {"text": puzzle.text(truth), "kind": puzzle.kind}, puzzle.name
    return [Problem(i, *row) for i, row in enumerate(rows)]


class _Squares:
    """Square pictures, each as often as any other, with the number of the picture that it was cut from."""

    def __init__(self, pictures: Pictures, size: int | None, crop: float, rng: np.random.Generator):
        self.pictures, self.size, self.crop, self.rng = pictures, size, crop, rng
        self.order = self._shuffled()

    def _shuffled(self) -> Iterator[int]:
        while True:
            yield from self.rng.permutation(len(self.pictures)).tolist()

    def cut(self, index: int) -> np.ndarray:
        picture = np.asarray(self.pictures[index])
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(f"picture {index} is {picture.dtype} {list(picture.shape)}; uint8 [H, W, 3] is needed")
        part = square(picture, self.crop, self.rng)
        return part if self.size in (None, len(part)) else resized(part, self.size)

    def another(self, index: int, picture: np.ndarray) -> np.ndarray:
        """A square of another picture than ``index``; ``picture``, its own, where there is no other."""
        many = len(self.pictures)
        return self.cut((index + int(self.rng.integers(1, many))) % many) if many > 1 else picture


def _shown(puzzle: Puzzle, truth: Any, source: _Squares, least: int, rng: np.random.Generator) -> Shown:
    """The pictures of one problem, made of the first picture that leaves the truth in no doubt."""
    for _ in range(len(source.pictures)):
        index = next(source.order)
        picture = source.cut(index)
        smallest = puzzle.smallest(len(picture))
        if smallest < least:
            why = f"would show {smallest} px of picture {index} ({len(picture)} px); the least is {least}"
            raise ValueError(f"{puzzle.name} {why}")
        shown = puzzle.pose(picture, lambda: source.another(index, picture), truth, rng)
        if shown is not None:
            return shown
    raise ValueError(f"{puzzle.name}: none of the {len(source.pictures)} pictures leaves one answer only")


def _check(pictures: Pictures, puzzles: Sequence[Puzzle], size: int | None, crop: float) -> None:
    if not len(pictures):
        raise ValueError("there are no pictures")
    if not puzzles:
        raise ValueError("no puzzle is chosen; known: Rotation, Position, Jigsaw, Contrast")
    if size is not None and size < 1:
        raise ValueError(f"size is {size}; it must be 1 or more")
    if not 0 < crop <= 1:
        raise ValueError(f"crop is {crop}; it lies between 0 and 1")
