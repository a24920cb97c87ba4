"""A controller's advice as an observation: PID on an error, which the policy may follow or not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from saccade.core import Environment, Observation, Step
from saccade.envs.wrapper import EnvironmentWrapper


@dataclass
class PID:
    """``count`` controllers, each with an integral and a last error; advice is clipped to +- ``limit``.

        u = -(Kp e + Ki I + Kd e'),   I = integral of e, clipped to 1

    It is odd in the error: a second controller with the mirrored error gives the mirrored advice.
    """

    count: int
    kp: float = 0.15
    ki: float = 0.02
    kd: float = 0.08
    limit: float = 0.8
    """Largest absolute advice."""
    time_step: float = 0.1
    """Seconds of a step."""

    def __post_init__(self) -> None:
        self.integral_B, self.last_B = np.zeros(self.count), np.full(self.count, np.nan)

    def reset(self, rows: Sequence[int] | np.ndarray) -> None:
        """Forget the past errors of these rows."""
        self.integral_B[rows], self.last_B[rows] = 0.0, np.nan

    def advise(self, rows: Sequence[int] | np.ndarray, error: np.ndarray) -> np.ndarray:
        """The advice for these rows, whose errors are now ``error`` ``[len(rows)]``; each call is one step."""
        self.integral_B[rows] = np.clip(self.integral_B[rows] + self.time_step * error, -1, 1)
        change = np.nan_to_num((error - self.last_B[rows]) / self.time_step)
        self.last_B[rows] = error
        advice = -(self.kp * error + self.ki * self.integral_B[rows] + self.kd * change)
        return np.clip(advice, -self.limit, self.limit)


class PIDObservation(EnvironmentWrapper):
    """An environment with one more observation, "hint" float32 ``[B, 1]``: a PID's advice in units of ``scale``.

    ``error`` returns the present error of all rows ``[B]``. The policy alone steers the environment.
    """

    def __init__(self, environment: Environment, error: Callable[[], np.ndarray], scale: float = 0.1, **gains: float):
        super().__init__(environment)
        self.error, self.scale = error, scale
        self.controller = PID(self.count, **gains)
        limit = self.controller.limit / scale
        hint = spaces.Box(-limit, limit, (1,), np.float32)
        self.observation_space = spaces.Dict({**environment.observation_space, "hint": hint})

    def begin(self, rows: Sequence[int], seeds: Sequence[int]) -> Observation:
        """Begin episodes in these rows, with reset controllers."""
        observation = self.environment.begin(rows, seeds)
        index = np.asarray(rows, np.int64)
        self.controller.reset(index)
        return self._with_hint(observation, index)

    def step(self, action_B: np.ndarray) -> Step:
        step = self.environment.step(action_B)
        return step._replace(observation=self._with_hint(step.observation, np.arange(self.count)))

    def state_dict(self) -> dict[str, Any]:
        arrays = {"integral_B": self.controller.integral_B, "last_B": self.controller.last_B}
        tensors = {name: torch.tensor(value) for name, value in arrays.items()}
        return {"environment": self.environment.state_dict(), **tensors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.environment.load_state_dict(state["environment"])
        self.controller.integral_B, self.controller.last_B = (state[k].numpy().copy() for k in ("integral_B", "last_B"))

    def _with_hint(self, observation: Observation, rows: np.ndarray) -> Observation:
        advice = self.controller.advise(rows, self.error()[rows]) / self.scale
        return {**observation, "hint": advice.astype(np.float32)[:, None]}
