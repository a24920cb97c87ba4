"""A moving video behind what MuJoCo draws: black pixels, of which its fast pictures have nothing but background,
show it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from saccade.core import Environment, Observation, Step
from saccade.envs.backdrop_video import Video
from saccade.envs.gym import Gym, find


def backdrop(
    count: int, world: str = "HalfCheetah-v5", pixels: int = 64, repeat: int = 2, strength: float = 1.0
) -> Environment:
    """Episodes of an environment of Gymnasium seen as pictures alone, a video of ``strength`` in [0, 1] behind them."""
    if not 0 <= strength <= 1:
        raise ValueError(f"backdrop: strength {strength} is not between 0 and 1")
    find(world)
    return Backdrop(Gym.of(world, count, pixels=pixels, repeat=repeat), strength)


class Backdrop:
    """``world`` with a video in the black pixels of "image": a row's follows from its episode's seed and the step in
    it.
    """

    def __init__(self, world: Environment, strength: float):
        self.world, self.strength, self.name, self.count = world, strength, f"{world.name}, backdrop", world.count
        self.observation_space, self.action_space = world.observation_space, world.action_space
        self.seed_B, self.time_B = np.zeros(self.count, np.int64), np.zeros(self.count, np.int64)
        self.video = Video(range(self.count))

    def begin(self, rows: Sequence[int], seeds: Sequence[int]) -> Observation:
        rows = np.asarray(rows, np.int64)
        self.seed_B[rows], self.time_B[rows] = list(map(int, seeds)), 0
        self.video.begin(rows, seeds)
        return self._over(self.world.begin(rows, seeds), rows)

    def step(self, action_B: np.ndarray) -> Step:
        told = self.world.step(action_B)
        self.time_B = self.time_B + 1
        seen = self._over(told.seen, np.arange(self.count))
        return told._replace(seen=seen, info={**told.info, "phase": self.video.phase(self.time_B)})

    def render(self, rows: Sequence[int]) -> np.ndarray:
        rows = np.asarray(rows, np.int64)
        return self._painted(self.world.render(rows), rows)

    def state_dict(self) -> dict[str, Any]:
        held = {"seed_B": torch.tensor(self.seed_B), "time_B": torch.tensor(self.time_B)}
        return {"world": self.world.state_dict(), **held}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.world.load_state_dict(state["world"])
        self.seed_B, self.time_B = (state[name].numpy().copy() for name in ("seed_B", "time_B"))
        self.video = Video(self.seed_B)

    def _over(self, seen: Observation, rows: np.ndarray) -> Observation:
        return {**seen, "image": self._painted(seen["image"], rows)}

    def _painted(self, picture: np.ndarray, rows: np.ndarray) -> np.ndarray:
        behind = self.video.frames(rows, self.time_B[rows], picture.shape[1], self.strength)
        if behind is None:
            return picture
        return np.where((picture == 0).all(-1, keepdims=True), (behind + 0.5).astype(np.uint8), picture)
