"""A kinematic bicycle model in the coordinates of its road, with first-order lags of steering and speed.

    s' = v cos(psi) / (1 - k d),   d' = v sin(psi),   psi' = v tan(steer) / wheelbase - k s'

d is the lateral error, exact by construction; k the road's curvature at s, psi the angle between car and road.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from saccade.envs.lane.roads import Roads

WHEELBASE = 2.7
"""Distance of the axles in metres."""

TIME_STEP = 0.1
"""Seconds of one step."""

LAGS = (0.4, 0.6)
"""Time constants of steering and speed in seconds."""

MAX_STEER, MAX_SPEED = 0.8, 20 / 3.6
"""Largest steering angle in radians to either side; largest speed in metres per second."""

HALF_LENGTH, HALF_WIDTH = 2.0, 0.8
"""Half the length and half the width of a car in metres."""

_SUBSTEPS = 2


@dataclass
class Cars:
    """B cars, each field float64 ``[B]``: arc length along the road, distance to the left of its centre, angle to it,
    speed, steering angle.
    """

    s: np.ndarray
    d: np.ndarray
    psi: np.ndarray
    speed: np.ndarray
    steer: np.ndarray

    @classmethod
    def standing(cls, count: int) -> Cars:
        """``count`` cars that stand at the start of their tables."""
        return cls(*(np.zeros(count) for _ in fields(cls)))

    def pose(self, roads: Roads) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x, y and heading of each car in the world, each ``[B]``."""
        s = self.s[:, None]
        x, y, heading = (roads.at(t, s)[:, 0] for t in (roads.x_BN, roads.y_BN, roads.heading_BN))
        return x - self.d * np.sin(heading), y + self.d * np.cos(heading), heading + self.psi


def drive(cars: Cars, roads: Roads, action_B2: np.ndarray) -> Cars:
    """The cars one step later. Actions in [-1, 1] set targets of steering angle and speed (-1 stands still)."""
    target_steer, target_speed = MAX_STEER * action_B2[:, 0], MAX_SPEED * (action_B2[:, 1] + 1) / 2
    s, d, psi, speed, steer = cars.s, cars.d, cars.psi, cars.speed, cars.steer
    dt = TIME_STEP / _SUBSTEPS
    steer_gain, speed_gain = (1 - np.exp(-dt / lag) for lag in LAGS)
    for _ in range(_SUBSTEPS):
        steer = steer + steer_gain * (target_steer - steer)
        speed = speed + speed_gain * (target_speed - speed)
        curvature = roads.at(roads.curvature_BN, s[:, None])[:, 0]
        along = speed * np.cos(psi) / (1 - curvature * np.clip(d, -10, 10))
        d = d + dt * speed * np.sin(psi)
        psi = psi + dt * (speed * np.tan(steer) / WHEELBASE - curvature * along)
        s = s + dt * along
    return Cars(s, d, psi, speed, steer)
