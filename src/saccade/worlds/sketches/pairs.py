"""Sketches with the photos that they are of, made here or read from files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from saccade.core import Problem
from saccade.math.pixels import to_unit
from saccade.worlds.sketches.drawing import sketches
from saccade.worlds.sketches.objects import objects
from saccade.worlds.sketches.photos import photos
from saccade.worlds.sketches.strokes import Sketch
from saccade.worlds.splits import stream


@dataclass(frozen=True, eq=False)
class Pairs:
    """Sketches, the number of the photo that each is of, what kind of thing each shows; photos are uint8 ``[size,
    size, 3]``.
    """

    sketches: Sequence[Sketch]
    truth: Sequence[int]
    sources: Sequence[str]
    photos: Sequence[np.ndarray]

    def problems(self) -> list[Problem]:
        """One for each sketch: what is seen is the sketch, the answer is the photo's number."""
        rows = zip(self.sketches, self.truth, self.sources)
        return [Problem(i, sketch, int(photo), source) for i, (sketch, photo, source) in enumerate(rows)]

    def pixels(self, photo_B: Tensor) -> Tensor:
        """Photos by their numbers, in [0, 1] ``[B, 3, size, size]``."""
        return to_unit(np.stack([self.photos[i] for i in photo_B.tolist()]))

    def apart(self, count: int) -> tuple[Pairs, Pairs]:
        """All but the last ``count`` photos, and those, each with the sketches of them. ValueError where none would
        be left.
        """
        edge = len(self.photos) - count
        if not 0 < edge < len(self.photos):
            raise ValueError(f"{count} of {len(self.photos)} photos cannot be kept apart")
        return self._of(range(edge)), self._of(range(edge, len(self.photos)))

    def _of(self, numbers: range) -> Pairs:
        rows = [i for i, photo in enumerate(self.truth) if photo in numbers]
        pick = lambda values: [values[i] for i in rows]
        truth = [photo - numbers.start for photo in pick(self.truth)]
        return Pairs(pick(self.sketches), truth, pick(self.sources), _Some(self.photos, numbers))


@dataclass(frozen=True, eq=False)
class _Some:
    """Some photos of a sequence, each read when it is asked for."""

    whole: Sequence[np.ndarray]
    numbers: range

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> np.ndarray:
        return self.whole[self.numbers[place]]


def made(count: int, each: int, seed: int, split: str, size: int) -> Pairs:
    """``count`` objects of the embedded world with one photo and ``each`` sketches; splits share no random numbers."""
    rng = stream(seed, split)
    things = objects(count, rng)
    shown = photos(things, size, rng)
    drawn = [sketch for _ in range(each) for sketch in sketches(things, rng)]
    sources = [f"family {family}" for family in things.family_N] * each
    return Pairs(drawn, list(range(count)) * each, sources, shown)
