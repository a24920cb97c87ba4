"""Demonstrations: a recording, or episodes of an environment's scripted expert with noise on its actions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from saccade.config import Count
from saccade.core import Environment, Observation
from saccade.envs.action_noise import ActionNoise
from saccade.envs.recordings import Act, RecordedEpisode, open_recording, record_episodes
from saccade.random import seeds


@dataclass(frozen=True)
class Demonstrations:
    """Where demonstrations come from."""

    recording: str = ""
    """Recording of demonstrations (ours, LeRobot's or Minari's); without one the scripted expert demonstrates."""
    successes: bool = False
    """Whether each episode of a recording without rewards (LeRobot's) counts as a success."""
    episodes: Count = 30
    """Number of episodes of the scripted expert."""
    expert_noise: float = 0.3
    """Standard deviation of the noise on the scripted expert's actions."""

    def load_episodes(self, environment: Environment, seed: int, folder: Path) -> list[RecordedEpisode]:
        """The episodes; those of the environment's scripted expert are recorded in ``folder``.

        ValueError with neither a recording nor a scripted expert.
        """
        if self.recording:
            return list(open_recording(self.recording, successes=self.successes))
        if not hasattr(environment, "expert"):
            raise ValueError(f"{environment.name} has no scripted expert: name a recording of demonstrations")
        episode_seeds = seeds(seed, self.episodes, "demonstrations").tolist()
        record_episodes(environment, noisy_expert(environment, self.expert_noise), episode_seeds, folder)
        return list(open_recording(folder))


def noisy_expert(environment: Any, std: float) -> Act:
    """The environment's scripted expert with Gaussian noise that follows from an episode's seed and its step."""
    noise = ActionNoise.of(environment.action_space, [0] * environment.count)
    low, high = environment.action_space.low, environment.action_space.high

    def act(observation: Observation, seed_B: np.ndarray, step_B: np.ndarray) -> np.ndarray:
        changed = np.flatnonzero(seed_B != np.array(noise.seeds)).tolist()
        noise.begin(changed, seed_B[changed].tolist())
        return np.clip(environment.expert() + std * noise.at(step_B).numpy(), low, high)

    return act
