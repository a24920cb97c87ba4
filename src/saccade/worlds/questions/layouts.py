"""Scenes for questions: objects in cells of a 3 x 3 grid, as arrays, so that answers and boxes are exact.

Every object stays inside its cell, so "at the top left" and "left of" (same row) are unambiguous.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saccade.worlds.shapes import COLORS, SHAPES

COLOR_NAMES = tuple(COLORS)
RADIUS = (0.095, 0.13)
"""Least and greatest radius of objects, as fractions of the picture's side."""
EXTENT = 1.15
"""Distance of the farthest point of any shape from its center, in radii."""
_MARGIN = 0.015
"""Least distance of an object from the edge of its cell, as a fraction of the picture's side."""
MAX_RADIUS = (1 / 6 - _MARGIN) / EXTENT
"""Greatest radius that fits into a cell, as a fraction of the picture's side."""
_TILT = 0.2
"""Greatest rotation of an object, in radians."""


@dataclass(frozen=True)
class SceneBatch:
    """P scenes of up to K objects, arrays ``[P, K]``.

    ``shape`` and ``color`` are indices into SHAPES and COLOR_NAMES, ``cell`` is the cell of the 3 x 3 grid (no two
    objects share one), ``present`` is False for slots without an object.
    """

    shape: np.ndarray
    color: np.ndarray
    cell: np.ndarray
    present: np.ndarray


def sample_scenes(
    count: int, objects: tuple[int, int], rng: np.random.Generator, at_least: int | np.ndarray = 1
) -> SceneBatch:
    """Random scenes of at least ``objects[0]`` and ``at_least``, at most ``objects[1]`` objects, no two alike."""
    low, most = objects
    number = rng.integers(np.maximum(low, at_least), most + 1, count)
    kinds = rng.random((count, len(SHAPES) * len(COLOR_NAMES))).argsort(1)[:, :most]
    present = np.arange(most) < number[:, None]
    return SceneBatch(
        kinds % len(SHAPES), kinds // len(SHAPES), fill_cells(np.zeros((count, 0), int), most, rng), present
    )


def fill_cells(taken: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Cells ``[P, K]``, K = ``most``: first those ``taken`` ``[P, M]``, then random others."""
    keys = rng.random((len(taken), 9))
    np.put_along_axis(keys, taken, 2.0, 1)
    return np.concatenate([taken, keys.argsort(1)], 1)[:, :most]


def different_values(value: np.ndarray, options: int, rng: np.random.Generator, most: int) -> np.ndarray:
    """Random integers ``[P, most]`` below ``options`` that differ from the row's ``value`` ``[P]``."""
    return (value[:, None] + rng.integers(1, options, (len(value), most))) % options


def place_objects(
    scenes: SceneBatch, radius: tuple[float, float], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Random places ``[P, K, 4]`` (x, y, radius, angle) and the tight boxes ``[P, K, 4]``, in unit coordinates."""
    size = rng.uniform(*radius, scenes.shape.shape)
    free = (1 / 6 - _MARGIN - EXTENT * size)[..., None]
    grid = np.stack([scenes.cell % 3, scenes.cell // 3], -1) / 3 + 1 / 6
    center = grid + rng.uniform(-1, 1, grid.shape) * free
    angle = rng.uniform(-_TILT, _TILT, size.shape)
    places = np.concatenate([center, size[..., None], angle[..., None]], -1)
    return places, tight_boxes(scenes.shape, places)


def tight_boxes(shape: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Tight boxes ``[..., 4]`` (x1, y1, x2, y2) of shapes ``[...]`` at places ``[..., 4]`` (x, y, radius, angle)."""
    x, y, radius, angle = np.moveaxis(places, -1, 0)
    u, v = np.moveaxis(_CORNERS[shape], -1, 0) * radius[..., None]
    angle = np.where(_ROUND[shape], 0, angle)[..., None]
    across = np.moveaxis(x[..., None] + np.cos(angle) * u - np.sin(angle) * v, -1, 0)
    down = np.moveaxis(y[..., None] + np.sin(angle) * u + np.cos(angle) * v, -1, 0)
    return np.stack([across.min(0), down.min(0), across.max(0), down.max(0)], -1)


def _corners() -> np.ndarray:
    """The outermost corners of each shape of radius 1, for round ones four points: ``[shapes, 8, 2]``."""
    turns = np.arange(5) * 2 * np.pi / 5
    round_ = [(-1, 0), (1, 0), (0, -1), (0, 1)]
    corners = {
        "circle": round_,
        "square": [(a, b) for a in (-0.8, 0.8) for b in (-0.8, 0.8)],
        "triangle": [(0, -1.15), (-0.8625 / 0.8660254, 0.575), (0.8625 / 0.8660254, 0.575)],
        "ring": round_,
        "star": np.stack([1.15 * np.sin(turns), -1.15 * np.cos(turns)], -1),
        "cross": [(a * p, b * q) for a, b in ((1, 0.3), (0.3, 1)) for p in (-1, 1) for q in (-1, 1)],
    }
    return np.array([np.resize(np.array(corners[shape], float), (8, 2)) for shape in SHAPES])


_CORNERS = _corners()
_ROUND = np.isin(SHAPES, ("circle", "ring"))
