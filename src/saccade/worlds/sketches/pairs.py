"""Sketches paired with photos of the same objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from saccade.core import Problem
from saccade.math.pixels import to_float
from saccade.worlds.sketches.drawing import draw_objects
from saccade.worlds.sketches.objects import random_objects
from saccade.worlds.sketches.photos import render_photos
from saccade.worlds.sketches.strokes import Sketch
from saccade.worlds.splits import split_rng


class Indexed(Protocol):
    """Photos by index, loaded on access or held in one array."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class SketchPairs:
    """Sketches and the photos that they show; several sketches may show one photo."""

    sketches: Sequence[Sketch]
    photo_index: Sequence[int]
    """Index of each sketch's photo."""
    sources: Sequence[str]
    """Family or data set of each sketch."""
    photos: Indexed
    """Photos uint8 ``[size, size, 3]``."""

    def problems(self) -> list[Problem]:
        """One problem for each sketch: its input is the sketch, its answer the index of the photo."""
        rows = zip(self.sketches, self.photo_index, self.sources)
        return [Problem(i, sketch, int(photo), source) for i, (sketch, photo, source) in enumerate(rows)]

    def pixels(self, photo_B: Tensor) -> Tensor:
        """Photos by their indices, in [0, 1] ``[B, 3, size, size]``."""
        return to_float(np.stack([self.photos[i] for i in photo_B.tolist()]))

    def split(self, count: int) -> tuple[SketchPairs, SketchPairs]:
        """The pairs of all but the last ``count`` photos, and those of the last ones.

        ValueError if either part would be empty.
        """
        edge = len(self.photos) - count
        if not 0 < edge < len(self.photos):
            raise ValueError(f"{count} of {len(self.photos)} photos cannot be split off")
        return self._subset(range(edge)), self._subset(range(edge, len(self.photos)))

    def _subset(self, indices: range) -> SketchPairs:
        rows = [i for i, photo in enumerate(self.photo_index) if photo in indices]
        select = lambda values: [values[i] for i in rows]
        photo_index = [photo - indices.start for photo in select(self.photo_index)]
        return SketchPairs(select(self.sketches), photo_index, select(self.sources), _Subset(self.photos, indices))


@dataclass(frozen=True, eq=False)
class _Subset:
    """Some photos of a sequence, each loaded on access."""

    photos: Indexed
    indices: range

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int, /) -> np.ndarray:
        return self.photos[self.indices[index]]


def generate_pairs(count: int, sketches_each: int, seed: int, split: str, size: int) -> SketchPairs:
    """``count`` objects of the embedded world, each with a photo and ``sketches_each`` sketches.

    Splits ("train", "held_out") share no random numbers.
    """
    rng = split_rng(seed, split)
    objects = random_objects(count, rng)
    photos = render_photos(objects, size, rng)
    sketches = [sketch for _ in range(sketches_each) for sketch in draw_objects(objects, rng)]
    sources = [f"family {family}" for family in objects.family_N] * sketches_each
    return SketchPairs(sketches, list(range(count)) * sketches_each, sources, photos)
