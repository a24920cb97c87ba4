"""LiDAR rays against upright boxes (cars and cones), and whether a car touches one."""

from __future__ import annotations

import numpy as np

from saccade.envs.lane.driving import HALF_LENGTH, HALF_WIDTH
from saccade.envs.lane.roads import SIZES, Roads

REACH = 10.0
"""Metres beyond which nothing comes back."""


def directions(count: int) -> np.ndarray:
    """``count`` rays over 180 degrees from left to right, alike on both sides: angles ``[R]`` in radians, left
    positive.
    """
    return (0.5 - (np.arange(count) + 0.5) / count) * np.pi


def in_view(roads: Roads, x_B: np.ndarray, y_B: np.ndarray, heading_B: np.ndarray) -> tuple[np.ndarray, ...]:
    """Things as a car sees them: ahead, to the left, and their own direction, each ``[B, M]``."""
    dx, dy = roads.thing_BM4[:, :, 2] - x_B[:, None], roads.thing_BM4[:, :, 3] - y_B[:, None]
    cos, sin = np.cos(heading_B)[:, None], np.sin(heading_B)[:, None]
    turned = roads.at(roads.heading_BN, roads.thing_BM4[:, :, 0]) - heading_B[:, None]
    return dx * cos + dy * sin, dy * cos - dx * sin, turned


def ranges(angle_R: np.ndarray, seen: tuple[np.ndarray, ...], kind_BM: np.ndarray) -> np.ndarray:
    """Metres to what each ray of a car at the origin meets first, at most REACH: ``[B, R]``."""
    ahead, left, turned = (part[:, :, None] for part in seen)
    half = SIZES[kind_BM, :2] / 2
    # In the box's own frame the ray starts at -(ahead, left), turned back, and leaves a pair of sides at two distances.
    cos, sin = np.cos(turned), np.sin(turned)
    start = (-(ahead * cos + left * sin), ahead * sin - left * cos)
    way = (np.cos(angle_R - turned), np.sin(angle_R - turned))
    enters, leaves = 0.0, np.inf
    for axis in range(2):
        step = np.where(np.abs(way[axis]) < 1e-9, 1e-9, way[axis])
        one, other = (-half[:, :, axis, None] - start[axis]) / step, (half[:, :, axis, None] - start[axis]) / step
        enters, leaves = np.maximum(enters, np.minimum(one, other)), np.minimum(leaves, np.maximum(one, other))
    met = (enters <= leaves) & (kind_BM[:, :, None] > 0)
    return np.minimum(np.where(met, enters, REACH).min(1), REACH)


def touching(seen: tuple[np.ndarray, ...], kind_BM: np.ndarray) -> np.ndarray:
    """Whether three discs that make up a car overlap a box: bool ``[B]``."""
    ahead, left, turned = seen
    cos, sin = np.cos(turned), np.sin(turned)
    half = SIZES[kind_BM, :2] / 2
    touched = np.zeros(len(kind_BM), bool)
    for place in (-1.0, 0.0, 1.0):
        at = ahead - place * (HALF_LENGTH - HALF_WIDTH)
        out_x = np.maximum(np.abs(at * cos + left * sin) - half[:, :, 0], 0)
        out_y = np.maximum(np.abs(left * cos - at * sin) - half[:, :, 1], 0)
        touched |= ((out_x**2 + out_y**2 < HALF_WIDTH**2) & (kind_BM > 0)).any(1)
    return touched
