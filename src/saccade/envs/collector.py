"""Experience of off-policy learning: one step of all environments at a time, each a transition for a buffer.

An episode follows from its own seed: the environment, the random actions of the warm-up, the noise of the actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from saccade.core import ActingPolicy, Environment, Step, seeds
from saccade.envs.action_noise import ActionNoise
from saccade.envs.episodes import Episode, RunningEpisodes

_WARM = 1
"""What is added to an episode's seed for its random actions."""


class Takes(Protocol):
    """A buffer: takes transitions by name, each array ``[n, ...]``."""

    def add(self, fields: Mapping[str, np.ndarray]) -> Any: ...


class Collector:
    """The running episodes of an environment whose actions are a Box, and the buffer that their transitions go to.

    The first ``warm_up`` steps of all rows take actions evenly from the Box, each for ``hold`` steps. Episodes are
    numbered as they begin, and the i-th has the i-th seed that follows from ``seed``. Transitions have the fields of
    `training.buffers.Buffer`. A step that fails adds nothing. What the buffer holds is saved by whoever owns it.
    """

    def __init__(
        self, environment: Environment, policy: ActingPolicy, buffer: Takes, seed: int, warm_up: int = 0, hold: int = 1
    ):
        if not hasattr(environment.action_space, "low"):
            raise ValueError(
                f"{environment.name}: actions are {environment.action_space}, but off-policy learning needs a Box"
            )
        if hold < 1:
            raise ValueError(f"random actions are held for {hold} steps; it must be 1 or more")
        self.environment, self.policy, self.buffer, self.seed, self.warm_up = environment, policy, buffer, seed, warm_up
        self.hold, self.running, self.steps, self.begun = hold, RunningEpisodes(environment), 0, 0
        self.number_B = np.zeros(environment.count, np.int64)
        self.chance = ActionNoise([0] * environment.count, int(np.prod(environment.action_space.shape)), uniform=True)

    def __call__(self) -> list[Episode]:
        """One step of all rows; the episodes that it ended."""
        if not self.begun:
            self._begin(list(range(self.environment.count)))
        seen, number_B = self.running.observation, self.number_B.copy()
        action_B = self._action()
        told, finished = self.running.step(action_B)
        self.buffer.add(transitions(seen, action_B, told, number_B))
        self.steps += 1
        if finished:
            self._begin(list(finished))
        return list(finished.values())

    def state_dict(self) -> dict[str, Any]:
        state = {"steps": self.steps, "begun": self.begun, "number_B": torch.from_numpy(self.number_B.copy())}
        return state | {"running": self.running.state_dict() if self.begun else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps, self.begun, self.number_B = state["steps"], state["begun"], state["number_B"].numpy().copy()
        self.running = RunningEpisodes(self.environment)
        if self.begun:
            self.running.load_state_dict(state["running"])
            self.chance.begin(range(len(self.number_B)), (self.running.seed_B + _WARM).tolist())

    def _action(self) -> Tensor:
        if self.steps >= self.warm_up:
            return self.running.act(self.policy).action_B
        low, high = (
            torch.from_numpy(x) for x in (self.environment.action_space.low, self.environment.action_space.high)
        )
        drawn = self.running.step_B - self.running.step_B % self.hold
        share = self.chance.at(drawn).reshape(-1, *low.shape)
        return low + share * (high - low)

    def _begin(self, rows: list[int]) -> None:
        self.number_B[rows] = self.begun + np.arange(len(rows))
        own = [int(seeds(self.seed, 1, key=int(number))) for number in self.number_B[rows]]
        self.running.begin(rows, own)
        self.chance.begin(rows, [seed + _WARM for seed in own])
        self.begun += len(rows)


def transitions(
    seen: Mapping[str, np.ndarray], action_B: Tensor, told: Step, number_B: np.ndarray
) -> dict[str, np.ndarray]:
    """What one step of all rows taught, by name."""
    fields = {f"seen.{name}": value for name, value in seen.items()}
    fields |= {f"next.{name}": value for name, value in told.observation.items()}
    ends = {"terminated": told.terminated_B, "truncated": told.truncated_B}
    return {**fields, **ends, "action": action_B.cpu().numpy(), "reward": told.reward_B, "episode": number_B}


RANDOM_ACTION_REPEAT = 5
"""Steps for which an action of a random walk is held."""
