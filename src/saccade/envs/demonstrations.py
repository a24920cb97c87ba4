"""Who demonstrates: a recording, or an environment's scripted expert with noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from saccade.core import Environment, seeds
from saccade.envs.action_noise import ActionNoise
from saccade.envs.recordings import Recorded, record, source

_DEMONSTRATED = -4
"""Stream of the seeds of demonstrations."""


@dataclass(frozen=True)
class Demonstrations:
    """Who shows how it is done."""

    demonstrations: str = ""
    """A recording (ours, LeRobot's or Minari's); without one the environment's scripted expert demonstrates."""
    episodes: int = 30
    """Episodes that the expert demonstrates."""
    expert_noise: float = 0.3
    """Spread of the noise on its actions."""

    def recorded(self, environment: Environment, seed: int, folder: Path) -> list[Recorded]:
        """The episodes; those of the environment's noisy expert are recorded in ``folder``.

        ValueError where there is neither a recording nor an expert.
        """
        if self.demonstrations:
            return list(source(self.demonstrations))
        if not hasattr(environment, "expert"):
            raise ValueError(f"{environment.name} has no scripted expert: name a recording of demonstrations")
        record(
            environment,
            noisy(environment, self.expert_noise),
            seeds(seed, self.episodes, key=_DEMONSTRATED).tolist(),
            folder,
        )
        return list(source(folder))


def noisy(environment: Any, noise: float) -> Callable[..., np.ndarray]:
    """The expert with Gaussian noise that follows from an episode's seed and the step in it."""
    draws = ActionNoise.of(environment.action_space, [0] * environment.count)
    low, high = environment.action_space.low, environment.action_space.high

    def act(seen: Any, seed_B: np.ndarray, time_B: np.ndarray) -> np.ndarray:
        other = np.flatnonzero(seed_B != np.array(draws.seeds)).tolist()
        draws.begin(other, seed_B[other].tolist())
        return np.clip(environment.expert() + noise * draws.at(time_B).numpy(), low, high)

    return act
