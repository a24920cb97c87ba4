"""Sketches as strokes: polylines on a unit canvas, as sequences of pen states, and made simpler.

Sketch-RNN 1704.03477 has the pen states; Ramer 1972 and Douglas & Peucker 1973 the simplification.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Sketch:
    """Polylines, each float32 ``[points, 2]`` of (x, y) in [0, 1], y downwards; there is at least one, none is
    empty.
    """

    strokes: tuple[np.ndarray, ...]

    @property
    def points(self) -> int:
        return sum(len(stroke) for stroke in self.strokes)


def stroke5(sketch: Sketch) -> np.ndarray:
    """(x, y, drawing, lifted, ended) float32 ``[points + 1, 5]``: a point and what the pen does after it; the last
    row ends.
    """
    rows = np.zeros((sketch.points + 1, 5), np.float32)
    rows[:-1, :2] = np.concatenate(sketch.strokes)
    rows[-1, :2] = rows[-2, :2]
    rows[:, 2] = 1
    rows[np.cumsum([len(stroke) for stroke in sketch.strokes]) - 1, 2:] = (0, 1, 0)
    rows[-1, 2:] = (0, 0, 1)
    return rows


def from_stroke5(rows_L5: np.ndarray) -> Sketch:
    """The sketch of a sequence up to the row that ends it, if there is one. ValueError where no stroke is in it."""
    ended = np.flatnonzero(rows_L5[:, 4] > 0.5)
    rows = rows_L5[: ended[0]] if len(ended) else rows_L5
    cuts = np.flatnonzero(rows[:, 3] > 0.5) + 1
    strokes = tuple(part[:, :2].astype(np.float32) for part in np.split(rows, cuts) if len(part))
    if not strokes:
        raise ValueError("no stroke in this sketch")
    return Sketch(strokes)


def fitted(sketch: Sketch, margin: float = 0.04) -> Sketch:
    """The sketch moved and scaled, alike in both directions, to the middle of the canvas with a margin around it."""
    points = np.concatenate(sketch.strokes)
    low, high = points.min(0), points.max(0)
    scale = (1 - 2 * margin) / max(float((high - low).max()), 1e-6)
    return Sketch(tuple(((s - (low + high) / 2) * scale + 0.5).astype(np.float32) for s in sketch.strokes))


def simplified(strokes: Sequence[np.ndarray], tolerance: float | np.ndarray) -> list[np.ndarray]:
    """Strokes with the fewest points that stay within ``tolerance`` (one, or one a stroke) of what was drawn.

    All strokes at once: in every round each takes in the point that lies farthest from the line between its neighbours.
    """
    length = np.array([len(stroke) for stroke in strokes])
    point = np.arange(length.max())
    padded = np.stack([stroke[np.minimum(point, len(stroke) - 1)] for stroke in strokes]).astype(np.float64)
    tolerance = np.broadcast_to(np.asarray(tolerance, np.float64), length.shape)
    kept = (point == 0) | (point == length[:, None] - 1)
    open_ = np.flatnonzero(length > 2)
    while len(open_):
        distance = np.where(point < length[open_, None], _from_chord(padded[open_], kept[open_]), 0)
        farthest = distance.argmax(1)
        far = distance[np.arange(len(open_)), farthest] > tolerance[open_]
        kept[open_[far], farthest[far]] = True
        open_ = open_[far]
    return [np.asarray(stroke)[kept[i, : len(stroke)]] for i, stroke in enumerate(strokes)]


def shortened(sketches: Sequence[Sketch], tolerance: float | np.ndarray) -> list[Sketch]:
    """Sketches with their strokes `simplified`; ``tolerance`` is one number, or one a sketch."""
    counts = [len(sketch.strokes) for sketch in sketches]
    each = np.repeat(np.broadcast_to(np.asarray(tolerance, np.float64), len(sketches)), counts)
    strokes = iter(simplified([stroke for sketch in sketches for stroke in sketch.strokes], each))
    return [Sketch(tuple(next(strokes) for _ in range(count))) for count in counts]


def _from_chord(points_SL2: np.ndarray, kept_SL: np.ndarray) -> np.ndarray:
    """Distance of every point from the line between the kept ones before and after it ``[S, L]``; 0 for the kept."""
    place = np.arange(kept_SL.shape[1])
    before = np.maximum.accumulate(np.where(kept_SL, place, 0), 1)
    after = np.minimum.accumulate(np.where(kept_SL, place, place[-1])[:, ::-1], 1)[:, ::-1]
    start, end = (np.take_along_axis(points_SL2, index[..., None], 1) for index in (before, after))
    along, out = end - start, points_SL2 - start
    share = ((out * along).sum(-1) / np.maximum((along**2).sum(-1), 1e-12)).clip(0, 1)
    return np.sqrt(((out - share[..., None] * along) ** 2).sum(-1))
