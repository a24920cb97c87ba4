"""Reach: a world in which a disc is moved to a goal, and its rendering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from saccade.core import Observation, Step
from saccade.envs.backdrop_video import Video
from saccade.naming import require
from saccade.random import numpy_generator

SPEED, INERTIA = 0.12, 0.4
"""Distance of one step at constant full action; share of the last velocity that remains."""

NEAR = 0.15
"""Distance within which a goal is reached: the info "success"."""

_RENDER_SIZE = 96
"""Side of a rendered frame in pixels."""


class Reach:
    """``count`` episodes of ``steps`` steps; actions ``[B, 2]`` push the agent, the reward is exp(-2 distance).

    ``observe`` decides the observations: "image" uint8 ``[B, pixels, pixels, 3]``, "state" float32 ``[B, 6]``
    (position, velocity, goal), or "both". ``distract`` in [0, 1] is the strength of the video in the background,
    ``palette`` one of PALETTES: colours and light. ``soft`` above 0 renders Gaussian clouds of that standard deviation
    in place of discs, which decoders learn sooner. ``progress`` is the weight of a second reward, the decrease of the
    distance in a step, which depends on the direction of the goal. Info: "position", "goal" ``[B, 2]``, "distance",
    "success", and "phase" ``[B, 2]``, cosine and sine of the phase of the video's strongest wave. ValueError for a
    setting outside its range.
    """

    name = "reach"

    def __init__(
        self,
        count: int,
        observe: str = "image",
        pixels: int = 32,
        distract: float = 0.0,
        palette: str = "day",
        steps: int = 50,
        soft: float = 0.0,
        progress: float = 0.0,
    ):
        require("observe", observe, ("image", "state", "both"))
        require("palette", palette, tuple(PALETTES))
        if count < 1 or pixels < 8 or steps < 1 or not 0 <= distract <= 1 or not min(soft, progress) >= 0:
            world = f"count {count}, pixels {pixels}, steps {steps}"
            look = f"distract {distract}, soft {soft}, progress {progress}"
            allowed = "count and steps 1 or more, pixels 8 or more, distract from 0 to 1, soft and progress 0 or more"
            raise ValueError(f"reach: {world}, {look}; allowed are {allowed}")
        self.count, self.observe, self.pixels, self.steps = count, observe, pixels, steps
        self.distract, self.palette, self.soft, self.progress = distract, palette, soft, progress
        image, state = spaces.Box(0, 255, (pixels, pixels, 3), np.uint8), spaces.Box(-1.0, 1.0, (6,), np.float32)
        observable = {"image": image, "state": state}
        self.observation_space = spaces.Dict({k: v for k, v in observable.items() if observe in (k, "both")})
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.state_B6, self.time_B = np.zeros((count, 6)), np.zeros(count, np.int64)
        self.seed_B, self.video = np.zeros(count, np.int64), Video(range(count))

    def begin(self, rows: Sequence[int], seeds: Sequence[int]) -> Observation:
        """Begin episodes in these rows; observations in the order of ``rows``."""
        index = np.asarray(rows, np.int64)
        self.seed_B[index] = list(map(int, seeds))
        self.state_B6[index], self.time_B[index] = initial_states(seeds), 0
        self.video.begin(rows, seeds)
        return self._observation(index)

    def step(self, action_B: np.ndarray) -> Step:
        """One step of all rows; ``action_B`` ``[B, 2]`` is clipped to [-1, 1]."""
        before_B = distance(self.state_B6)
        self.state_B6 = dynamics(self.state_B6, np.clip(action_B, -1.0, 1.0))
        self.time_B = self.time_B + 1
        distance_B = distance(self.state_B6)
        info = {
            "position": self.state_B6[:, :2].astype(np.float32),
            "goal": self.state_B6[:, 4:].astype(np.float32),
            "distance": distance_B.astype(np.float32),
            "success": distance_B < NEAR,
            "phase": self.video.phase(self.time_B),
        }
        reward_B = (np.exp(-2 * distance_B) + self.progress * (before_B - distance_B)).astype(np.float32)
        observation, never = self._observation(np.arange(self.count)), np.zeros(self.count, bool)
        return Step(observation, reward_B, never, self.time_B >= self.steps, info)

    def render(self, rows: Sequence[int]) -> np.ndarray:
        """Pictures uint8 ``[len(rows), 96, 96, 3]``."""
        return self._pictures(np.asarray(rows, np.int64), _RENDER_SIZE)

    def paired(self, state_N6: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
        """The same states in every palette, uint8 ``[N, pixels, pixels, 3]`` by name; ``seed`` decides their videos."""
        rng, count = numpy_generator(seed, "paired looks"), len(state_N6)
        video = Video(rng.integers(2**62, size=count).tolist())
        background = video.frames(np.arange(count), rng.integers(1000, size=count), self.pixels, self.distract)
        return {name: draw(state_N6, self.pixels, name, background, self.soft) for name in PALETTES}

    def state_dict(self) -> dict[str, Any]:
        arrays = {"state_B6": self.state_B6, "time_B": self.time_B, "seed_B": self.seed_B}
        return {name: torch.tensor(value) for name, value in arrays.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.state_B6, self.time_B, self.seed_B = (state[k].numpy().copy() for k in ("state_B6", "time_B", "seed_B"))
        self.video = Video(self.seed_B.tolist())

    def _observation(self, rows: np.ndarray) -> Observation:
        observation = {}
        if "image" in self.observation_space.spaces:
            observation["image"] = self._pictures(rows, self.pixels)
        if "state" in self.observation_space.spaces:
            observation["state"] = self.state_B6[rows].astype(np.float32)
        return observation

    def _pictures(self, rows: np.ndarray, size: int) -> np.ndarray:
        background = self.video.frames(rows, self.time_B[rows], size, self.distract)
        return draw(self.state_B6[rows], size, self.palette, background, self.soft)


def initial_states(seeds: Sequence[int]) -> np.ndarray:
    """Initial states ``[B, 6]``: agent and goal anywhere, the agent at rest."""
    places = np.stack([numpy_generator(int(seed), "reach").uniform(-0.85, 0.85, 4) for seed in seeds])
    return np.concatenate([places[:, :2], np.zeros((len(places), 2)), places[:, 2:]], 1)


def dynamics(state_B6: np.ndarray, action_B2: np.ndarray) -> np.ndarray:
    """States one step later; a wall stops the agent."""
    place, velocity, goal = state_B6[:, :2], state_B6[:, 2:4], state_B6[:, 4:]
    moved = np.clip(place + INERTIA * velocity + (1 - INERTIA) * SPEED * action_B2, -1.0, 1.0)
    return np.concatenate([moved, moved - place, goal], 1)


def distance(state_B6: np.ndarray) -> np.ndarray:
    """Distance of each agent from its goal: ``[B]``."""
    return np.linalg.norm(state_B6[:, :2] - state_B6[:, 4:], axis=1)


def expert(state_B6: np.ndarray) -> np.ndarray:
    """The scripted expert's actions ``[B, 2]``: straight to the goal, where it stops."""
    gap = state_B6[:, 4:] - state_B6[:, :2]
    action = (gap - INERTIA * state_B6[:, 2:4]) / ((1 - INERTIA) * SPEED)
    return action / np.maximum(np.abs(action).max(1, keepdims=True), 1.0)


@dataclass(frozen=True)
class Palette:
    """Colours from 0 to 255; ``light`` is the relative brightness at the left and at the right edge."""

    ground: tuple[int, int, int]
    agent: tuple[int, int, int]
    goal: tuple[int, int, int]
    light: tuple[float, float]


PALETTES = {
    "day": Palette((0, 0, 0), (235, 235, 235), (60, 200, 80), (1.0, 1.0)),
    "night": Palette((24, 20, 72), (235, 235, 235), (60, 200, 80), (0.45, 0.8)),
}

_AGENT, _GOAL = 0.14, 0.2
"""Radii of the discs."""


def draw(
    state_B6: np.ndarray, size: int, palette: str, background: np.ndarray | None = None, soft: float = 0.0
) -> np.ndarray:
    """Pictures uint8 ``[B, size, size, 3]`` of states; ``background`` (float32, 0 to 255) is added to the ground.

    Edges are antialiased, so that positions can be read more finely than a pixel. With ``soft`` there are no edges:
    agent and goal are Gaussian clouds of that standard deviation. y points up.
    """
    colors = PALETTES[palette]
    picture = np.broadcast_to(np.array(colors.ground, np.float32), (len(state_B6), size, size, 3))
    picture = picture.copy() if background is None else np.minimum(picture + background, 255.0)
    for place, radius, color in ((state_B6[:, 4:], _GOAL, colors.goal), (state_B6[:, :2], _AGENT, colors.agent)):
        share = (_cloud(place, soft, size) if soft else _disc(place, radius, size))[..., None]
        picture += share * (np.array(color, np.float32) - picture)
    picture *= np.linspace(*colors.light, size, dtype=np.float32)[:, None]
    return (picture + 0.5).astype(np.uint8)


def _disc(place_B2: np.ndarray, radius: float, size: int) -> np.ndarray:
    """Share of each pixel that a disc covers: ``[B, size, size]`` float32."""
    return np.clip((radius - np.sqrt(_square_distance(place_B2, size))) * (size / 2) + 0.5, 0.0, 1.0)


def _cloud(place_B2: np.ndarray, std: float, size: int) -> np.ndarray:
    """Density of a Gaussian cloud at each pixel, 1 in its middle: ``[B, size, size]`` float32."""
    return np.exp(_square_distance(place_B2, size) * np.float32(-0.5 / std**2))


def _square_distance(place_B2: np.ndarray, size: int) -> np.ndarray:
    """Squared distance of each pixel's middle from a place, in the plane's units: ``[B, size, size]`` float32."""
    middle = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    place = place_B2.astype(np.float32)
    across, up = middle[None] - place[:, :1], -middle[None] - place[:, 1:]
    return up[:, :, None] ** 2 + across[:, None, :] ** 2
