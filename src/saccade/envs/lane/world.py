"""Lane keeping: a car on a winding road in changing weather, with a front camera and a short-range LiDAR."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces

from saccade.core import Observation, Step
from saccade.envs.lane import captions, lidar, rewards, roads, topdown, vision
from saccade.envs.lane.camera import HEIGHT, Camera
from saccade.envs.lane.driving import TIME_STEP, Cars, drive
from saccade.random import numpy_generator

SKY, NEAR = 0.1, 1 - 110 / 300
"""Shares of the frame's height: the captioner's picture lies between them, the policy's below NEAR, 110 of 300 lines as
in the code that came with 2510.22370.
"""

WEIGHTS = rewards.Weights()


@dataclass
class Progress:
    """The episodes so far, each field ``[B, ...]``."""

    steps: np.ndarray
    """Number of steps."""
    close: np.ndarray
    """Whether an object was too close in each of the recent steps, bool ``[B, RECENT]``."""
    squares: np.ndarray
    """Sum of the squared lateral error."""
    sizes: np.ndarray
    """Sum of the absolute lateral error."""
    columns: np.ndarray
    """Smoothed positions of both markings in the picture ``[B, 2]``, NaN before they are detected."""
    path: np.ndarray
    """Positions so far ``[B, steps + 1, 2]``, NaN for later steps."""

    @classmethod
    def start(cls, count: int, steps: int) -> Progress:
        """The beginning of ``count`` episodes of up to ``steps`` steps."""
        return cls(
            steps=np.zeros(count, np.int64),
            close=np.zeros((count, rewards.RECENT), bool),
            squares=np.zeros(count),
            sizes=np.zeros(count),
            columns=np.full((count, 2), np.nan),
            path=np.full((count, steps + 1, 2), np.nan, np.float32),
        )


class Lane:
    """``count`` episodes of lane keeping. Actions ``[B, 2]`` in [-1, 1]: steering (left positive), speed.

    Observations: "image" uint8 ``[B, h, w, 3]`` of the near road, "lidar" float32 ``[B, rays]`` as shares of its range.
    An episode is terminated when the lane is left, an object is hit or was too close for long; it is truncated at the
    end of the road, which goes on, and after ``steps``. Seeds in `roads.HELD_OUT` make test episodes. ``error`` is the
    source of the lane error in rewards and hints: the "exact" geometry, or the "vision" pipeline. ``info`` holds the
    facts that scores need, and the reward's terms as "reward.<name>". ValueError for a setting outside its range.
    """

    name = "lane"

    def __init__(
        self,
        count: int,
        image: tuple[int, int] = (18, 64),
        far: tuple[int, int] = (48, 64),
        rays: int = 36,
        length: float = 120.0,
        steps: int = 400,
        weathers: Sequence[str] = roads.WEATHERS,
        error: Literal["exact", "vision"] = "exact",
        weights: rewards.Weights = WEIGHTS,
    ):
        _check(count, rays, length, steps, weathers, error)
        self.count, self.length, self.steps, self.weights, self.error_source = count, length, steps, weights, error
        self.weathers = [roads.WEATHERS.index(w) for w in weathers]
        self.near, self.far = Camera(*image, NEAR, 1.0), Camera(*far, SKY, NEAR)
        self.angle_R = lidar.directions(rays)
        picture, ranges = spaces.Box(0, 255, (*image, 3), np.uint8), spaces.Box(0, 1, (rays,), np.float32)
        self.observation_space = spaces.Dict({"image": picture, "lidar": ranges})
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.seed_B = np.zeros(count, np.int64)
        self.roads = roads.stack_roads([self._road(0)] * count)
        self.cars, self.progress = Cars.standing(count), Progress.start(count, steps)

    # -- the protocol ---------------------------------------------------------------------------------------

    def begin(self, rows: Sequence[int], seeds: Sequence[int]) -> Observation:
        """Begin episodes in these rows; observations in the order of ``rows``."""
        index = np.asarray(rows, np.int64)
        self.seed_B[index] = np.asarray(seeds, np.int64)
        for row, seed in zip(rows, seeds):
            self.roads.put(row, self._road(int(seed)))
        _put(self.progress, index, Progress.start(len(rows), self.steps))
        low, high = (-0.5, -0.06, 1.5), (0.5, 0.06, 3.0)
        d, psi, speed = np.array(
            [numpy_generator(int(seed), "start on the road").uniform(low, high) for seed in seeds]
        ).T
        _put(self.cars, index, Cars(np.full(len(rows), roads.START), d, psi, speed, np.zeros(len(rows))))
        return self._observe(index)

    def step(self, action_B: np.ndarray) -> Step:
        """One step of all rows; actions are clipped to [-1, 1]."""
        self.cars = drive(self.cars, self.roads, np.clip(np.asarray(action_B, np.float64), -1, 1))
        self.progress.steps += 1
        observation = self._observe(np.arange(self.count))
        nearest_B = lidar.MAX_RANGE * observation["lidar"].min(1)
        terms = rewards.terms(self.error(), self.cars.speed, nearest_B)
        crashed_B, lost_B = self._crashed(nearest_B), np.abs(self.cars.d) * rewards.PIXELS > rewards.LOST
        over_B = crashed_B | lost_B
        arrived_B = ~over_B & (self.cars.s >= roads.START + self.length)
        truncated_B = arrived_B | (~over_B & (self.progress.steps >= self.steps))
        last_B = rewards.crash_reward(TIME_STEP * self.progress.steps)
        reward_B = np.where(over_B, last_B, rewards.total(terms, self.weights)).astype(np.float32)
        facts = {"success": arrived_B, "crashed": crashed_B, "lost": lost_B, **self._facts()}
        term_facts = {f"reward.{name}": term.astype(np.float32) for name, term in terms.items()}
        return Step(observation, reward_B, over_B, truncated_B, facts | term_facts)

    def render(self, rows: Sequence[int]) -> np.ndarray:
        """The roads from above with the paths so far: uint8 ``[len(rows), 96, 96, 3]``."""
        return np.stack([topdown.view(self.roads, self.cars, self.progress.path[row], row) for row in rows])

    def state_dict(self) -> dict[str, Any]:
        parts = {f"{part}.{k}": v for part in ("cars", "progress") for k, v in vars(getattr(self, part)).items()}
        return {name: torch.tensor(value) for name, value in {"seed_B": self.seed_B, **parts}.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.seed_B = state["seed_B"].numpy().copy()
        self.roads = roads.stack_roads([self._road(int(seed)) for seed in self.seed_B])
        for part in ("cars", "progress"):
            for name in vars(getattr(self, part)):
                setattr(getattr(self, part), name, state[f"{part}.{name}"].numpy().copy())

    # -- what wrappers and captioners use ---------------------------------------------------------------------

    def error(self) -> np.ndarray:
        """Lane error: distance to the left of the lane's centre in metres, from its source: ``[B]``."""
        if self.error_source == "exact":
            return self.cars.d.copy()
        width = 2 * HEIGHT / float(self.near.slope_H[-1])
        return vision.lane_error(self.progress.columns, width, roads.WIDTH)

    def camera(self, rows: Sequence[int]) -> np.ndarray:
        """The far part of the front camera's frame: uint8 ``[len(rows), H, W, 3]``."""
        index = np.asarray(rows, np.int64)
        return self.far.picture(_part(self.roads, index), _part(self.cars, index), self._noise_index()[index])

    def captions(self, rows: Sequence[int]) -> list[str]:
        """True captions of the road ahead."""
        index = np.asarray(rows, np.int64)
        return captions.captions(_part(self.roads, index), self.cars.s[index])

    # -- inside -----------------------------------------------------------------------------------------------

    def _road(self, seed: int) -> roads.Roads:
        road = roads.sample_road(seed, self.length)
        road.weather_B = np.array(self.weathers[int(road.weather_B) % len(self.weathers)])
        return road

    def _noise_index(self) -> np.ndarray:
        return self.seed_B % 1009 + 7 * self.progress.steps

    def _observe(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The present observations of these rows; records their positions."""
        complete = len(rows) == self.count
        road, cars = (self.roads, self.cars) if complete else (_part(self.roads, rows), _part(self.cars, rows))
        pose = cars.pose(road)
        image = self.near.picture(road, cars, self._noise_index()[rows])
        range_BR = lidar.ranges(self.angle_R, lidar.relative_poses(road, *pose), road.kind_BM)
        self.progress.path[rows, self.progress.steps[rows]] = np.stack(pose[:2], 1)
        if self.error_source == "vision":
            new, old = np.array([vision.marking_columns(picture) for picture in image]), self.progress.columns[rows]
            smoothed = old + vision.SMOOTH * (new - old)
            self.progress.columns[rows] = np.where(np.isnan(old), new, np.where(np.isnan(new), old, smoothed))
        return {"image": image, "lidar": (range_BR / lidar.MAX_RANGE).astype(np.float32)}

    def _crashed(self, nearest_B: np.ndarray) -> np.ndarray:
        """Whether an object is hit, or was too close for long."""
        self.progress.close[np.arange(self.count), self.progress.steps % rewards.RECENT] = nearest_B < rewards.CLOSE
        poses = lidar.relative_poses(self.roads, *self.cars.pose(self.roads))
        hit_B = lidar.collides(poses, self.roads.kind_BM)
        return hit_B | (self.progress.close.sum(1) >= rewards.CLOSE_STEPS)

    def _facts(self) -> dict[str, np.ndarray]:
        """Lateral error, its mean square and mean absolute value over the episode, and the car's position."""
        self.progress.squares += self.cars.d**2
        self.progress.sizes += np.abs(self.cars.d)
        facts = {
            "offset": self.cars.d,
            "offset_square": self.progress.squares / self.progress.steps,
            "offset_size": self.progress.sizes / self.progress.steps,
            "speed": self.cars.speed,
            "distance": self.cars.s - roads.START,
            "weather": self.roads.weather_B,
        }
        position_B2 = self.progress.path[np.arange(self.count), self.progress.steps]
        return {"position": position_B2} | {name: np.asarray(value, np.float32) for name, value in facts.items()}


def _part(data: Any, rows: np.ndarray) -> Any:
    """These rows of every field of a dataclass."""
    return type(data)(*(getattr(data, each.name)[rows] for each in fields(data)))


def _put(data: Any, rows: np.ndarray, values: Any) -> None:
    """Replace these rows of every field of a dataclass."""
    for each in fields(data):
        getattr(data, each.name)[rows] = getattr(values, each.name)


def _check(count: int, rays: int, length: float, steps: int, weathers: Sequence[str], error: str) -> None:
    if count < 1 or rays < 1 or steps < 1 or not length >= 20:
        raise ValueError(
            f"lane: count {count}, rays {rays}, steps {steps} must be 1 or more, length {length} 20 m or more"
        )
    unknown = [w for w in weathers if w not in roads.WEATHERS]
    if unknown or not weathers:
        raise ValueError(
            f"lane: weather {unknown[0] if unknown else '(none)'!r} is not one of {', '.join(roads.WEATHERS)}"
        )
    if error not in ("exact", "vision"):
        raise ValueError(f"lane: error {error!r} is neither exact nor vision")
