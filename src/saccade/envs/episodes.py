"""Episodes that run side by side in the rows of an environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saccade.core import ActingPolicy, Action, Environment, Step
from saccade.envs.action_noise import ActionNoise


@dataclass(frozen=True, eq=False)
class Episode:
    """A finished episode."""

    seed: int
    total: float
    """Sum of the rewards."""
    length: int
    """Number of steps."""
    info: dict[str, Any]
    """Facts of the last step, by name."""
    frames: np.ndarray | None = None
    """Rendered frames uint8 ``[T, H, W, 3]`` with the first and the last one, where it was recorded as a video: evenly
    spaced, all of them where a video can show them.
    """


class RunningEpisodes:
    """The episodes that run in the rows of an environment; the policy acts on ``observation`` next."""

    def __init__(self, environment: Environment):
        count = environment.count
        self.environment, self.observation = environment, {}
        self.seed_B, self.step_B, self.total_B = np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count)
        self.noise = ActionNoise.of(environment.action_space, self.seed_B)

    def begin(self, rows: Sequence[int], seeds: Sequence[int]) -> None:
        """Begin episodes in these rows; the first call must begin one in every row."""
        fresh = self.environment.begin(rows, seeds)
        current = self.observation or fresh
        self.observation = {name: _with_rows(current[name], rows, value) for name, value in fresh.items()}
        self.seed_B[rows], self.step_B[rows], self.total_B[rows] = seeds, 0, 0.0
        self.noise.begin(rows, seeds)

    def act(self, policy: ActingPolicy, greedy: bool = False) -> Action:
        """The policy's action in every row, sampled or greedy."""
        return policy.act(tensors(self.observation), None if greedy else self.noise.at(self.step_B))

    def step(self, action_B: Tensor) -> tuple[Step, dict[int, Episode]]:
        """One step of all rows, and the episodes that it ended, by row: the caller then begins new ones there."""
        step = self.environment.step(action_B.cpu().numpy())
        self.observation = dict(step.observation)
        self.step_B += 1
        self.total_B += step.reward_B
        ended = np.flatnonzero(step.terminated_B | step.truncated_B).tolist()
        return step, {row: self.finished(row, step) for row in ended}

    def finished(self, row: int, step: Step) -> Episode:
        """The episode in a row, which ends with this step."""
        info = {name: value[row].tolist() for name, value in step.info.items()}
        return Episode(int(self.seed_B[row]), float(self.total_B[row]), int(self.step_B[row]), info)

    def state_dict(self) -> dict[str, Any]:
        counters = {"seed_B": self.seed_B, "step_B": self.step_B, "total_B": self.total_B}
        arrays = {name: torch.tensor(value) for name, value in counters.items()}
        observation = {name: torch.tensor(value) for name, value in self.observation.items()}
        return {"environment": dict(self.environment.state_dict()), "observation": observation, **arrays}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.environment.load_state_dict(state["environment"])
        self.observation = {name: value.numpy() for name, value in state["observation"].items()}
        self.seed_B, self.step_B, self.total_B = (state[k].numpy().copy() for k in ("seed_B", "step_B", "total_B"))
        self.noise = ActionNoise.of(self.environment.action_space, self.seed_B)


def tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Arrays by name as tensors that share their memory where possible."""
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}


def _with_rows(current: np.ndarray, rows: Sequence[int], fresh: np.ndarray) -> np.ndarray:
    """A copy of ``current`` with these rows replaced."""
    current = current.copy()
    current[rows] = fresh
    return current
