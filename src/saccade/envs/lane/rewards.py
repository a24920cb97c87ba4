"""The reward of a step: a weighted sum of four terms, and the reward of a crash.

    r = 0.3 r_lane + 0.2 r_speed + 0.3 r_lidar / 10 + 0.2 r_center, clipped to [-1, 1]
    r_lane = 1 - |e| / 100,  r_speed = -(v - 20)^2 / 20^2,  r_center = -2.5 (e / 80)^2

with the lane error e in pixels and the speed v in km/h; r_lidar is `distance`. An episode that ends in a crash earns
-3 + T / 50 last, with its duration T in seconds. Zones and constants are those of the code that came with 2510.22370.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PIXELS = 70.0
"""Pixels of a metre in pictures of 700 columns that show ten metres: the lane is left at 1.2 m off its centre."""

LOST = 85.0
"""Lane error in pixels at which the lane is left."""

CLOSE, CLOSE_STEPS, RECENT = 2.0, 10, 20
"""A crash is being closer than CLOSE metres to an object in CLOSE_STEPS of the last RECENT steps."""


@dataclass(frozen=True)
class Weights:
    """Weight of each term of the reward."""

    lane: float = 0.3
    speed: float = 0.2
    lidar: float = 0.3
    center: float = 0.2


def terms(error_B: np.ndarray, speed_B: np.ndarray, nearest_B: np.ndarray) -> dict[str, np.ndarray]:
    """The four terms by name ``[B]``; errors and distances in metres, speeds in metres per second."""
    pixels_B = PIXELS * error_B
    return {
        "lane": 1 - np.abs(pixels_B) / 100,
        "speed": -((3.6 * speed_B - 20) ** 2) / 20**2,
        "lidar": distance(nearest_B) / 10,
        "center": -2.5 * (pixels_B / 80) ** 2,
    }


def distance(nearest_B: np.ndarray) -> np.ndarray:
    """Points for the distance to the nearest object: up to -10 close by, +5 from 3 to 4 m and from 8 to 10 m."""
    d = nearest_B
    bonus = 5.0 * (((d >= 3) & (d <= 4)) | ((d >= 8) & (d < 10)))
    penalty = np.where((d >= 4) & (d <= 8), -5 * (8 - d) / 4, np.where(d < 2.8, -10 + 2 * d, 0.0))
    return bonus + penalty


def total(terms: dict[str, np.ndarray], weights: Weights) -> np.ndarray:
    """The weighted sum of the terms, clipped to [-1, 1]: ``[B]``."""
    return np.clip(sum(getattr(weights, name) * term for name, term in terms.items()), -1, 1)


def crash_reward(seconds_B: np.ndarray) -> np.ndarray:
    """Last reward of an episode that ends in a crash after ``seconds_B``."""
    return -3 + seconds_B / 50
