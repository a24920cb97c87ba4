"""The base of environments that change something about another one, as `gymnasium.Wrapper` is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from saccade.core import Environment, Observation, Step


class EnvironmentWrapper:
    """An environment that behaves as ``environment`` does; a subclass overrides what it changes."""

    def __init__(self, environment: Environment):
        self.environment = environment
        self.name, self.count = environment.name, environment.count
        self.observation_space, self.action_space = environment.observation_space, environment.action_space

    def begin(self, rows: Sequence[int], seeds: Sequence[int]) -> Observation:
        return self.environment.begin(rows, seeds)

    def step(self, action_B: np.ndarray) -> Step:
        return self.environment.step(action_B)

    def render(self, rows: Sequence[int]) -> np.ndarray:
        return self.environment.render(rows)

    def state_dict(self) -> Mapping[str, Any]:
        return self.environment.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.environment.load_state_dict(state)
