"""Where objects go: near the nine points of a 3 x 3 grid, apart from one another, with a clear relation if one is
asked.

Loose places would cost a model of three million parameters most of what it can learn on a laptop.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

REACH = 1.15
"""The farthest point of any shape from its centre, in radii."""
GRID = np.array([0.25, 0.5, 0.75])
"""The grid's coordinates on both axes, for one object or two."""
CROWD = np.array([0.17, 0.5, 0.83])
"""The same for more, which are small and need room between them."""
JITTER = 0.015
"""How far a centre may lie from its point of the grid, on each axis."""
GAP = 0.02
"""Least distance between two objects' circles of reach, in unit coordinates."""
_TRIES = 300
"""Draws after which a layout is taken for impossible; six small objects need about ten."""
_SIGN = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}


def place(radii: np.ndarray, relations: Sequence[str | None], rng: np.random.Generator) -> np.ndarray:
    """Centres [B, K, 2] for radii [B, K] (0 = no object); a relation says where object 1 lies, seen from object 0.

    ValueError where the objects do not fit into the picture.
    """
    xy = np.zeros((*radii.shape, 2))
    todo = np.arange(len(radii))
    axis = np.array([_SIGN[r][0] if r else -1 for r in relations], int)
    sign = np.array([_SIGN[r][1] if r else 0 for r in relations], int)
    for _ in range(_TRIES):
        tried = _spread(radii[todo], rng)
        _turn(tried, axis[todo], sign[todo])
        good = _apart(tried, radii[todo]) & _related(tried, axis[todo], sign[todo])
        xy[todo[good]] = tried[good]
        todo = todo[~good]
        if not len(todo):
            return xy
    crowd = int((radii[todo[0]] > 0).sum())
    size = radii[todo[0]].max()
    raise ValueError(f"{crowd} objects of radius {size:.2f} do not fit; the world holds up to 6 small ones")


def _spread(radii: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A point of the grid of its own for each object, and a little jitter."""
    cells = rng.random((len(radii), len(GRID) ** 2)).argsort(1)[:, : radii.shape[1]]
    grid = np.where(((radii > 0).sum(1) > 2)[:, None], CROWD, GRID)
    row = np.arange(len(radii))[:, None]
    xy = np.stack([grid[row, cells % len(GRID)], grid[row, cells // len(GRID)]], -1)
    return xy + rng.uniform(-JITTER, JITTER, xy.shape)


def _need(radii: np.ndarray) -> np.ndarray:
    """Least distance of each pair of centres [B, K, K]; 0 where an object is absent or met with itself."""
    both = (radii[:, :, None] > 0) & (radii[:, None] > 0) & ~np.eye(radii.shape[1], dtype=bool)
    return np.where(both, REACH * (radii[:, :, None] + radii[:, None]) + GAP, 0)


def _turn(xy: np.ndarray, axis: np.ndarray, sign: np.ndarray) -> None:
    """Swap the first two objects along the relation's axis where they stand the wrong way round."""
    rows = np.flatnonzero(axis >= 0)
    main = xy[rows, :2, axis[rows]]
    wrong = (main[:, 1] - main[:, 0]) * sign[rows] < 0 if len(rows) else np.zeros(0, bool)
    rows, main = rows[wrong], main[wrong]
    xy[rows, :2, axis[rows]] = main[:, ::-1]


def _apart(xy: np.ndarray, radii: np.ndarray) -> np.ndarray:
    distance = np.linalg.norm(xy[:, :, None] - xy[:, None], axis=-1)
    edge = (REACH * radii)[..., None]
    inside = ((xy >= edge) & (xy <= 1 - edge)).all((1, 2))
    return inside & (distance >= _need(radii) - 1e-3).all((1, 2))


def _related(xy: np.ndarray, axis: np.ndarray, sign: np.ndarray) -> np.ndarray:
    if xy.shape[1] < 2:
        return np.ones(len(xy), bool)
    offset = xy[:, 1] - xy[:, 0]
    row = np.arange(len(xy))
    main, cross = offset[row, axis] * sign, offset[row, 1 - np.maximum(axis, 0)]
    return (axis < 0) | ((main >= 0.3) & (np.abs(cross) <= 0.7 * main))
