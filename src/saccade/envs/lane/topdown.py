"""The road from above, around the car, with its path so far: for videos and reports."""

from __future__ import annotations

import numpy as np

from saccade.envs.lane.driving import HALF_LENGTH, HALF_WIDTH, Cars
from saccade.envs.lane.roads import PAVED, SIZES, WEATHERS, WIDTH, Roads

SIZE, SPAN = 96, 40.0
"""Side of a picture in pixels and in metres."""

COLORS = {
    "grass": (0.55, 0.68, 0.48),
    "asphalt": (0.62, 0.62, 0.64),
    "marking": (1.0, 1.0, 1.0),
    "path": (0.85, 0.1, 0.5),
    "self": (0.1, 0.25, 0.8),
    "car": (0.55, 0.15, 0.12),
    "cone": (0.95, 0.5, 0.05),
}

TINTS = {"clear": (1.0, 1.0, 1.0), "rain": (0.75, 0.82, 0.95), "fog": (0.95, 0.95, 0.95), "night": (0.4, 0.4, 0.55)}


def view(roads: Roads, cars: Cars, path: np.ndarray, row: int) -> np.ndarray:
    """One episode's picture uint8 ``[SIZE, SIZE, 3]``, north up, the car central; ``path`` ``[n, 2]`` in metres."""
    x, y, heading = (float(v[row]) for v in cars.pose(roads))
    axis = (np.arange(SIZE) + 0.5) / SIZE - 0.5
    px, py = np.meshgrid(x + SPAN * axis, y - SPAN * axis)
    scene = np.empty((SIZE, SIZE, 3))
    scene[:] = COLORS["grass"]
    across = _across(roads, row, px, py)
    scene[across < PAVED] = COLORS["asphalt"]
    scene[np.abs(across - WIDTH / 2) < 0.25] = COLORS["marking"]
    scene *= TINTS[WEATHERS[int(roads.weather_B[row])]]
    for (s, _, tx, ty), kind in zip(roads.object_BM4[row], roads.kind_BM[row]):
        if kind:
            turn = roads.at(roads.heading_BN[row : row + 1], np.array([[s]]))[0, 0]
            scene[_box(px - tx, py - ty, turn, *SIZES[kind, :2] / 2)] = COLORS["car" if kind == 1 else "cone"]
    at = ((path - (x, y)) * (1, -1) / SPAN + 0.5) * SIZE
    at = at[((at >= 0) & (at < SIZE)).all(1)].astype(int)
    scene[at[:, 1], at[:, 0]] = COLORS["path"]
    scene[_box(px - x, py - y, heading, HALF_LENGTH, HALF_WIDTH)] = COLORS["self"]
    return (scene * 255).astype(np.uint8)


def _across(roads: Roads, row: int, px: np.ndarray, py: np.ndarray) -> np.ndarray:
    """Distance of each pixel from the road's centre line."""
    points = np.stack([roads.x_BN[row], roads.y_BN[row]], 1)[::2]
    near = points[(np.abs(points - (px.mean(), py.mean())) < SPAN).all(1)]
    gaps = (px[..., None] - near[:, 0]) ** 2 + (py[..., None] - near[:, 1]) ** 2
    return np.sqrt(gaps.min(-1, initial=1e9))


def _box(dx: np.ndarray, dy: np.ndarray, turn: float, long: float, wide: float) -> np.ndarray:
    ahead, left = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
    return (np.abs(ahead) < long) & (np.abs(left) < wide)
