"""Roads: straights and bends of smooth curvature, worn markings, parked cars and cones, and the weather.

A road follows from its seed. Positions on it are the arc length ``s`` along the centre and the distance ``d`` to the
left of it, both in metres; tables hold one value every SPACING metres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

SPACING = 0.5
"""Distance of table entries in metres."""

START, BEYOND = 4.0, 44.0
"""Metres of road before the start and beyond the end, which are visible."""

WIDTH = 5.0
"""Width of the lane from marking to marking in metres."""

PAVED = 4.2
"""Half the width of the asphalt in metres: cars park beyond the markings, and the near picture shows no grass."""

WEATHERS = ("clear", "rain", "fog", "night")

KINDS = ("nothing", "car", "cone")

SIZES = np.array([[0.0, 0.0, 0.0], [4.2, 1.8, 1.5], [0.5, 0.5, 0.8]])
"""Length, width and height of each kind in metres."""

OBJECTS = 8
"""Largest number of cars and cones on a road."""

HELD_OUT = range(10**9, 10**9 + 10**6)
"""Seeds of test episodes: their weather is more intense than that of all other seeds."""

AWAY = 1e6
"""Position of missing objects in metres."""


@dataclass
class Roads:
    """B roads side by side (or one, without the first axis)."""

    x_BN: np.ndarray
    y_BN: np.ndarray
    heading_BN: np.ndarray
    curvature_BN: np.ndarray
    marking_B2N: np.ndarray
    """Visibility of the left and of the right marking, 0 to 1."""
    object_BM4: np.ndarray
    """Cars and cones: s, d, x, y of their centres; AWAY for missing ones."""
    kind_BM: np.ndarray
    weather_B: np.ndarray
    thickness_B: np.ndarray
    """Intensity of the weather, 0 to 1."""

    def put(self, row: int, road: Roads) -> None:
        """Replace one road."""
        for part in fields(self):
            getattr(self, part.name)[row] = getattr(road, part.name)

    def at(self, table_BN: np.ndarray, s_BK: np.ndarray) -> np.ndarray:
        """A table's values at positions along the road, interpolated: ``[B, K]``; beyond the table its last values."""
        place = np.clip(s_BK / SPACING, 0, table_BN.shape[1] - 1.001)
        left = place.astype(np.int64)
        row = np.arange(len(table_BN))[:, None]
        share = place - left
        return table_BN[row, left] * (1 - share) + table_BN[row, left + 1] * share


def sample_road(seed: int, length: float) -> Roads:
    """The road of one seed, ``length`` metres from start to end."""
    rng = np.random.default_rng(seed)
    count = round((START + length + BEYOND) / SPACING)
    curvature_N = _curvature(rng, count)
    heading_N = np.concatenate([[0.0], np.cumsum((curvature_N[1:] + curvature_N[:-1]) / 2 * SPACING)])
    middle = (heading_N[1:] + heading_N[:-1]) / 2
    x_N, y_N = (np.concatenate([[0.0], np.cumsum(f(middle) * SPACING)]) for f in (np.cos, np.sin))
    object_M2, kind_M = _objects(rng, length)
    near = np.minimum((object_M2[:, 0] / SPACING).astype(np.int64), count - 1)
    normal = np.stack([-np.sin(heading_N[near]), np.cos(heading_N[near])], 1)
    place_M2 = np.stack([x_N[near], y_N[near]], 1) + object_M2[:, 1:] * normal
    place_M2[kind_M == 0] = AWAY
    low, high = (0.75, 1.0) if seed in HELD_OUT else (0.2, 0.75)
    return Roads(
        x_N,
        y_N,
        heading_N,
        curvature_N,
        _markings(rng, count),
        np.concatenate([object_M2, place_M2], 1),
        kind_M,
        np.array(rng.integers(len(WEATHERS))),
        np.array(rng.uniform(low, high)),
    )


def stack_roads(roads: Sequence[Roads]) -> Roads:
    """Several roads of one length as one batch."""
    return Roads(*(np.stack([getattr(road, part.name) for road in roads]) for part in fields(Roads)))


def _curvature(rng: np.random.Generator, count: int) -> np.ndarray:
    """Straights of 8 to 18 m and bends of 9 to 20 m with radii down to 20 m, which mostly alternate sides."""
    pieces, side = [np.zeros(round((START + 8) / SPACING))], rng.choice([-1, 1])
    while sum(map(len, pieces)) < count:
        side = -side if rng.random() < 0.65 else side
        bend = np.full(round(rng.uniform(9, 20) / SPACING), side * rng.uniform(0.02, 0.05))
        pieces += [bend, np.zeros(round(rng.uniform(8, 18) / SPACING))]
    smooth = np.ones(round(3 / SPACING)) / round(3 / SPACING)
    return np.convolve(np.concatenate(pieces)[:count], smooth, mode="same")


def _markings(rng: np.random.Generator, count: int) -> np.ndarray:
    """Stretches of 2 to 8 m that are intact or worn, independent on both sides: ``[2, N]``."""
    sides = []
    for _ in range(2):
        parts: list[np.ndarray] = []
        while sum(map(len, parts)) < count:
            entries = round(rng.uniform(2, 8) / SPACING)
            parts.append(np.full(entries, 1.0 if rng.random() < 0.6 else rng.uniform(0, 0.3)))
        sides.append(np.concatenate(parts)[:count])
    return np.stack(sides)


def _objects(rng: np.random.Generator, length: float) -> tuple[np.ndarray, np.ndarray]:
    """Cars beside the lane and cones at its edge: their s and d ``[M, 2]``, and their kinds ``[M]``."""
    place_M2, kind_M = np.full((OBJECTS, 2), AWAY), np.zeros(OBJECTS, np.int64)
    s = START + rng.uniform(10, 25)
    for i in range(OBJECTS):
        if s > START + length + 15:
            break
        kind_M[i] = rng.integers(1, len(KINDS))
        near, far = (3.3, 3.9) if kind_M[i] == 1 else (1.9, 2.7)
        place_M2[i] = s, rng.choice([-1, 1]) * rng.uniform(near, far)
        s += rng.uniform(10, 35)
    return place_M2, kind_M
