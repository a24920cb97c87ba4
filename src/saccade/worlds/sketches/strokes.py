"""Sketches as polylines on a unit canvas, as sequences of pen states, and simplified.

Pen states as in Sketch-RNN 1704.03477; simplification by Ramer 1972 and Douglas & Peucker 1973.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Sketch:
    """A vector sketch: one polyline or more, each float32 ``[points, 2]`` of (x, y) in [0, 1], y downwards."""

    strokes: tuple[np.ndarray, ...]

    @property
    def points(self) -> int:
        """Number of points in all strokes."""
        return sum(len(stroke) for stroke in self.strokes)


def to_stroke5(sketch: Sketch) -> np.ndarray:
    """Rows (x, y, drawing, lifted, ended), float32 ``[points + 1, 5]``: a point and the pen state after it.

    The last row repeats the last point and marks the end.
    """
    rows = np.zeros((sketch.points + 1, 5), np.float32)
    rows[:-1, :2] = np.concatenate(sketch.strokes)
    rows[-1, :2] = rows[-2, :2]
    rows[:, 2] = 1
    rows[np.cumsum([len(stroke) for stroke in sketch.strokes]) - 1, 2:] = (0, 1, 0)
    rows[-1, 2:] = (0, 0, 1)
    return rows


def from_stroke5(rows_L5: np.ndarray) -> Sketch:
    """The sketch of a sequence, up to its first row that marks the end. ValueError for a sequence without a stroke."""
    ended = np.flatnonzero(rows_L5[:, 4] > 0.5)
    rows = rows_L5[: ended[0]] if len(ended) else rows_L5
    cuts = np.flatnonzero(rows[:, 3] > 0.5) + 1
    strokes = tuple(part[:, :2].astype(np.float32) for part in np.split(rows, cuts) if len(part))
    if not strokes:
        raise ValueError("no stroke in this sketch")
    return Sketch(strokes)


def fit_to_canvas(sketch: Sketch, margin: float = 0.04) -> Sketch:
    """The sketch centred and scaled, with its aspect ratio kept, to fill the canvas up to a margin."""
    points = np.concatenate(sketch.strokes)
    low, high = points.min(0), points.max(0)
    scale = (1 - 2 * margin) / max(float((high - low).max()), 1e-6)
    return Sketch(tuple(((s - (low + high) / 2) * scale + 0.5).astype(np.float32) for s in sketch.strokes))


def simplify_strokes(strokes: Sequence[np.ndarray], tolerance: float | np.ndarray) -> list[np.ndarray]:
    """Strokes reduced to points whose polyline stays within ``tolerance`` (a number, or one per stroke) of the input.

    All strokes are processed at once: each round adds the point of a stroke that is farthest from its present polyline.
    """
    length = np.array([len(stroke) for stroke in strokes])
    point = np.arange(length.max())
    padded = np.stack([stroke[np.minimum(point, len(stroke) - 1)] for stroke in strokes]).astype(np.float64)
    tolerance = np.broadcast_to(np.asarray(tolerance, np.float64), length.shape)
    kept = (point == 0) | (point == length[:, None] - 1)
    pending = np.flatnonzero(length > 2)
    while len(pending):
        distance = np.where(point < length[pending, None], _distance_to_chord(padded[pending], kept[pending]), 0)
        farthest = distance.argmax(1)
        outside = distance[np.arange(len(pending)), farthest] > tolerance[pending]
        kept[pending[outside], farthest[outside]] = True
        pending = pending[outside]
    return [np.asarray(stroke)[kept[i, : len(stroke)]] for i, stroke in enumerate(strokes)]


def simplify_sketches(sketches: Sequence[Sketch], tolerance: float | np.ndarray) -> list[Sketch]:
    """Sketches whose strokes are simplified (`simplify_strokes`); ``tolerance`` is a number, or one per sketch."""
    counts = [len(sketch.strokes) for sketch in sketches]
    each = np.repeat(np.broadcast_to(np.asarray(tolerance, np.float64), len(sketches)), counts)
    strokes = iter(simplify_strokes([stroke for sketch in sketches for stroke in sketch.strokes], each))
    return [Sketch(tuple(next(strokes) for _ in range(count))) for count in counts]


def _distance_to_chord(points_SL2: np.ndarray, kept_SL: np.ndarray) -> np.ndarray:
    """Distance of every point from the segment between the kept points around it ``[S, L]``; 0 for kept points."""
    index = np.arange(kept_SL.shape[1])
    before = np.maximum.accumulate(np.where(kept_SL, index, 0), 1)
    after = np.minimum.accumulate(np.where(kept_SL, index, index[-1])[:, ::-1], 1)[:, ::-1]
    start, end = (np.take_along_axis(points_SL2, end[..., None], 1) for end in (before, after))
    chord, offset = end - start, points_SL2 - start
    t = ((offset * chord).sum(-1) / np.maximum((chord**2).sum(-1), 1e-12)).clip(0, 1)
    return np.sqrt(((offset - t[..., None] * chord) ** 2).sum(-1))
