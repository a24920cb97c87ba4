"""Learning from memory: how collection keeps pace with training, and the feed of replayed transitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from saccade import random
from saccade.core import Rollout
from saccade.envs.collector import Collector
from saccade.envs.episodes import Episode
from saccade.training.buffers import Buffer, Mixture

_KEYS = {"seen": 11, "next": 12}


def random_shift(rollout: Rollout, pad: int = 4) -> Rollout:
    """The rollout with every picture ("seen.…" and "next.…", uint8 ``[B, H, W, C]`` or ``[B, T, H, W, C]``) moved by up
    to ``pad`` pixels; by how much follows from the row's ``seed_B``, apart for "seen" and "next", alike for all moments
    of a row.
    """
    seeds_B = rollout.extras["seed_B"]
    moved = {k: _shift(v, seeds_B, pad, k.split(".")[0]) for k, v in rollout.decisions.items() if _is_picture(k, v)}
    return replace(rollout, decisions=rollout.decisions | moved)


def _is_picture(name: str, value: Tensor) -> bool:
    return name.split(".")[0] in _KEYS and value.dtype == torch.uint8 and value.dim() >= 4


def _shift(pictures: Tensor, seeds_B: Tensor, pad: int, when: str) -> Tensor:
    rows, height, width, channels = len(pictures), *pictures.shape[-3:]
    by_B2 = (random.uniform(seeds_B, (2,), _KEYS[when]) * (2 * pad + 1)).long() - pad
    y_BH = (torch.arange(height) + by_B2[:, :1]).clamp(0, height - 1)
    x_BW = (torch.arange(width) + by_B2[:, 1:]).clamp(0, width - 1)
    flat = pictures.reshape(rows, -1, height, width, channels)
    taken = flat[torch.arange(rows)[:, None, None], :, y_BH[:, :, None], x_BW[:, None, :]]
    return taken.movedim(3, 1).reshape(pictures.shape)


class CollectionSchedule:
    """Experience that keeps pace with training: ``warm_up`` steps of all rows first, then one before every ``every``-th
    batch.

    With ``every`` 0 there is the warm-up alone. ``tell`` is given the training step and the episodes that end.
    """

    def __init__(
        self,
        experience: Collector,
        warm_up: int,
        every: int,
        tell: Callable[[int, list[Episode]], None] = lambda step, episodes: None,
    ):
        self.experience, self.warm_up, self.every, self.tell = experience, warm_up, every, tell

    def __call__(self, step: int) -> None:
        """Whatever experience belongs before the batch of this training step."""
        due = self.warm_up + (step // self.every + 1 if self.every else 0)
        while self.experience.steps < due:
            self.tell(step, self.experience())

    def state_dict(self) -> dict[str, Any]:
        return {"experience": self.experience.state_dict(), "buffer": self.experience.buffer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.experience.load_state_dict(state["experience"])
        self.experience.buffer.load_state_dict(state["buffer"])


class ReplayFeed:
    """A feed of ``rows`` transitions from ``memory``, which ``gathering`` fills; ``change`` has the last word on a
    batch.

    ``first`` is the number of batches that an earlier stage took of the same memory, so that none is drawn again.
    """

    def __init__(
        self,
        gathering: CollectionSchedule,
        memory: Buffer | Mixture,
        rows: int,
        n_step: int,
        gamma: float,
        change: Callable[[Rollout], Rollout] = lambda rollout: rollout,
        first: int = 0,
    ):
        self.gathering, self.memory, self.rows, self.n_step, self.gamma = gathering, memory, rows, n_step, gamma
        self.change, self.first = change, first

    def __call__(self, step: int) -> Rollout:
        self.gathering(step)
        return self.change(self.memory.sample(self.rows, self.first + step, self.n_step, self.gamma))

    def state_dict(self) -> dict[str, Any]:
        return self.gathering.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.gathering.load_state_dict(state)
