"""A moving video behind MuJoCo's pictures, visible where pixels are black: the background of fast MuJoCo pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from saccade.core import Environment, Observation, Step
from saccade.envs.backdrop_video import Video
from saccade.envs.gym import Gym, find
from saccade.envs.wrapper import EnvironmentWrapper


def backdrop(
    count: int, world: str = "HalfCheetah-v5", pixels: int = 64, repeat: int = 2, strength: float = 1.0
) -> Environment:
    """A Gymnasium environment observed as pictures alone, with a video of ``strength`` in [0, 1] behind them.

    ValueError for another strength and for an unknown environment.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"backdrop: strength {strength} is not between 0 and 1")
    find(world)
    return Backdrop(Gym.of(world, count, pixels=pixels, repeat=repeat), strength)


class Backdrop(EnvironmentWrapper):
    """``environment`` with a video in the black pixels of "image".

    The video of a row follows from its episode's seed and the step in it. ``info`` has "phase" ``[B, 2]``, cosine and
    sine of the phase of the video's strongest wave.
    """

    def __init__(self, environment: Environment, strength: float):
        super().__init__(environment)
        self.name, self.strength = f"{environment.name}, backdrop", strength
        self.seed_B, self.time_B = np.zeros(self.count, np.int64), np.zeros(self.count, np.int64)
        self.video = Video(range(self.count))

    def begin(self, rows: Sequence[int], seeds: Sequence[int]) -> Observation:
        index = np.asarray(rows, np.int64)
        self.seed_B[index], self.time_B[index] = list(map(int, seeds)), 0
        self.video.begin(rows, seeds)
        return self._with_video(self.environment.begin(rows, seeds), index)

    def step(self, action_B: np.ndarray) -> Step:
        step = self.environment.step(action_B)
        self.time_B = self.time_B + 1
        observation = self._with_video(step.observation, np.arange(self.count))
        return step._replace(observation=observation, info={**step.info, "phase": self.video.phase(self.time_B)})

    def render(self, rows: Sequence[int]) -> np.ndarray:
        return self._composed(self.environment.render(rows), np.asarray(rows, np.int64))

    def state_dict(self) -> dict[str, Any]:
        clocks = {"seed_B": torch.tensor(self.seed_B), "time_B": torch.tensor(self.time_B)}
        return {"environment": self.environment.state_dict(), **clocks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.environment.load_state_dict(state["environment"])
        self.seed_B, self.time_B = (state[name].numpy().copy() for name in ("seed_B", "time_B"))
        self.video = Video(self.seed_B.tolist())

    def _with_video(self, observation: Observation, rows: np.ndarray) -> Observation:
        return {**observation, "image": self._composed(observation["image"], rows)}

    def _composed(self, picture: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Pictures uint8 ``[len(rows), H, W, 3]`` with the video in their black pixels."""
        frames = self.video.frames(rows, self.time_B[rows], picture.shape[1], self.strength)
        if frames is None:
            return picture
        return np.where((picture == 0).all(-1, keepdims=True), (frames + 0.5).astype(np.uint8), picture)
