"""Own worlds for whoever speaks Gymnasium: import this module, then ``gymnasium.make("saccade/Reach-v0")``.

``gymnasium.make("saccade.envs.single:saccade/Reach-v0")`` imports it by itself.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from saccade.envs import WORLDS, environment


class Single(gymnasium.Env):
    """One row of an own world. An observation of one name is shown plain, several as a dict."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}

    def __init__(self, world: str, render_mode: str | None = None, **settings: Any):
        self.world, self.render_mode = environment(world, 1, **settings), render_mode
        named = self.world.observation_space
        self.plain = next(iter(named)) if len(named) == 1 else ""
        self.observation_space: spaces.Space = named[self.plain] if self.plain else named
        self.action_space = self.world.action_space

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        """A new episode: that of ``seed``, else one drawn from the last seed on."""
        super().reset(seed=seed)
        own = int(self.np_random.integers(2**62)) if seed is None else seed
        return self._shown(self.world.begin([0], [own])), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        told = self.world.step(np.asarray(action)[None])
        info = {name: value[0] for name, value in told.info.items()}
        return (
            self._shown(told.observation),
            float(told.reward_B[0]),
            bool(told.terminated_B[0]),
            bool(told.truncated_B[0]),
            info,
        )

    def render(self) -> np.ndarray:
        return self.world.render([0])[0]

    def _shown(self, seen: Any) -> Any:
        return seen[self.plain][0] if self.plain else {name: value[0] for name, value in seen.items()}


def register() -> None:
    """Make every own world known to Gymnasium as "saccade/<Name>-v0"; settings go to ``gymnasium.make``."""
    for world in WORLDS:
        name = "saccade/" + "".join(part.capitalize() for part in world.split("_")) + "-v0"
        if name not in gymnasium.registry:
            gymnasium.register(name, entry_point=Single, kwargs={"world": world})


register()
