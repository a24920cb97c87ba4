"""Reach: a disc is moved to a goal; the world and how it is drawn."""

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

SPEED, LAG = 0.12, 0.4
"""Way in one step at full action after a while; share of the last velocity that remains."""

NEAR = 0.15
"""A goal closer than this is reached: the info "success"."""

_FILM = 96
"""Size of a picture to be looked at."""


class Reach:
    """``count`` episodes of ``steps`` steps; actions ``[B, 2]`` push the agent, reward is exp(-2 distance) in (0, 1].

    ``observe`` says what is seen: "image" uint8 ``[B, pixels, pixels, 3]``, "state" float32 ``[B, 6]`` (position,
    velocity, goal), or "both". ``distract`` in [0, 1] is the strength of the video behind, ``palette`` one of PALETTES:
    colours and light. ``soft`` above 0 shows clouds of that spread in place of discs, which who learns to draw learns
    sooner. ``progress`` adds that many times the way by which a step came nearer to the goal, so that rewards tell
    where it lies. Info: "position", "goal" ``[B, 2]``, "distance", "success", and "phase" ``[B, 2]``, cosine and sine
    of the video's strongest wave. ValueError for a setting that makes no world.
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
            wrong = (
                f"count {count}, pixels {pixels}, steps {steps}, distract {distract}, soft {soft}, progress {progress}"
            )
            allowed = (
                "count and steps are 1 or more, pixels 8 or more, distract from 0 to 1, soft and progress 0 or more"
            )
            raise ValueError(f"reach: {wrong}; {allowed}")
        self.count, self.observe, self.pixels, self.steps = count, observe, pixels, steps
        self.distract, self.palette, self.soft, self.progress = distract, palette, soft, progress
        image, state = spaces.Box(0, 255, (pixels, pixels, 3), np.uint8), spaces.Box(-1.0, 1.0, (6,), np.float32)
        shown = {"image": image, "state": state}
        self.observation_space = spaces.Dict({k: v for k, v in shown.items() if observe in (k, "both")})
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.state_B6, self.time_B = np.zeros((count, 6)), np.zeros(count, np.int64)
        self.seed_B, self.video = np.zeros(count, np.int64), Video(range(count))

    def begin(self, rows: Sequence[int], seeds: Sequence[int]) -> Observation:
        """New episodes in these rows; what they show, in the order of ``rows``."""
        rows = np.asarray(rows, np.int64)
        self.seed_B[rows] = list(map(int, seeds))
        self.state_B6[rows], self.time_B[rows] = starts(seeds), 0
        self.video.begin(rows, seeds)
        return self._seen(rows)

    def step(self, action_B: np.ndarray) -> Step:
        """One step of all rows; ``action_B`` ``[B, 2]`` is clipped to [-1, 1]."""
        before_B = distance(self.state_B6)
        self.state_B6 = moved(self.state_B6, np.clip(action_B, -1.0, 1.0))
        self.time_B = self.time_B + 1
        distance_B = distance(self.state_B6)
        info = {
            "position": np.float32(self.state_B6[:, :2]),
            "goal": np.float32(self.state_B6[:, 4:]),
            "distance": np.float32(distance_B),
            "success": distance_B < NEAR,
            "phase": self.video.phase(self.time_B),
        }
        seen, reward_B = (
            self._seen(np.arange(self.count)),
            np.exp(-2 * distance_B) + self.progress * (before_B - distance_B),
        )
        return Step(seen, np.float32(reward_B), np.zeros(self.count, bool), self.time_B >= self.steps, info)

    def render(self, rows: Sequence[int]) -> np.ndarray:
        """Pictures uint8 ``[len(rows), 96, 96, 3]``."""
        return self._pictures(np.asarray(rows, np.int64), _FILM)

    def paired(self, state_N6: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
        """The same states under every palette, uint8 ``[N, pixels, pixels, 3]`` by its name; ``seed`` draws their
        videos.
        """
        rng = np.random.default_rng(seed)
        video = Video(rng.integers(2**62, size=len(state_N6)))
        behind = video.frames(
            np.arange(len(state_N6)), rng.integers(1000, size=len(state_N6)), self.pixels, self.distract
        )
        return {name: draw(state_N6, self.pixels, name, behind, self.soft) for name in PALETTES}

    def state_dict(self) -> dict[str, Any]:
        held = {"state_B6": self.state_B6, "time_B": self.time_B, "seed_B": self.seed_B}
        return {name: torch.tensor(value) for name, value in held.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.state_B6, self.time_B, self.seed_B = (state[k].numpy().copy() for k in ("state_B6", "time_B", "seed_B"))
        self.video = Video(self.seed_B)

    def _seen(self, rows: np.ndarray) -> Observation:
        seen = {}
        if "image" in self.observation_space.spaces:
            seen["image"] = self._pictures(rows, self.pixels)
        if "state" in self.observation_space.spaces:
            seen["state"] = np.float32(self.state_B6[rows])
        return seen

    def _pictures(self, rows: np.ndarray, size: int) -> np.ndarray:
        behind = self.video.frames(rows, self.time_B[rows], size, self.distract)
        return draw(self.state_B6[rows], size, self.palette, behind, self.soft)


def starts(seeds: Sequence[int]) -> np.ndarray:
    """First states ``[B, 6]``: agent and goal anywhere, the agent at rest."""
    drawn = np.stack([np.random.default_rng(int(seed)).uniform(-0.85, 0.85, 4) for seed in seeds])
    return np.concatenate([drawn[:, :2], np.zeros((len(drawn), 2)), drawn[:, 2:]], 1)


def moved(state_B6: np.ndarray, action_B2: np.ndarray) -> np.ndarray:
    """States one step later; a wall stops the agent."""
    place, velocity, goal = state_B6[:, :2], state_B6[:, 2:4], state_B6[:, 4:]
    there = np.clip(place + LAG * velocity + (1 - LAG) * SPEED * action_B2, -1.0, 1.0)
    return np.concatenate([there, there - place, goal], 1)


def distance(state_B6: np.ndarray) -> np.ndarray:
    """How far each agent is from its goal: ``[B]``."""
    return np.linalg.norm(state_B6[:, :2] - state_B6[:, 4:], axis=1)


def expert(state_B6: np.ndarray) -> np.ndarray:
    """The scripted action ``[B, 2]`` that goes straight to the goal and stops on it."""
    way = state_B6[:, 4:] - state_B6[:, :2]
    action = (way - LAG * state_B6[:, 2:4]) / ((1 - LAG) * SPEED)
    return action / np.maximum(np.abs(action).max(1, keepdims=True), 1.0)


@dataclass(frozen=True)
class Palette:
    """Colours from 0 to 255; ``light`` is the share of brightness at the left and at the right edge."""

    ground: tuple[int, int, int]
    agent: tuple[int, int, int]
    goal: tuple[int, int, int]
    light: tuple[float, float]


PALETTES = {
    "day": Palette((0, 0, 0), (235, 235, 235), (60, 200, 80), (1.0, 1.0)),
    "night": Palette((24, 20, 72), (235, 235, 235), (60, 200, 80), (0.45, 0.8)),
}

_AGENT, _GOAL = 0.14, 0.2
"""Radii."""


def draw(
    state_B6: np.ndarray, size: int, palette: str, behind: np.ndarray | None = None, soft: float = 0.0
) -> np.ndarray:
    """Pictures uint8 ``[B, size, size, 3]`` of states; ``behind`` (float32, 0 to 255) is added to the palette's ground.

    Edges cover a pixel in part, so places can be read finer than a pixel. With ``soft`` there are no edges: both are
    Gaussian clouds of that spread. y points up.
    """
    look = PALETTES[palette]
    picture = np.broadcast_to(np.float32(look.ground), (len(state_B6), size, size, 3))
    picture = picture.copy() if behind is None else np.minimum(picture + behind, 255.0)
    for place, radius, color in ((state_B6[:, 4:], _GOAL, look.goal), (state_B6[:, :2], _AGENT, look.agent)):
        share = (_cloud(place, soft, size) if soft else _disc(place, radius, size))[..., None]
        picture += share * (np.float32(color) - picture)
    picture *= np.linspace(*look.light, size, dtype=np.float32)[:, None]
    return (picture + 0.5).astype(np.uint8)


def _disc(place_B2: np.ndarray, radius: float, size: int) -> np.ndarray:
    """How much of each pixel a disc covers: ``[B, size, size]`` float32."""
    return np.clip((radius - np.sqrt(_square_distance(place_B2, size))) * (size / 2) + 0.5, 0.0, 1.0)


def _cloud(place_B2: np.ndarray, spread: float, size: int) -> np.ndarray:
    """How dense a cloud is at each pixel, 1 in its middle: ``[B, size, size]`` float32."""
    return np.exp(_square_distance(place_B2, size) * np.float32(-0.5 / spread**2))


def _square_distance(place_B2: np.ndarray, size: int) -> np.ndarray:
    """Of the middle of each pixel from a place, in units of the plane: ``[B, size, size]`` float32."""
    middle = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    place = np.float32(place_B2)
    across, up = middle[None] - place[:, :1], -middle[None] - place[:, 1:]
    return up[:, :, None] ** 2 + across[:, None, :] ** 2
