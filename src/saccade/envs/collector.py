"""Collection of experience for off-policy learning: each step of all rows adds one transition per row to a buffer.

An episode follows from its seed: the environment, the random actions at first, the noise of the policy's actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saccade.core import ActingPolicy, Environment, Observation, Step
from saccade.envs.action_noise import ActionNoise
from saccade.envs.episodes import Episode, RunningEpisodes
from saccade.random import stream
from saccade.training.buffers import Buffer

RANDOM_ACTION_REPEAT = 5
"""Number of steps for which a random action is repeated where white noise would hardly move anything."""


class Collector:
    """The running episodes of an environment with Box actions, and the buffer to which their transitions are added.

    In the first ``random_steps`` steps all rows take uniformly random actions of the Box, each for ``action_repeat``
    steps. The i-th episode that begins has the i-th seed that follows from ``seed``. Transitions have the fields of
    `Buffer`. A step that fails adds nothing. The collector's state does not include the buffer.

    ValueError for other actions, and for an ``action_repeat`` below 1.
    """

    def __init__(
        self,
        environment: Environment,
        policy: ActingPolicy,
        buffer: Buffer,
        seed: int,
        random_steps: int = 0,
        action_repeat: int = 1,
    ):
        space = environment.action_space
        if not hasattr(space, "low"):
            raise ValueError(f"{environment.name}: actions are {space}, but off-policy learning needs a Box")
        if action_repeat < 1:
            raise ValueError(f"action_repeat must be 1 or more, not {action_repeat}")
        self.environment, self.policy, self.buffer, self.seed, self.random_steps = (
            environment,
            policy,
            buffer,
            seed,
            random_steps,
        )
        self.action_repeat, self.running, self.steps, self.begun = action_repeat, RunningEpisodes(environment), 0, 0
        self.number_B = np.zeros(environment.count, np.int64)
        self.low, self.high = torch.from_numpy(space.low), torch.from_numpy(space.high)
        self.uniform = ActionNoise([0] * environment.count, int(np.prod(space.shape)), True, "random actions")

    def __call__(self) -> list[Episode]:
        """One step of all rows; the episodes that it ended."""
        if not self.begun:
            self._begin(list(range(self.environment.count)))
        observation, number_B = self.running.observation, self.number_B.copy()
        action_B = self._action()
        step, finished = self.running.step(action_B)
        self.buffer.add(step_transitions(observation, action_B, step, number_B))
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
            self.uniform.begin(range(len(self.number_B)), self.running.seed_B.tolist())

    def _action(self) -> Tensor:
        if self.steps >= self.random_steps:
            return self.running.act(self.policy).action_B
        first_B = self.running.step_B - self.running.step_B % self.action_repeat
        return self.low + self.uniform.at(first_B).reshape(-1, *self.low.shape) * (self.high - self.low)

    def _begin(self, rows: list[int]) -> None:
        self.number_B[rows] = self.begun + np.arange(len(rows))
        episode_seeds = [stream(self.seed, "episode", int(number)) for number in self.number_B[rows]]
        self.running.begin(rows, episode_seeds)
        self.uniform.begin(rows, episode_seeds)
        self.begun += len(rows)


def step_transitions(
    observation: Observation, action_B: Tensor, step: Step, number_B: np.ndarray
) -> dict[str, np.ndarray]:
    """The transitions of one step of all rows, as the fields of `Buffer`; ``number_B`` are the episodes' numbers."""
    fields = {f"observation.{name}": value for name, value in observation.items()}
    fields |= {f"next_observation.{name}": value for name, value in step.observation.items()}
    ends = {"terminated": step.terminated_B, "truncated": step.truncated_B}
    return {**fields, **ends, "action": action_B.cpu().numpy(), "reward": step.reward_B, "episode": number_B}
