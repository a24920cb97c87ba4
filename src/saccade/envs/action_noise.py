"""Random numbers of running episodes: they follow from an episode's seed and the step in it, and from nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

AHEAD = 64
"""Steps that are drawn at once: counter-based streams start anywhere, but starting one costs."""


class ActionNoise:
    """``width`` numbers a step for each row: standard normal, or ``uniform`` in [0, 1).

    Philox streams keyed by the episode's seed: nothing needs saving but seeds and step numbers.
    """

    def __init__(self, seeds_B: Sequence[int] | Tensor, width: int, uniform: bool = False):
        self.width, self.uniform = width, uniform
        self.seeds = [int(seed) for seed in seeds_B]
        self.ahead = np.zeros((len(self.seeds), AHEAD, width), np.float32)
        self.block_B = np.full(len(self.seeds), -1)

    @classmethod
    def of(cls, action_space: Any, seeds_B: Sequence[int] | Tensor) -> ActionNoise:
        """What an action of a space takes: one normal for each number of a Box, one uniform for a Discrete."""
        discrete = hasattr(action_space, "n")
        return cls(seeds_B, 1 if discrete else int(np.prod(action_space.shape)), uniform=discrete)

    def begin(self, rows: Sequence[int], seeds: Sequence[int]) -> None:
        """Other episodes in these rows."""
        for row, seed in zip(rows, seeds):
            self.seeds[row], self.block_B[row] = int(seed), -1

    def at(self, step_B: np.ndarray) -> Tensor:
        """The draws ``[B, width]`` of each row's step in its episode, 0 first."""
        block_B, place_B = step_B // AHEAD, step_B % AHEAD
        if (block_B != self.block_B).any():
            for row in np.flatnonzero(block_B != self.block_B):
                self.ahead[row] = self._drawn(self.seeds[row], int(block_B[row]))
            self.block_B = block_B
        return torch.from_numpy(self.ahead[np.arange(len(step_B)), place_B])

    def _drawn(self, seed: int, block: int) -> np.ndarray:
        stream = np.random.Generator(np.random.Philox(key=seed % 2**64, counter=[0, block, 0, 0]))
        draw = stream.random if self.uniform else stream.standard_normal
        return draw((AHEAD, self.width), dtype=np.float32)
