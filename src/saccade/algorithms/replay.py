"""Learning from a replay buffer: how collection keeps pace with training, and the feed of sampled transitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from saccade import random
from saccade.core import Rollout
from saccade.envs.collector import Collector
from saccade.envs.episodes import Episode
from saccade.training.buffers import Buffer, Mixture


def random_shift(rollout: Rollout, pad: int = 4) -> Rollout:
    """The rollout with each picture shifted by up to ``pad`` pixels, its edges repeated (DrQ, 2107.09645).

    Pictures are the decisions "observation.…" and "next_observation.…", uint8 ``[B, H, W, C]`` or ``[B, T, H, W, C]``.
    A row's shift follows from its ``seed_B``, is the same at all its time steps, and differs between the two.
    """
    seeds_B = rollout.extras["seed_B"]
    shifted = {k: _shift(v, seeds_B, pad, k.split(".")[0]) for k, v in rollout.decisions.items() if _is_picture(k, v)}
    return replace(rollout, decisions=rollout.decisions | shifted)


def _is_picture(name: str, value: Tensor) -> bool:
    return name.split(".")[0] in ("observation", "next_observation") and value.dtype == torch.uint8 and value.dim() >= 4


def _shift(pictures: Tensor, seeds_B: Tensor, pad: int, when: str) -> Tensor:
    rows, height, width, channels = len(pictures), *pictures.shape[-3:]
    offset_B2 = (random.uniform(seeds_B, (2,), "shift", when) * (2 * pad + 1)).long() - pad
    y_BH = (torch.arange(height) + offset_B2[:, :1]).clamp(0, height - 1)
    x_BW = (torch.arange(width) + offset_B2[:, 1:]).clamp(0, width - 1)
    flat = pictures.reshape(rows, -1, height, width, channels)
    shifted = flat[torch.arange(rows)[:, None, None], :, y_BH[:, :, None], x_BW[:, None, :]]
    return shifted.movedim(3, 1).reshape(pictures.shape)


class CollectionSchedule:
    """Collects experience in a fixed ratio to training steps.

    At first ``learning_starts`` steps of all rows are collected, then one step before every ``every``-th batch; with
    ``every`` 0 nothing follows them. ``log`` is called with the training step and the episodes that ended.
    """

    def __init__(
        self,
        collector: Collector,
        learning_starts: int,
        every: int,
        log: Callable[[int, Sequence[Episode]], None] = lambda step, episodes: None,
    ):
        self.collector, self.learning_starts, self.every, self.log = collector, learning_starts, every, log

    def __call__(self, step: int) -> None:
        """Collect the experience that is due before the batch of a training step."""
        due = self.learning_starts + (step // self.every + 1 if self.every else 0)
        while self.collector.steps < due:
            self.log(step, self.collector())

    def state_dict(self) -> dict[str, Any]:
        return {"collector": self.collector.state_dict(), "buffer": self.collector.buffer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.collector.load_state_dict(state["collector"])
        self.collector.buffer.load_state_dict(state["buffer"])


class ReplayFeed:
    """Batches of ``batch_size`` transitions from ``buffer``, after the collection that is due.

    ``transform`` is applied to each batch (augmentation). ``first`` is the number of batches that an earlier stage drew
    from the same buffer, so that none is drawn again.
    """

    def __init__(
        self,
        collection: CollectionSchedule,
        buffer: Buffer | Mixture,
        batch_size: int,
        n_steps: int,
        gamma: float,
        transform: Callable[[Rollout], Rollout] = lambda rollout: rollout,
        first: int = 0,
    ):
        self.collection, self.buffer, self.batch_size = collection, buffer, batch_size
        self.n_steps, self.gamma, self.transform, self.first = n_steps, gamma, transform, first

    def __call__(self, step: int) -> Rollout:
        self.collection(step)
        return self.transform(self.buffer.sample(self.batch_size, self.first + step, self.n_steps, self.gamma))

    def state_dict(self) -> dict[str, Any]:
        return self.collection.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.collection.load_state_dict(state)
