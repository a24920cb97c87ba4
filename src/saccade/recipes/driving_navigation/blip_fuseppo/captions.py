"""Captions as an observation: a vision-language model describes the road ahead every few steps, and its caption is
observed until the next one.

No reward uses captions. The captions of an episode follow from its own pictures (or, for the controls, from its own
seed), whatever episodes run beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from saccade.core import Environment, Observation, Step
from saccade.envs.wrapper import EnvironmentWrapper
from saccade.random import numpy_generator

CaptionModel = Callable[[np.ndarray], np.ndarray]
"""Pictures uint8 ``[n, H, W, 3]`` -> captions as token ids int64 or features float32 ``[n, L]``."""

CaptionControl = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Episode seeds and numbers of the refresh within the episode ``[n]`` -> replacements of captions ``[n, L]``."""

_STATE = ("caption_BL", "seed_B", "age_B", "refresh_B")


class CaptionObservation(EnvironmentWrapper):
    """An environment with one more observation, "caption" ``[B, L]``, which is refreshed every ``every`` steps.

    ``camera`` returns the pictures of some rows, ``captioner`` their captions, each in ``space``; all rows that are due
    are captioned in one call. A ``control`` replaces the captioner, which is then never called. ``info`` has
    "caption_age" (steps since the caption was written) and "captions" (calls of the captioner in this episode).
    """

    def __init__(
        self,
        environment: Environment,
        captioner: CaptionModel,
        camera: Callable[[Sequence[int]], np.ndarray],
        space: spaces.Space,
        every: int = 10,
        control: CaptionControl | None = None,
    ):
        if every < 1:
            raise ValueError(f"a caption every {every} steps: it must be 1 or more")
        super().__init__(environment)
        self.captioner, self.camera, self.every, self.control = captioner, camera, every, control
        self.observation_space = spaces.Dict({**environment.observation_space, "caption": space})
        self.caption_BL = np.zeros((self.count, *space.shape), space.dtype)
        self.seed_B, self.age_B, self.refresh_B = (np.zeros(self.count, np.int64) for _ in range(3))

    def begin(self, rows: Sequence[int], seeds: Sequence[int]) -> Observation:
        """Begin episodes in these rows, each with a caption of its first picture."""
        observation = self.environment.begin(rows, seeds)
        index = np.asarray(rows, np.int64)
        self.seed_B[index], self.refresh_B[index] = np.asarray(seeds, np.int64), 0
        self._refresh(index)
        return {**observation, "caption": self.caption_BL[index]}

    def step(self, action_B: np.ndarray) -> Step:
        """One step of all rows; captions that have reached their age are refreshed."""
        step = self.environment.step(action_B)
        self.age_B += 1
        self._refresh(np.flatnonzero(self.age_B >= self.every))
        calls_B = np.zeros_like(self.refresh_B) if self.control else self.refresh_B
        info = {"caption_age": self.age_B.astype(np.float32), "captions": calls_B.astype(np.float32)}
        observation = {**step.observation, "caption": self.caption_BL.copy()}
        return step._replace(observation=observation, info={**step.info, **info})

    def state_dict(self) -> dict[str, Any]:
        tensors = {name: torch.tensor(getattr(self, name)) for name in _STATE}
        return {"environment": self.environment.state_dict(), **tensors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.environment.load_state_dict(state["environment"])
        for name in _STATE:
            setattr(self, name, state[name].numpy().copy())

    def _refresh(self, rows: np.ndarray) -> None:
        """Write new captions in these rows."""
        if len(rows) == 0:
            return
        if self.control:
            captions = self.control(self.seed_B[rows], self.refresh_B[rows])
        else:
            captions = self.captioner(self.camera(rows.tolist()))
        if captions.shape != (len(rows), *self.caption_BL.shape[1:]):
            raise ValueError(f"the captions of {self.name} have shape {list(captions.shape)} for {len(rows)} pictures")
        self.caption_BL[rows] = captions
        self.age_B[rows] = 0
        self.refresh_B[rows] += 1


def shuffled(bank: Callable[[], np.ndarray]) -> CaptionControl:
    """A control: captions of other times and places, sampled by the episode's seed; their frequencies stay the same.

    ``bank`` returns them, ``[N, L]``; it is called when the first caption is due.
    """
    bank = cache(bank)

    def sample(seed_n: np.ndarray, refresh_n: np.ndarray) -> np.ndarray:
        size, pairs = len(bank()), zip(seed_n, refresh_n)
        index = [numpy_generator(int(seed), "caption of another time", int(k)).integers(size) for seed, k in pairs]
        return bank()[index]

    return sample


def constant(caption_L: np.ndarray) -> CaptionControl:
    """A control: the same vector always."""
    return lambda seed_n, refresh_n: np.repeat(caption_L[None], len(seed_n), 0)
