"""A controller's advice as one more thing to see: PID on an error, which the policy may follow or not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from saccade.core import Environment, Observation, Step


@dataclass
class PID:
    """``count`` controllers, each with an integral and a last error of its own; advice is cut to ``most``.

        u = -(Kp e + Ki I + Kd e'),   I = integral of e, cut to 1

    It is odd in the error: a second controller, fed with the mirrored error, gives the mirrored advice.
    """

    count: int
    kp: float = 0.15
    ki: float = 0.02
    kd: float = 0.08
    most: float = 0.8
    time: float = 0.1
    """Seconds of a step."""

    def __post_init__(self) -> None:
        self.integral_B, self.last_B = np.zeros(self.count), np.full(self.count, np.nan)

    def reset(self, rows: Sequence[int]) -> None:
        """Forget the past of these rows."""
        self.integral_B[rows], self.last_B[rows] = 0.0, np.nan

    def advise(self, rows: Sequence[int], error: np.ndarray) -> np.ndarray:
        """The advice for these rows, whose errors are now ``error`` ``[len(rows)]``; each call is one step."""
        self.integral_B[rows] = np.clip(self.integral_B[rows] + self.time * error, -1, 1)
        change = np.nan_to_num((error - self.last_B[rows]) / self.time)
        self.last_B[rows] = error
        return np.clip(-(self.kp * error + self.ki * self.integral_B[rows] + self.kd * change), -self.most, self.most)


class PIDObservation:
    """An environment that also shows "hint" float32 ``[B, 1]``: a PID's advice in units of ``scale``, or zeros with no
    use.

    ``error`` gives the present error of all rows ``[B]``. The environment is steered by the policy alone.
    """

    def __init__(self, inner: Environment, error: Callable[[], np.ndarray], scale: float = 0.1, **gains: float):
        self.inner, self.error, self.scale = inner, error, scale
        self.controller = PID(inner.count, **gains)
        self.name, self.count, self.action_space = inner.name, inner.count, inner.action_space
        most = self.controller.most / scale
        self.observation_space = spaces.Dict(
            {**inner.observation_space, "hint": spaces.Box(-most, most, (1,), np.float32)}
        )
        self.render = inner.render

    def begin(self, rows: Sequence[int], seeds: Sequence[int]) -> Observation:
        """New episodes in these rows, with fresh controllers."""
        seen = self.inner.begin(rows, seeds)
        rows = np.asarray(rows, np.int64)
        self.controller.reset(rows)
        return self._with_hint(seen, rows)

    def step(self, action_B: np.ndarray) -> Step:
        """One step of all rows."""
        step = self.inner.step(action_B)
        return step._replace(observation=self._with_hint(step.observation, np.arange(self.count)))

    def state_dict(self) -> dict[str, Any]:
        kept = {"integral_B": self.controller.integral_B, "last_B": self.controller.last_B}
        return {"inner": self.inner.state_dict(), **{name: torch.tensor(value) for name, value in kept.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.inner.load_state_dict(state["inner"])
        self.controller.integral_B, self.controller.last_B = (state[k].numpy().copy() for k in ("integral_B", "last_B"))

    def _with_hint(self, seen: Observation, rows: np.ndarray) -> Observation:
        advice = self.controller.advise(rows, self.error()[rows]) / self.scale
        return {**seen, "hint": advice.astype(np.float32)[:, None]}
