"""The front camera: a perspective raster of road, markings, objects and weather, for all rows of a batch at once.

Each line of the picture shows the ground at one distance x, where the road's centre is y(x) to the side. A pixel's
position across the road is (y_pixel - y(x)) cos(angle of the road), without a search for the nearest point.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import numpy as np

from saccade.envs.lane.driving import Cars
from saccade.envs.lane.lidar import relative_poses
from saccade.envs.lane.roads import PAVED, SIZES, WIDTH, Roads

HEIGHT = 2.2
"""Height of the camera above the ground in metres."""

HORIZON, SHAPE = 0.25, 0.75
"""Share of the frame above the horizon; ratio of the frame's height to its width."""

PAINT = 0.2
"""Width of a marking in metres."""

FARTHEST = 42.0
"""Distance in metres up to which the ground is rendered."""

NEAREST_OBJECT = 0.6
"""Distance in metres below which objects are rendered no larger."""

RENDERED_OBJECTS = 4
"""Number of objects that are rendered, the nearest ones."""

ASPHALT, PAINTED, GRASS = np.array([[0.3, 0.3, 0.32], [0.95, 0.95, 0.9], [0.36, 0.55, 0.26]], np.float32)

OBJECT_COLORS = np.array([[0, 0, 0], [0.62, 0.14, 0.14], [0.95, 0.45, 0.08]], np.float32)

SKY = np.array([0.62, 0.75, 0.92], np.float32)

NOISES = 61
"""Number of different noise pictures; a prime, so that they do not repeat with the period of anything else."""


@dataclass(frozen=True)
class Camera:
    """Renders the part of the frame from ``top`` to ``bottom``, which are shares of its height."""

    height: int
    width: int
    top: float
    bottom: float
    slope_H: np.ndarray = field(init=False)
    """Downward slope of the ray of each line of pixels."""
    side_W: np.ndarray = field(init=False)
    """Slope to the left of the ray of each column of pixels; the frame shows 45 degrees to either side."""

    def __post_init__(self) -> None:
        line = self.top + (self.bottom - self.top) * (np.arange(self.height) + 0.5) / self.height
        column = (np.arange(self.width) + 0.5) / self.width
        object.__setattr__(self, "slope_H", ((line - HORIZON) * 2 * SHAPE).astype(np.float32))
        object.__setattr__(self, "side_W", (1 - 2 * column).astype(np.float32))

    def picture(self, roads: Roads, cars: Cars, noise_index_B: np.ndarray) -> np.ndarray:
        """Pictures uint8 ``[B, height, width, 3]``; ``noise_index_B`` selects the noise."""
        distance_H = HEIGHT / np.maximum(self.slope_H, HEIGHT / FARTHEST)
        scene = self._ground(roads, cars, distance_H)
        distance_BHW = np.broadcast_to(distance_H[:, None], scene.shape[:3]).copy()
        self._objects(scene, distance_BHW, roads, cars)
        scene = weathered(scene, distance_BHW, roads)
        scene[:, self.slope_H <= 0] = _sky(roads)[:, None, None]
        noise = _noise(self.height, self.width)[noise_index_B % NOISES]
        strength_B = (_NOISE[roads.weather_B] * roads.thickness_B).astype(np.float32)
        scene += strength_B[:, None, None, None] * noise[..., None]
        return (np.clip(scene, 0, 1) * 255).astype(np.uint8)

    def _ground(self, roads: Roads, cars: Cars, distance_H: np.ndarray) -> np.ndarray:
        """Asphalt, markings and grass in daylight, float32 ``[B, H, W, 3]``."""
        y_BH, angle_BH, s_BH = _road_ahead(roads, cars, distance_H)
        across = (distance_H[:, None] * self.side_W - y_BH[..., None]) * np.cos(angle_BH)[..., None].astype(np.float32)
        pixel = (distance_H * 2 / self.width)[:, None]
        edge = np.minimum(PAINT, pixel)
        painted = np.clip((PAINT + pixel) / 2 - np.abs(np.abs(across) - WIDTH / 2), 0, edge) / pixel
        left, right = (roads.at(roads.marking_B2N[:, side], s_BH).astype(np.float32)[..., None] for side in (0, 1))
        hidden = (1 - _HIDING[roads.weather_B] * roads.thickness_B).astype(np.float32)[:, None, None]
        painted *= np.where(across > 0, left, right) * hidden
        grass = np.clip((np.abs(across) - PAVED) / pixel + 0.5, 0, 1)[..., None]
        ground = ASPHALT + (GRASS - ASPHALT) * grass
        return ground + (PAINTED - ground) * painted[..., None]

    def _objects(self, scene: np.ndarray, distance_BHW: np.ndarray, roads: Roads, cars: Cars) -> None:
        """Paint the nearest cars and cones as upright boxes, the farthest first."""
        x, y, heading = cars.pose(roads)
        ahead, left, turned = relative_poses(roads, x, y, heading)
        half = SIZES[roads.kind_BM, :2] / 2
        depth, wide = (
            np.abs(np.cos(turned)) * half[..., i] + np.abs(np.sin(turned)) * half[..., 1 - i] for i in (0, 1)
        )
        front = np.where((ahead > -depth) & (roads.kind_BM > 0) & (ahead < FARTHEST), ahead - depth, np.inf)
        row = np.arange(len(front))
        for place in np.argsort(front, 1)[:, :RENDERED_OBJECTS].T[::-1]:
            near = np.maximum(front[row, place], NEAREST_OBJECT)
            if not (near < FARTHEST).any():
                continue
            kind = roads.kind_BM[row, place]
            middle, reach, high = left[row, place], wide[row, place], SIZES[kind, 2]
            lines = (self.slope_H < (HEIGHT / near)[:, None]) & (self.slope_H > ((HEIGHT - high) / near)[:, None])
            columns = np.abs(self.side_W - (middle / near)[:, None]) < (reach / near)[:, None]
            covered = lines[:, :, None] & columns[:, None, :]
            scene[covered] = OBJECT_COLORS[np.broadcast_to(kind[:, None, None], covered.shape)[covered]]
            distance_BHW[covered] = np.broadcast_to(near[:, None, None], covered.shape)[covered]


def weathered(scene: np.ndarray, distance_BHW: np.ndarray, roads: Roads) -> np.ndarray:
    """The scene in its weather: fog hides distant parts, headlights have a limited range, rain darkens."""
    thick = roads.thickness_B
    haze = (np.array([0.004, 0.03, 0.11, 0.01])[roads.weather_B] * thick).astype(np.float32)[:, None, None]
    reach = np.where(roads.weather_B == 3, 26 - 14 * thick, 1e3).astype(np.float32)[:, None, None]
    ambient_B = np.where(roads.weather_B == 3, 0.12, 1 - 0.4 * thick * (roads.weather_B == 1)).astype(np.float32)
    night_B = (roads.weather_B == 3).astype(np.float32)
    headlights = night_B[:, None, None] * 0.8 * np.exp(-((distance_BHW / reach) ** 2))
    light = ambient_B[:, None, None] + headlights
    clear = np.exp(-haze * distance_BHW)
    return scene * (light * clear)[..., None] + _sky(roads)[:, None, None] * (1 - clear)[..., None]


_HIDING = np.array([0.1, 0.95, 0.85, 0.9])
"""Share of the markings that each weather hides at its largest intensity."""

_NOISE = np.array([0.02, 0.12, 0.04, 0.08])
"""Standard deviation of the pixel noise of each weather at its largest intensity."""


def _sky(roads: Roads) -> np.ndarray:
    colors = np.stack([SKY, SKY * 0.6, np.full(3, 0.75, np.float32), SKY * 0.06])
    return colors[roads.weather_B].astype(np.float32)


def _road_ahead(roads: Roads, cars: Cars, distance_H: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lateral position of the road's centre at each distance, its angle to the car, its arc length: each ``[B, H]``."""
    s = cars.s[:, None] + np.arange(-3.0, FARTHEST + 2)
    x, y, heading = cars.pose(roads)
    dx, dy = roads.at(roads.x_BN, s) - x[:, None], roads.at(roads.y_BN, s) - y[:, None]
    cos, sin = np.cos(heading)[:, None], np.sin(heading)[:, None]
    # A road that bends back has no single position at a distance; from there on it is rendered straight ahead.
    ahead = np.maximum.accumulate(dx * cos + dy * sin, axis=1)
    left, angle = dy * cos - dx * sin, roads.at(roads.heading_BN, s) - heading[:, None]
    after = np.clip((ahead[:, :, None] <= distance_H).sum(1), 1, s.shape[1] - 1)
    row = np.arange(len(s))[:, None]
    gap = np.maximum(ahead[row, after] - ahead[row, after - 1], 1e-6)
    share = np.clip((distance_H - ahead[row, after - 1]) / gap, 0, 1)
    between = lambda table: table[row, after - 1] * (1 - share) + table[row, after] * share
    return between(left).astype(np.float32), between(angle).astype(np.float32), between(s)


@cache
def _noise(height: int, width: int) -> np.ndarray:
    """Standard normal noise, the same in every process: ``[NOISES, height, width]``."""
    return np.random.default_rng(0).standard_normal((NOISES, height, width), np.float32)
