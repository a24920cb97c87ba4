"""Episodes that run side by side in the rows of an environment, and what they need of a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from saccade.core import Environment, Step
from saccade.envs.action_noise import ActionNoise

Seen = dict[str, Tensor]


class Acted(Protocol):
    """One action a row, how likely it was, and what the policy expects from here on."""

    action_B: Tensor
    logp_B: Tensor
    value_B: Tensor


class Actor(Protocol):
    """What episodes need of a policy; ``draw_BD`` None asks for the greedy action."""

    def act(self, seen: Seen, draw_BD: Tensor | None) -> Acted: ...

    def value(self, seen: Seen) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Episode:
    """A finished episode: its seed, the sum of its rewards, its steps, the facts of its last step, frames if filmed."""

    seed: int
    total: float
    length: int
    info: dict[str, Any]
    frames: np.ndarray | None = None
    """uint8 ``[length + 1, H, W, 3]``."""


class RunningEpisodes:
    """The episodes that run in the rows of an environment; ``seen`` is what the policy acts on next."""

    def __init__(self, environment: Environment):
        count = environment.count
        self.environment, self.seen = environment, {}
        self.seed_B, self.step_B, self.total_B = np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count)
        self.draws = ActionNoise.of(environment.action_space, self.seed_B)

    def begin(self, rows: Sequence[int], seeds: Sequence[int]) -> None:
        """New episodes in these rows; at first in all of them."""
        fresh = self.environment.begin(rows, seeds)
        known = self.seen or fresh
        self.seen = {name: _with_rows(known[name], rows, value) for name, value in fresh.items()}
        self.seed_B[rows], self.step_B[rows], self.total_B[rows] = seeds, 0, 0.0
        self.draws.begin(rows, seeds)

    def acted(self, policy: Actor, greedy: bool = False) -> Acted:
        """What the policy does in every row."""
        return policy.act(tensors(self.seen), None if greedy else self.draws.at(self.step_B))

    def step(self, action_B: Tensor) -> tuple[Step, dict[int, Episode]]:
        """One step of all rows, and the episodes that it ended, by row: these rows are then to be begun."""
        told = self.environment.step(action_B.cpu().numpy())
        self.seen = dict(told.seen)
        self.step_B += 1
        self.total_B += told.reward_B
        ended = np.flatnonzero(told.terminated_B | told.truncated_B).tolist()
        return told, {row: self._finished(row, told) for row in ended}

    def _finished(self, row: int, told: Step) -> Episode:
        info = {name: value[row].tolist() for name, value in told.info.items()}
        return Episode(int(self.seed_B[row]), float(self.total_B[row]), int(self.step_B[row]), info)

    def state_dict(self) -> dict[str, Any]:
        held = {"seed_B": self.seed_B, "step_B": self.step_B, "total_B": self.total_B}
        arrays = {name: torch.tensor(value) for name, value in held.items()}
        seen = {name: torch.tensor(value) for name, value in self.seen.items()}
        return {"environment": dict(self.environment.state_dict()), "seen": seen, **arrays}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.environment.load_state_dict(state["environment"])
        self.seen = {name: value.numpy() for name, value in state["seen"].items()}
        self.seed_B, self.step_B, self.total_B = (state[k].numpy().copy() for k in ("seed_B", "step_B", "total_B"))
        self.draws = ActionNoise.of(self.environment.action_space, self.seed_B)


def tensors(arrays: Mapping[str, np.ndarray]) -> Seen:
    """Arrays by name as tensors, sharing their memory where they can."""
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}


def _with_rows(known: np.ndarray, rows: Sequence[int], fresh: np.ndarray) -> np.ndarray:
    """A copy of ``known`` with these rows replaced."""
    known = known.copy()
    known[rows] = fresh
    return known
