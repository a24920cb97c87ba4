"""A task of puzzles: pictures without labels, what is done to them and asked about it, and pictures kept back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from saccade.core import Problem, seeds
from saccade.naming import require
from saccade.worlds import puzzles
from saccade.worlds.images import UPRIGHT, Subset, load_folder, photographs

KINDS = ("rotation", "position", "jigsaw", "contrast")

_KEPT_BACK = 12_345
"""Seed of what is kept back: the same pictures and puzzles in every run."""


@dataclass(frozen=True)
class PuzzlingTask:
    """Which pictures pose which puzzles, and how hard these are."""

    puzzles: tuple[str, ...] = KINDS
    """Kinds of puzzles, in equal parts: rotation, position, jigsaw, contrast."""
    images: str = "scenes"
    """Pictures without labels: the embedded scenes, the photographs that scikit-image ships, or a folder."""
    held_out_images: str = ""
    """A folder of pictures kept back; without one a tenth of the pictures is, two or more, or scenes of their own
    are.
    """
    pool: int = 2000
    """Embedded scenes to train on."""
    size: int | None = 48
    """Side in pixels of the square that a picture is brought to; None leaves it as large as it is."""
    crop: float = 1.0
    """A picture is cut to a square whose side is drawn from this share of the shorter side to all of it."""
    least_side: int = 4
    """Least side in pixels of anything that is shown; a model may not see less than one of its patches."""
    angles: Literal[2, 4, 8] = 4
    """Rotation: 0 or 180 degrees, right angles, or every 45 degrees."""
    marked: bool = False
    """Rotation: a white mark in a corner gives the answer away, so that nothing else has to be seen."""
    share: tuple[float, float] = (0.2, 0.8)
    """Position: least and greatest height and width of the part, of those of its quarter."""
    recolor: float = 0.0
    """Position: how much the colors of the part are changed, 0 to 1."""
    grid: int = 2
    """Jigsaw: pieces a side, 2 to 6."""
    gap: int = 0
    """Jigsaw: pixels lost around each piece, so that edges fit less well."""
    augment: float = 1.0
    """Contrast: how much both views are changed, 0 to 1; with little, colors give the answer away."""
    train_size: int = 4096
    """Puzzles in a pass over the training set."""
    held_out_size: int = 96
    """Puzzles kept back, of all kinds together."""

    def training(self, seed: int) -> Posed:
        """The puzzles to train on, each posed when it is asked for."""
        return Posed(self, self.sources(seed)[0], seed)

    def held_out_problems(self) -> list[Problem]:
        """Puzzles about pictures that are never trained on, in wordings of their own."""
        kept = self.sources(0)[1]
        return puzzles.problems(
            kept, self.held_out_size, _KEPT_BACK, self.posers(), "held_out", self.size, self.crop, self.least_side
        )

    def posers(self) -> list[puzzles.Puzzle]:
        """The puzzles, as hard as they are set. ValueError for an unknown kind."""
        made = {
            "rotation": puzzles.Rotation(self.angles, self.marked),
            "position": puzzles.Position(self.share, self.recolor),
            "jigsaw": puzzles.Jigsaw(self.grid, self.gap),
            "contrast": puzzles.Contrast(self.augment),
        }
        for name in self.puzzles:
            require("puzzle", name, KINDS)
        return [made[name] for name in self.puzzles]

    def sources(self, seed: int) -> tuple[Sequence[Any], Sequence[Any]]:
        """Pictures to train on and pictures kept back, no picture in both."""
        if self.images == "scenes":
            side, kept = self.size or 48, max(self.held_out_size, 2)
            return puzzles.scenes(self.pool, seed, "train", side), puzzles.scenes(kept, _KEPT_BACK, "held_out", side)
        pictures = photographs(UPRIGHT) if self.images == "photographs" else load_folder(self.images)
        if self.held_out_images:
            return pictures, load_folder(self.held_out_images)
        return _split(pictures, self.images)


@dataclass(frozen=True)
class Posed:
    """Training puzzles, posed when they are asked for: which one it is follows from the seed and its number alone."""

    task: PuzzlingTask
    pictures: Sequence[Any]
    seed: int

    def __len__(self) -> int:
        return self.task.train_size

    def __getitem__(self, index: int) -> Problem:
        index = range(len(self))[index]
        posers = self.task.posers()
        own, chosen = int(seeds(self.seed, 1, key=index)), (posers[index % len(posers)],)
        made = puzzles.problems(
            self.pictures, 1, own, chosen, "train", self.task.size, self.task.crop, self.task.least_side
        )
        return replace(made[0], id=index)


def _split(pictures: Sequence[Any], name: str) -> tuple[Subset, Subset]:
    """A tenth of the pictures, at least two and evenly spread, is kept back from the others."""
    if len(pictures) < 4:
        raise ValueError(f"'{name}' has {len(pictures)} pictures; 4 are needed to keep two back, or --held-out-images")
    count = max(2, len(pictures) // 10)
    kept = [k * len(pictures) // count for k in range(count)]
    return Subset(pictures, sorted(set(range(len(pictures))) - set(kept))), Subset(pictures, kept)
