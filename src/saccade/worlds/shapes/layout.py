"""Positions of objects: near the points of a 3 x 3 grid, separated, with an unambiguous relation if one is requested.

Free positions would take most of what a model of three million parameters can learn on a laptop.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

REACH = 1.15
"""Largest distance of a shape's outline from its centre, in radii."""
GRID = np.array([0.25, 0.5, 0.75])
"""Coordinates of the grid on both axes, for one or two objects."""
CROWD = np.array([0.17, 0.5, 0.83])
"""Coordinates of the grid on both axes, for more than two objects."""
JITTER = 0.015
"""Largest distance of a centre from its grid point, on each axis."""
GAP = 0.02
"""Least distance between the bounding circles of two objects, in unit coordinates."""
_MAX_TRIES = 300
"""Random layouts after which a scene is taken to be impossible; six small objects need about ten."""
_SIGN = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}


def place(radii: np.ndarray, relations: Sequence[str | None], rng: np.random.Generator) -> np.ndarray:
    """Centres ``[B, K, 2]`` of objects with radii ``[B, K]`` (0 = no object).

    A relation is that of object 1 to object 0. ValueError where the objects do not fit into the picture.
    """
    xy = np.zeros((*radii.shape, 2))
    open_rows = np.arange(len(radii))
    axis = np.array([_SIGN[r][0] if r else -1 for r in relations], int)
    sign = np.array([_SIGN[r][1] if r else 0 for r in relations], int)
    for _ in range(_MAX_TRIES):
        layout = _grid_points(radii[open_rows], rng)
        _swap_to_relation(layout, axis[open_rows], sign[open_rows])
        valid = _separated(layout, radii[open_rows]) & _related(layout, axis[open_rows], sign[open_rows])
        xy[open_rows[valid]] = layout[valid]
        open_rows = open_rows[~valid]
        if not len(open_rows):
            return xy
    count = int((radii[open_rows[0]] > 0).sum())
    radius = radii[open_rows[0]].max()
    raise ValueError(f"{count} objects of radius {radius:.2f} do not fit; the world has room for 6 small ones")


def _grid_points(radii: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A different random grid point for each object, with jitter ``[B, K, 2]``."""
    cells = rng.random((len(radii), len(GRID) ** 2)).argsort(1)[:, : radii.shape[1]]
    grid = np.where(((radii > 0).sum(1) > 2)[:, None], CROWD, GRID)
    row = np.arange(len(radii))[:, None]
    xy = np.stack([grid[row, cells % len(GRID)], grid[row, cells // len(GRID)]], -1)
    return xy + rng.uniform(-JITTER, JITTER, xy.shape)


def _min_distance(radii: np.ndarray) -> np.ndarray:
    """Least distance of each pair of centres ``[B, K, K]``; 0 for an absent object and for an object and itself."""
    both = (radii[:, :, None] > 0) & (radii[:, None] > 0) & ~np.eye(radii.shape[1], dtype=bool)
    return np.where(both, REACH * (radii[:, :, None] + radii[:, None]) + GAP, 0)


def _swap_to_relation(xy: np.ndarray, axis: np.ndarray, sign: np.ndarray) -> None:
    """Swap the first two objects along the axis of their relation where their order is the opposite of it."""
    rows = np.flatnonzero(axis >= 0)
    main = xy[rows, :2, axis[rows]]
    wrong = (main[:, 1] - main[:, 0]) * sign[rows] < 0 if len(rows) else np.zeros(0, bool)
    rows, main = rows[wrong], main[wrong]
    xy[rows, :2, axis[rows]] = main[:, ::-1]


def _separated(xy: np.ndarray, radii: np.ndarray) -> np.ndarray:
    distance = np.linalg.norm(xy[:, :, None] - xy[:, None], axis=-1)
    edge = (REACH * radii)[..., None]
    inside = ((xy >= edge) & (xy <= 1 - edge)).all((1, 2))
    return inside & (distance >= _min_distance(radii) - 1e-3).all((1, 2))


def _related(xy: np.ndarray, axis: np.ndarray, sign: np.ndarray) -> np.ndarray:
    if xy.shape[1] < 2:
        return np.ones(len(xy), bool)
    offset = xy[:, 1] - xy[:, 0]
    row = np.arange(len(xy))
    main, cross = offset[row, axis] * sign, offset[row, 1 - np.maximum(axis, 0)]
    return (axis < 0) | ((main >= 0.3) & (np.abs(cross) <= 0.7 * main))
