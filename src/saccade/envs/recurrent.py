"""Environments in which a recurrent policy acts: its state is reset where an episode begins and saved with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from saccade.core import Environment, Observation, Step
from saccade.envs.wrapper import EnvironmentWrapper
from saccade.policies.dreamer import RecurrentActor


class RecurrentStateWrapper(EnvironmentWrapper):
    """An environment that tells ``actor`` in which rows episodes begin and which actions were taken."""

    def __init__(self, environment: Environment, actor: RecurrentActor):
        super().__init__(environment)
        self.actor = actor

    def begin(self, rows: Sequence[int], seeds: Sequence[int]) -> Observation:
        self.actor.begin(rows)
        return self.environment.begin(rows, seeds)

    def step(self, action_B: np.ndarray) -> Step:
        self.actor.set_action(torch.from_numpy(np.asarray(action_B, np.float32)))
        return self.environment.step(action_B)

    def state_dict(self) -> dict[str, Any]:
        return {"environment": self.environment.state_dict(), "actor": self.actor.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.environment.load_state_dict(state["environment"])
        self.actor.load_state_dict(state["actor"])
