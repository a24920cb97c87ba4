"""A semantic sensor: a model that sees says what lies ahead, every few steps, and its words are held between.

The words are one more observation; no reward asks for them. Which captions an episode sees follows from its own
pictures (or, for the controls, from its own seed), so that it does not matter which episodes run beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from saccade.core import Environment, Observation, Step

Reader = Callable[[np.ndarray], np.ndarray]
"""Pictures uint8 ``[n, H, W, 3]`` -> token ids int64 or features float32 ``[n, L]``."""

Control = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Seeds and numbers of the refresh within its episode ``[n]`` -> what is shown in place of a caption ``[n, L]``."""


class CaptionObservation:
    """An environment that also shows "caption" ``[B, L]``: what ``read`` says of ``look``'s pictures, ``every`` so many
    steps.

    ``look`` gives the pictures of some rows; ``space`` is that of one caption. A ``control`` stands in for the reader,
    which is then never called. Rows that are due are read in one call. ``info`` tells "caption_age" (steps since it was
    written) and "captions" (how often the reader was asked in this episode).
    """

    def __init__(
        self,
        inner: Environment,
        read: Reader,
        look: Callable[[Sequence[int]], np.ndarray],
        space: spaces.Space,
        every: int = 10,
        control: Control | None = None,
    ):
        if every < 1:
            raise ValueError(f"a caption every {every} steps: it must be 1 or more")
        self.inner, self.read, self.look, self.every, self.control = inner, read, look, every, control
        self.name, self.count, self.action_space = inner.name, inner.count, inner.action_space
        self.observation_space = spaces.Dict({**inner.observation_space, "caption": space})
        self.render = inner.render
        self.caption_BL = np.zeros((inner.count, *space.shape), space.dtype)
        self.seed_B, self.age_B, self.refresh_B = (np.zeros(inner.count, np.int64) for _ in range(3))

    def begin(self, rows: Sequence[int], seeds: Sequence[int]) -> Observation:
        """New episodes in these rows, each with a caption of its first picture."""
        seen = self.inner.begin(rows, seeds)
        rows = np.asarray(rows, np.int64)
        self.seed_B[rows], self.refresh_B[rows] = np.asarray(seeds, np.int64), 0
        self._refresh(rows)
        return {**seen, "caption": self.caption_BL[rows]}

    def step(self, action_B: np.ndarray) -> Step:
        """One step of all rows; captions that are as old as they may get are written anew."""
        step = self.inner.step(action_B)
        self.age_B += 1
        self._refresh(np.flatnonzero(self.age_B >= self.every))
        asked_B = np.zeros_like(self.refresh_B) if self.control else self.refresh_B
        told = {"caption_age": self.age_B.astype(np.float32), "captions": asked_B.astype(np.float32)}
        return step._replace(observation={**step.observation, "caption": self.caption_BL.copy()}, info={**step.info, **told})

    def state_dict(self) -> dict[str, Any]:
        kept = {name: getattr(self, name) for name in ("caption_BL", "seed_B", "age_B", "refresh_B")}
        return {"inner": self.inner.state_dict(), **{name: torch.tensor(value) for name, value in kept.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.inner.load_state_dict(state["inner"])
        for name in ("caption_BL", "seed_B", "age_B", "refresh_B"):
            setattr(self, name, state[name].numpy().copy())

    def _refresh(self, rows: np.ndarray) -> None:
        """Write the captions of these rows anew."""
        if len(rows) == 0:
            return
        told = self.control(self.seed_B[rows], self.refresh_B[rows]) if self.control else self.read(self.look(rows))
        if told.shape != (len(rows), *self.caption_BL.shape[1:]):
            raise ValueError(f"the semantic sensor of {self.name} said {list(told.shape)} of {len(rows)} pictures")
        self.caption_BL[rows] = told
        self.age_B[rows] = 0
        self.refresh_B[rows] += 1


def shuffled(bank: Callable[[], np.ndarray]) -> Control:
    """A control: captions of other times and places, drawn by the episode's seed; how often each is seen stays the
    same.

    ``bank`` gives them, ``[N, L]``; it is asked when the first caption is due.
    """
    known = cache(bank)

    def draw(seed_n: np.ndarray, refresh_n: np.ndarray) -> np.ndarray:
        picks = [
            np.random.default_rng([int(seed), int(k), 3]).integers(len(known())) for seed, k in zip(seed_n, refresh_n)
        ]
        return known()[picks]

    return draw


def constant(caption_L: np.ndarray) -> Control:
    """A control: the same vector always."""
    return lambda seed_n, refresh_n: np.repeat(caption_L[None], len(seed_n), 0)
