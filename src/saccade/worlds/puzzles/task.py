"""A task of puzzles about unlabelled pictures, with held-out pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, overload

from saccade.config import Count, Fraction
from saccade.core import Problem
from saccade.evaluation.scoring import HELD_OUT_SEED
from saccade.naming import require
from saccade.random import stream
from saccade.worlds import puzzles
from saccade.worlds.images import UPRIGHT, Subset, load_folder, photographs
from saccade.worlds.puzzles.prompts import PictureSource
from saccade.worlds.puzzles.puzzle import Puzzle

PUZZLE_NAMES = ("rotation", "position", "jigsaw", "contrast")


@dataclass(frozen=True)
class PuzzleTask:
    """Puzzles, their pictures and their difficulty."""

    puzzles: tuple[str, ...] = PUZZLE_NAMES
    """Types of puzzles, in equal parts: rotation, position, jigsaw, contrast."""
    images: str = "scenes"
    """Unlabelled pictures: the embedded scenes, the photographs that scikit-image ships, or a folder."""
    held_out_images: str = ""
    """Folder of held-out pictures; without it, a tenth of the pictures (at least two), or held-out embedded scenes."""
    pool: Count = 2000
    """Number of embedded scenes to train on."""
    size: Count | None = 48
    """Side in pixels of the square that a picture is resized to; None keeps its size."""
    crop: Fraction = 1.0
    """Least side of the random square that is cut from a picture, as a fraction of the picture's shorter side."""
    min_side: Count = 4
    """Least side in pixels of every picture that is shown, not below the model's patch size."""
    angles: Literal[2, 4, 8] = 4
    """Number of angles of the rotation puzzle: 0 or 180 degrees, right angles, or every 45 degrees."""
    marked: bool = False
    """Paint a white mark into a corner, which makes the rotation puzzle trivial."""
    share: tuple[float, float] = (0.2, 0.8)
    """Least and greatest side of the part in the position puzzle, as fractions of the quarter's side."""
    recolor: Fraction = 0.0
    """Strength of the color change of the part in the position puzzle, 0 to 1."""
    grid: Count = 2
    """Number of pieces a side of the jigsaw puzzle, 2 to 6."""
    gap: int = 0
    """Pixels removed around each piece of the jigsaw puzzle, so that edges do not fit."""
    augment: Fraction = 1.0
    """Strength of augmentation in the contrast puzzle, 0 to 1; at low values colors give the answer away."""
    train_size: Count = 4096
    """Number of puzzles in a pass over the training set."""
    held_out_size: Count = 96
    """Number of held-out puzzles, of all types together."""
    held_out_seed: int = HELD_OUT_SEED
    """Seed of the held-out problems of the embedded world; a check draws others for every training seed."""

    def training(self, seed: int) -> LazyPuzzles:
        """The puzzles to train on, each made on access."""
        return LazyPuzzles(self, self.sources(seed)[0], seed)

    def held_out_problems(self) -> list[Problem]:
        """Puzzles about held-out pictures in held-out wordings."""
        pictures, chosen = self.sources(0)[1], self.chosen_puzzles()
        count, seed = self.held_out_size, self.held_out_seed
        return puzzles.sample_problems(pictures, count, seed, chosen, "held_out", self.size, self.crop, self.min_side)

    def chosen_puzzles(self) -> list[Puzzle]:
        """The puzzles with their settings. ValueError for an unknown type."""
        known: dict[str, Puzzle] = {
            "rotation": puzzles.Rotation(self.angles, self.marked),
            "position": puzzles.Position(self.share, self.recolor),
            "jigsaw": puzzles.Jigsaw(self.grid, self.gap),
            "contrast": puzzles.Contrast(self.augment),
        }
        for name in self.puzzles:
            require("puzzle", name, PUZZLE_NAMES)
        return [known[name] for name in self.puzzles]

    def sources(self, seed: int) -> tuple[PictureSource, PictureSource]:
        """Training pictures and held-out pictures, no picture in both."""
        if self.images == "scenes":
            side, held_out = self.size or 48, max(self.held_out_size, 2)
            training = puzzles.scenes(self.pool, seed, "train", side)
            return training, puzzles.scenes(held_out, self.held_out_seed, "held_out", side)
        pictures = photographs(UPRIGHT) if self.images == "photographs" else load_folder(self.images)
        if self.held_out_images:
            return pictures, load_folder(self.held_out_images)
        return _split(pictures, self.images)


@dataclass(frozen=True)
class LazyPuzzles(Sequence[Problem]):
    """Training puzzles that are made on access; a puzzle follows from the seed and its index alone."""

    task: PuzzleTask
    pictures: PictureSource
    seed: int

    def __len__(self) -> int:
        return self.task.train_size

    @overload
    def __getitem__(self, index: int) -> Problem: ...

    @overload
    def __getitem__(self, index: slice) -> list[Problem]: ...

    def __getitem__(self, index: int | slice) -> Problem | list[Problem]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        index = range(len(self))[index]
        chosen = self.task.chosen_puzzles()
        puzzle, seed = chosen[index % len(chosen)], stream(self.seed, "puzzle", index)
        size, crop, min_side = self.task.size, self.task.crop, self.task.min_side
        (problem,) = puzzles.sample_problems(self.pictures, 1, seed, (puzzle,), "train", size, crop, min_side)
        return replace(problem, id=index)


def _split(pictures: PictureSource, name: str) -> tuple[Subset, Subset]:
    """All but a tenth of the pictures, and that tenth, at least two and evenly spread. ValueError below 4 pictures."""
    if len(pictures) < 4:
        raise ValueError(f"'{name}' has {len(pictures)} pictures; 4 are needed to hold two out, or --held-out-images")
    count = max(2, len(pictures) // 10)
    held_out = [k * len(pictures) // count for k in range(count)]
    return Subset(pictures, sorted(set(range(len(pictures))) - set(held_out))), Subset(pictures, held_out)
