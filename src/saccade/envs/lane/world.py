"""Lane keeping: a car on a winding road in changing weather, with a front camera that sees the near road and a short
LiDAR.
"""

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
from saccade.envs.lane.driving import TIME, Cars, drive

SKY, NEAR = 0.1, 1 - 110 / 300
"""Shares of the frame: captioners are shown what lies between them, the policy what is below NEAR, 110 of 300 lines
as in the code that came with 2510.22370."""


@dataclass
class Course:
    """How the episodes went so far, each ``[B, ...]``."""

    steps: np.ndarray
    close: np.ndarray
    """Whether something was too near in each of the recent steps, bool ``[B, RECENT]``."""
    squares: np.ndarray
    sizes: np.ndarray
    """Sums of the squared and of the absolute lateral error."""
    feet: np.ndarray
    """Where the markings are seen, smoothed: ``[B, 2]``, NaN before they were."""
    path: np.ndarray
    """Places so far ``[B, steps + 1, 2]``, NaN from now on."""

    @classmethod
    def fresh(cls, count: int, steps: int) -> Course:
        close, nowhere = np.zeros((count, rewards.RECENT), bool), np.full((count, steps + 1, 2), np.nan, np.float32)
        return cls(
            np.zeros(count, np.int64), close, np.zeros(count), np.zeros(count), np.full((count, 2), np.nan), nowhere
        )


class Lane:
    """``count`` episodes of keeping the lane, side by side. Actions ``[B, 2]`` in [-1, 1]: steering (left positive),
    speed.

    Observations: "image" uint8 ``[B, h, w, 3]`` of the near road, "lidar" float32 ``[B, rays]`` as shares of its reach.
    An episode ends when the lane is left or something is hit, or too near for long (terminated), at the end of the road
    or after ``steps`` (truncated: the road goes on). Seeds in `roads.HELD_OUT` make the episodes of tests. ``error``
    says where rewards and hints have the lane error from: the "exact" geometry, or the "vision" pipeline. ``info``
    holds what metrics need, and the reward's terms as "reward.<name>". ValueError for settings that make no world.
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
        weights: rewards.Weights = rewards.Weights(),
    ):
        _check(count, rays, length, steps, weathers, error)
        self.count, self.length, self.steps, self.weights, self.measured = count, length, steps, weights, error
        self.weathers = [roads.WEATHERS.index(w) for w in weathers]
        self.near, self.far = Camera(*image, NEAR, 1.0), Camera(*far, SKY, NEAR)
        self.angle_R = lidar.directions(rays)
        seen = {"image": spaces.Box(0, 255, (*image, 3), np.uint8), "lidar": spaces.Box(0, 1, (rays,), np.float32)}
        self.observation_space = spaces.Dict(seen)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.seed_B = np.zeros(count, np.int64)
        self.roads = roads.side_by_side([self._road(0)] * count)
        self.cars, self.course = Cars.standing(count), Course.fresh(count, steps)

    # -- the protocol ---------------------------------------------------------------------------------------

    def begin(self, rows: Sequence[int], seeds: Sequence[int]) -> Observation:
        """New episodes in these rows; what they show, in the order of ``rows``."""
        rows = np.asarray(rows, np.int64)
        self.seed_B[rows] = np.asarray(seeds, np.int64)
        for row, seed in zip(rows, seeds):
            self.roads.put(row, self._road(int(seed)))
        _put(self.course, rows, Course.fresh(len(rows), self.steps))
        starts = [np.random.default_rng([int(seed), 1]).uniform((-0.5, -0.06, 1.5), (0.5, 0.06, 3.0)) for seed in seeds]
        d, psi, speed = np.array(starts).T
        _put(self.cars, rows, Cars(np.full(len(rows), roads.START), d, psi, speed, np.zeros(len(rows))))
        return self._look(rows)

    def step(self, action_B: np.ndarray) -> Step:
        """One step of all rows; actions are clipped to [-1, 1]."""
        self.cars = drive(self.cars, self.roads, np.clip(np.asarray(action_B, np.float64), -1, 1))
        self.course.steps += 1
        seen = self._look(np.arange(self.count))
        nearest_B = lidar.REACH * seen["lidar"].min(1)
        terms = rewards.terms(self.error(), self.cars.speed, nearest_B)
        crashed_B, lost_B = self._crashed(nearest_B), np.abs(self.cars.d) * rewards.PIXELS > rewards.LOST
        over_B = crashed_B | lost_B
        arrived_B = ~over_B & (self.cars.s >= roads.START + self.length)
        truncated_B = arrived_B | (~over_B & (self.course.steps >= self.steps))
        last_B = rewards.at_a_crash(TIME * self.course.steps)
        reward_B = np.where(over_B, last_B, rewards.total(terms, self.weights)).astype(np.float32)
        facts = {"success": arrived_B, "crashed": crashed_B, "lost": lost_B, **self._facts()}
        told = {f"reward.{name}": term.astype(np.float32) for name, term in terms.items()}
        return Step(seen, reward_B, over_B, truncated_B, facts | told)

    def render(self, rows: Sequence[int]) -> np.ndarray:
        """The roads from above with the ways driven so far: uint8 ``[len(rows), 96, 96, 3]``."""
        return np.stack([topdown.view(self.roads, self.cars, self.course.path[row], row) for row in rows])

    def state_dict(self) -> dict[str, Any]:
        kept = {f"{part}.{k}": v for part in ("cars", "course") for k, v in vars(getattr(self, part)).items()}
        return {name: torch.tensor(value) for name, value in {"seed_B": self.seed_B, **kept}.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.seed_B = state["seed_B"].numpy().copy()
        self.roads = roads.side_by_side([self._road(int(seed)) for seed in self.seed_B])
        for part in ("cars", "course"):
            for name in vars(getattr(self, part)):
                setattr(getattr(self, part), name, state[f"{part}.{name}"].numpy().copy())

    # -- what wrappers and teachers read ----------------------------------------------------------------------

    def error(self) -> np.ndarray:
        """Metres to the left of the lane's middle, as measured: ``[B]``."""
        if self.measured == "exact":
            return self.cars.d.copy()
        return vision.error(self.course.feet, 2 * HEIGHT / float(self.near.slope_H[-1]), roads.WIDTH)

    def camera(self, rows: Sequence[int]) -> np.ndarray:
        """The far part of the front camera's frame: uint8 ``[len(rows), H, W, 3]``."""
        rows = np.asarray(rows, np.int64)
        return self.far.picture(_part(self.roads, rows), _part(self.cars, rows), self._sheet()[rows])

    def captions(self, rows: Sequence[int]) -> list[str]:
        """What truly lies ahead, in words."""
        rows = np.asarray(rows, np.int64)
        return captions.captions(_part(self.roads, rows), self.cars.s[rows])

    # -- inside -----------------------------------------------------------------------------------------------

    def _road(self, seed: int) -> roads.Roads:
        road = roads.draw(seed, self.length)
        road.weather_B = np.array(self.weathers[int(road.weather_B) % len(self.weathers)])
        return road

    def _sheet(self) -> np.ndarray:
        return self.seed_B % 1009 + 7 * self.course.steps

    def _look(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """What these rows show now; notes where they are."""
        whole = len(rows) == self.count
        road, cars = (self.roads, self.cars) if whole else (_part(self.roads, rows), _part(self.cars, rows))
        pose = cars.pose(road)
        image = self.near.picture(road, cars, self._sheet()[rows])
        range_BR = lidar.ranges(self.angle_R, lidar.in_view(road, *pose), road.kind_BM)
        self.course.path[rows, self.course.steps[rows]] = np.stack(pose[:2], 1)
        if self.measured == "vision":
            fresh, known = np.array([vision.feet(picture) for picture in image]), self.course.feet[rows]
            mixed = known + vision.SMOOTH * (fresh - known)
            self.course.feet[rows] = np.where(np.isnan(known), fresh, np.where(np.isnan(fresh), known, mixed))
        return {"image": image, "lidar": (range_BR / lidar.REACH).astype(np.float32)}

    def _crashed(self, nearest_B: np.ndarray) -> np.ndarray:
        """Whether something is hit, or was too near for long."""
        self.course.close[np.arange(self.count), self.course.steps % rewards.RECENT] = nearest_B < rewards.CLOSE
        hit_B = lidar.touching(lidar.in_view(self.roads, *self.cars.pose(self.roads)), self.roads.kind_BM)
        return hit_B | (self.course.close.sum(1) >= rewards.CLOSE_STEPS)

    def _facts(self) -> dict[str, np.ndarray]:
        """Lateral error now, its mean square and mean size over the episode, and where the car is."""
        self.course.squares += self.cars.d**2
        self.course.sizes += np.abs(self.cars.d)
        facts = {
            "offset": self.cars.d,
            "offset_square": self.course.squares / self.course.steps,
            "offset_size": self.course.sizes / self.course.steps,
            "speed": self.cars.speed,
            "way": self.cars.s - roads.START,
            "weather": self.roads.weather_B,
        }
        place_B2 = self.course.path[np.arange(self.count), self.course.steps]
        return {"position": place_B2} | {name: np.asarray(value, np.float32) for name, value in facts.items()}


def _part(data: Any, rows: np.ndarray) -> Any:
    return type(data)(*(getattr(data, each.name)[rows] for each in fields(data)))


def _put(data: Any, rows: np.ndarray, fresh: Any) -> None:
    for each in fields(data):
        getattr(data, each.name)[rows] = getattr(fresh, each.name)


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
