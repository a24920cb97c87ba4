"""Environments seen differently: actions in units of a range, and beside what is seen what a base policy would do.

Since a proposal is part of what is seen, whoever stores transitions stores the base action of each moment and of the
next one, in the chunk that was being carried out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from saccade.core import Environment, Observation, Step

PROPOSED = "base_action"
"""The name under which a proposal is seen."""


class Base(Protocol):
    """A frozen policy that proposes one action at each moment of each row's episode."""

    def begin(self, rows: Sequence[int]) -> None: ...

    def propose(self, seen: Mapping[str, Tensor], rows: Sequence[int] | None = None) -> Tensor: ...

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


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


class Ranged:
    """An environment whose actions are given in units of a range."""

    def __init__(self, environment: Environment, range: ActionRange):
        self.environment, self.range = environment, range
        self.name, self.count, self.observation_space = environment.name, environment.count, environment.observation_space
        self.action_space = spaces.Box(-1.0, 1.0, environment.action_space.shape, np.float32)

    def begin(self, rows: Sequence[int], seeds: Sequence[int]) -> Observation:
        return self.environment.begin(rows, seeds)

    def step(self, action_B: np.ndarray) -> Step:
        return self.environment.step(self.range.from_unit(np.clip(action_B, -1.0, 1.0)))

    def render(self, rows: Sequence[int]) -> np.ndarray:
        return self.environment.render(rows)

    def state_dict(self) -> Mapping[str, Any]:
        return self.environment.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.environment.load_state_dict(state)


class Proposing:
    """An environment that also shows, as "base_action", what ``base`` proposes at each moment.

    An ended episode's last moment is still proposed for from the chunk under way; only ``begin`` forgets it.
    """

    def __init__(self, environment: Environment, base: Base):
        self.environment, self.base = environment, base
        self.name, self.count, self.action_space = environment.name, environment.count, environment.action_space
        self.observation_space = spaces.Dict({**environment.observation_space.spaces, PROPOSED: environment.action_space})

    def begin(self, rows: Sequence[int], seeds: Sequence[int]) -> Observation:
        seen = self.environment.begin(rows, seeds)
        self.base.begin(rows)
        return self._with_proposals(seen, rows)

    def step(self, action_B: np.ndarray) -> Step:
        step = self.environment.step(action_B)
        return step._replace(seen=self._with_proposals(step.seen, None))

    def render(self, rows: Sequence[int]) -> np.ndarray:
        return self.environment.render(rows)

    def state_dict(self) -> dict[str, Any]:
        return {"environment": self.environment.state_dict(), "base": self.base.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.environment.load_state_dict(state["environment"])
        self.base.load_state_dict(state["base"])

    def _with_proposals(self, seen: Observation, rows: Sequence[int] | None) -> Observation:
        tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in seen.items()}
        return {**seen, PROPOSED: self.base.propose(tensors, rows).numpy()}
