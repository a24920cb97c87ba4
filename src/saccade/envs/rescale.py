"""Rescaling of actions between [-1, 1] and the range of an environment or of demonstrations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from gymnasium import spaces

from saccade.core import Environment, Step
from saccade.envs.wrapper import EnvironmentWrapper


@dataclass(frozen=True)
class ActionRange:
    """A box of actions with bounds ``[A]``, which is mapped to [-1, 1]."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def of(cls, action_NA: np.ndarray, margin: float = 0.0, least_width: float = 0.1) -> ActionRange:
        """The range of demonstrated actions, at least ``least_width`` wide, then widened by the factor 1 + ``margin``.

        A correction of at most ``margin`` of the range is then not clipped.
        """
        low, high = action_NA.min(0).astype(np.float64), action_NA.max(0).astype(np.float64)
        centre = (low + high) / 2
        half = np.maximum(high - low, least_width) / 2 * (1 + margin)
        return cls(tuple((centre - half).tolist()), tuple((centre + half).tolist()))

    def scale_action(self, action: np.ndarray) -> np.ndarray:
        """Actions mapped to [-1, 1], float32; actions outside the range are mapped beyond."""
        low, high = np.array(self.low), np.array(self.high)
        return ((2 * action - low - high) / (high - low)).astype(np.float32)

    def unscale_action(self, scaled: np.ndarray) -> np.ndarray:
        """Actions mapped from [-1, 1] to the range, float32."""
        low, high = np.array(self.low), np.array(self.high)
        return ((low + high + scaled * (high - low)) / 2).astype(np.float32)


class RescaleAction(EnvironmentWrapper):
    """An environment whose actions in [-1, 1] are mapped to a range; actions outside are clipped."""

    def __init__(self, environment: Environment, range: ActionRange):
        super().__init__(environment)
        self.range = range
        self.action_space = spaces.Box(-1.0, 1.0, environment.action_space.shape, np.float32)

    def step(self, action_B: np.ndarray) -> Step:
        return self.environment.step(self.range.unscale_action(np.clip(action_B, -1.0, 1.0)))
