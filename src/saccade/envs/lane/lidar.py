"""LiDAR distances to upright boxes (cars and cones), and collisions with them."""

from __future__ import annotations

import numpy as np

from saccade.envs.lane.driving import HALF_LENGTH, HALF_WIDTH
from saccade.envs.lane.roads import SIZES, Roads

MAX_RANGE = 10.0
"""Largest distance in metres that is measured."""


def directions(count: int) -> np.ndarray:
    """Angles of ``count`` rays over 180 degrees from left to right, symmetric: ``[R]`` in radians, left positive."""
    return (0.5 - (np.arange(count) + 0.5) / count) * np.pi


def relative_poses(roads: Roads, x_B: np.ndarray, y_B: np.ndarray, heading_B: np.ndarray) -> tuple[np.ndarray, ...]:
    """Objects relative to their car: distance ahead, distance to the left, and angle, each ``[B, M]``."""
    dx, dy = roads.object_BM4[:, :, 2] - x_B[:, None], roads.object_BM4[:, :, 3] - y_B[:, None]
    cos, sin = np.cos(heading_B)[:, None], np.sin(heading_B)[:, None]
    turned = roads.at(roads.heading_BN, roads.object_BM4[:, :, 0]) - heading_B[:, None]
    return dx * cos + dy * sin, dy * cos - dx * sin, turned


def ranges(angle_R: np.ndarray, poses: tuple[np.ndarray, ...], kind_BM: np.ndarray) -> np.ndarray:
    """Distance in metres of the first object on each ray of a car at the origin, at most MAX_RANGE: ``[B, R]``."""
    ahead, left, turned = (part[:, :, None] for part in poses)
    half = SIZES[kind_BM, :2] / 2
    # In the box's frame the ray starts at -(ahead, left), rotated back, and crosses a pair of sides at two distances.
    cos, sin = np.cos(turned), np.sin(turned)
    start = (-(ahead * cos + left * sin), ahead * sin - left * cos)
    direction = (np.cos(angle_R - turned), np.sin(angle_R - turned))
    enters, leaves = 0.0, np.inf
    for axis in range(2):
        step = np.where(np.abs(direction[axis]) < 1e-9, 1e-9, direction[axis])
        one, other = (-half[:, :, axis, None] - start[axis]) / step, (half[:, :, axis, None] - start[axis]) / step
        enters, leaves = np.maximum(enters, np.minimum(one, other)), np.minimum(leaves, np.maximum(one, other))
    hit = (enters <= leaves) & (kind_BM[:, :, None] > 0)
    return np.minimum(np.where(hit, enters, MAX_RANGE).min(1), MAX_RANGE)


def collides(poses: tuple[np.ndarray, ...], kind_BM: np.ndarray) -> np.ndarray:
    """Whether a car, approximated by three discs, overlaps a box: bool ``[B]``."""
    ahead, left, turned = poses
    cos, sin = np.cos(turned), np.sin(turned)
    half = SIZES[kind_BM, :2] / 2
    collided = np.zeros(len(kind_BM), bool)
    for disc in (-1.0, 0.0, 1.0):
        at = ahead - disc * (HALF_LENGTH - HALF_WIDTH)
        out_x = np.maximum(np.abs(at * cos + left * sin) - half[:, :, 0], 0)
        out_y = np.maximum(np.abs(left * cos - at * sin) - half[:, :, 1], 0)
        collided |= ((out_x**2 + out_y**2 < HALF_WIDTH**2) & (kind_BM > 0)).any(1)
    return collided
