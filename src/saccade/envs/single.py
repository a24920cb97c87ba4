"""This package's worlds as Gymnasium environments: import this module, then ``gymnasium.make("saccade/Reach-v0")``.

``gymnasium.make("saccade.envs.single:saccade/Reach-v0")`` imports it by itself.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

from saccade.core import Observation
from saccade.envs import WORLDS, environment


class SingleEnv(gymnasium.Env):
    """One row of a world. A single observation is returned as an array, several as a dict."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 15}

    def __init__(self, world: str, render_mode: str | None = None, **settings: Any):
        self.world, self.render_mode = environment(world, 1, **settings), render_mode
        named = self.world.observation_space
        self.plain = next(iter(named)) if len(named) == 1 else ""
        self.observation_space: spaces.Space = named[self.plain] if self.plain else named
        self.action_space = self.world.action_space

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        """Begin the episode of ``seed``, by default of one that follows from the last seed."""
        super().reset(seed=seed)
        episode_seed = int(self.np_random.integers(2**62)) if seed is None else seed
        return self._first_row(self.world.begin([0], [episode_seed])), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        step = self.world.step(np.asarray(action)[None])
        info = {name: value[0] for name, value in step.info.items()}
        observation, ends = self._first_row(step.observation), (bool(step.terminated_B[0]), bool(step.truncated_B[0]))
        return observation, float(step.reward_B[0]), *ends, info

    def render(self) -> np.ndarray:
        return self.world.render([0])[0]

    def _first_row(self, observation: Observation) -> Any:
        return observation[self.plain][0] if self.plain else {name: value[0] for name, value in observation.items()}


def register() -> None:
    """Register every world with Gymnasium as "saccade/<Name>-v0"; ``gymnasium.make`` takes its settings."""
    for world in WORLDS:
        name = "saccade/" + "".join(part.capitalize() for part in world.split("_")) + "-v0"
        if name not in gymnasium.registry:
            gymnasium.register(name, entry_point=SingleEnv, kwargs={"world": world})


register()
