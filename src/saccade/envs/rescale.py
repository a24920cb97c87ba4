"""Actions in units of a range: what a policy in [-1, 1] does, as an environment takes it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from gymnasium import spaces

from saccade.core import Environment, Step
from saccade.envs.wrapper import EnvironmentWrapper


@dataclass(frozen=True)
class ActionRange:
    """A box of actions, each side ``[A]``; its units run from -1 to 1."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def of(cls, action_NA: np.ndarray, widen: float = 0.0, least: float = 0.1) -> ActionRange:
        """The range of demonstrated actions, at least ``least`` wide, half of it then widened by 1 + ``widen``.

        So a correction of size ``widen`` leaves the demonstrated range without being clipped.
        """
        low, high = action_NA.min(0).astype(np.float64), action_NA.max(0).astype(np.float64)
        middle = (low + high) / 2
        half = np.maximum(high - low, least) / 2 * (1 + widen)
        return cls(tuple((middle - half).tolist()), tuple((middle + half).tolist()))

    def to_unit(self, action: np.ndarray) -> np.ndarray:
        """Actions in units of this range, float32; those outside it lie beyond 1."""
        low, high = np.array(self.low), np.array(self.high)
        return ((2 * action - low - high) / (high - low)).astype(np.float32)

    def from_unit(self, unit: np.ndarray) -> np.ndarray:
        """Actions as the environment takes them, float32."""
        low, high = np.array(self.low), np.array(self.high)
        return ((low + high + unit * (high - low)) / 2).astype(np.float32)


class RescaleAction(EnvironmentWrapper):
    """An environment whose actions are given in units of a range."""

    def __init__(self, environment: Environment, range: ActionRange):
        super().__init__(environment)
        self.range = range
        self.action_space = spaces.Box(-1.0, 1.0, environment.action_space.shape, np.float32)

    def step(self, action_B: np.ndarray) -> Step:
        return self.environment.step(self.range.from_unit(np.clip(action_B, -1.0, 1.0)))
