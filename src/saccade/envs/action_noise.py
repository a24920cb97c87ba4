"""Random numbers for the actions of running episodes: they follow from an episode's seed and the step in it alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saccade.random import numpy_generator

AHEAD = 64
"""Steps whose numbers are sampled at once: each block has a stream of its own, and opening one costs time."""


class ActionNoise:
    """``width`` numbers a step for each row: standard normal, or ``uniform`` in [0, 1).

    ``name`` says what they are for. They follow from the episode's seed and the step: nothing but those must be saved.
    """

    def __init__(
        self, seeds_B: Sequence[int] | np.ndarray | Tensor, width: int, uniform: bool = False, name: str = "actions"
    ):
        self.width, self.uniform, self.name = width, uniform, name
        self.seeds = [int(seed) for seed in seeds_B]
        self.ahead = np.zeros((len(self.seeds), AHEAD, width), np.float32)
        self.block_B = np.full(len(self.seeds), -1)

    @classmethod
    def of(cls, action_space: Any, seeds_B: Sequence[int] | np.ndarray | Tensor) -> ActionNoise:
        """The noise that an action space needs: a normal for each number of a Box, one uniform for a Discrete."""
        discrete = hasattr(action_space, "n")
        return cls(seeds_B, 1 if discrete else int(np.prod(action_space.shape)), uniform=discrete)

    def begin(self, rows: Sequence[int], seeds: Sequence[int]) -> None:
        """Begin episodes with these seeds in these rows."""
        for row, seed in zip(rows, seeds):
            self.seeds[row], self.block_B[row] = int(seed), -1

    def at(self, step_B: np.ndarray) -> Tensor:
        """The numbers ``[B, width]`` of each row's step in its episode; the first step is 0."""
        block_B, place_B = step_B // AHEAD, step_B % AHEAD
        if (block_B != self.block_B).any():
            for row in np.flatnonzero(block_B != self.block_B):
                self.ahead[row] = self._block(self.seeds[row], int(block_B[row]))
            self.block_B = block_B
        return torch.from_numpy(self.ahead[np.arange(len(step_B)), place_B])

    def _block(self, seed: int, block: int) -> np.ndarray:
        """The numbers of AHEAD steps ``[AHEAD, width]``."""
        rng = numpy_generator(seed, self.name, block)
        sample = rng.random if self.uniform else rng.standard_normal
        return sample((AHEAD, self.width), dtype=np.float32)
