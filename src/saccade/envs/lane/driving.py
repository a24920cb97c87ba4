"""A kinematic bicycle in the coordinates of its road, with steering and engine that lag behind what is asked of them.

    s' = v cos(psi) / (1 - k d),   d' = v sin(psi),   psi' = v tan(steer) / wheelbase - k s'

d is the lateral error, exact by construction; k the road's curvature at s, psi the angle between car and road.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from saccade.envs.lane.roads import Roads

WHEELBASE = 2.7

TIME = 0.1
"""Seconds of one step."""

LAGS = (0.4, 0.6)
"""Seconds after which steering and speed have gone about two thirds of the way."""

MOST_STEER, MOST_SPEED = 0.8, 20 / 3.6
"""Radians to either side; metres a second."""

HALF_LENGTH, HALF_WIDTH = 2.0, 0.8

_SUBSTEPS = 2


@dataclass
class Cars:
    """B cars: way along the road, distance to the left of its centre, angle to it, speed, steering angle; ``[B]``
    float64.
    """

    s: np.ndarray
    d: np.ndarray
    psi: np.ndarray
    speed: np.ndarray
    steer: np.ndarray

    @classmethod
    def standing(cls, count: int) -> Cars:
        return cls(*(np.zeros(count) for _ in fields(cls)))

    def pose(self, roads: Roads) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x, y and heading of each car in the world, each ``[B]``."""
        s = self.s[:, None]
        x, y, heading = (roads.at(t, s)[:, 0] for t in (roads.x_BN, roads.y_BN, roads.heading_BN))
        return x - self.d * np.sin(heading), y + self.d * np.cos(heading), heading + self.psi


def drive(cars: Cars, roads: Roads, action_B2: np.ndarray) -> Cars:
    """The cars one step later. Actions in [-1, 1] ask for a steering angle and for a speed (-1 stands still)."""
    want_steer, want_speed = MOST_STEER * action_B2[:, 0], MOST_SPEED * (action_B2[:, 1] + 1) / 2
    s, d, psi, speed, steer = cars.s, cars.d, cars.psi, cars.speed, cars.steer
    span = TIME / _SUBSTEPS
    follow_steer, follow_speed = (1 - np.exp(-span / lag) for lag in LAGS)
    for _ in range(_SUBSTEPS):
        steer = steer + follow_steer * (want_steer - steer)
        speed = speed + follow_speed * (want_speed - speed)
        curvature = roads.at(roads.curvature_BN, s[:, None])[:, 0]
        along = speed * np.cos(psi) / (1 - curvature * np.clip(d, -10, 10))
        d = d + span * speed * np.sin(psi)
        psi = psi + span * (speed * np.tan(steer) / WHEELBASE - curvature * along)
        s = s + span * along
    return Cars(s, d, psi, speed, steer)
