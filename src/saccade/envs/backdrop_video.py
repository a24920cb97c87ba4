"""A video that says nothing about the task: coloured waves drift at speeds without a common period; it never
repeats.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

WAVES = 6


class Video:
    """One video per row, each from its own seed; a frame follows from the seed and the step alone.

    A wave ``k`` of a row is sin(x·wave[k] + speed[k]·step + start[k]) in a colour of its own; x runs over [-1, 1]^2.
    """

    def __init__(self, seeds: Sequence[int]):
        count = len(seeds)
        self.wave, self.speed = np.zeros((count, WAVES, 2)), np.zeros((count, WAVES))
        self.start, self.color = np.zeros((count, WAVES)), np.zeros((count, WAVES, 3))
        self.begin(range(count), seeds)

    def begin(self, rows: Sequence[int], seeds: Sequence[int]) -> None:
        """Other videos in these rows."""
        for row, seed in zip(rows, seeds):
            rng = np.random.default_rng([int(seed), 1])
            length, angle = rng.uniform(2.0, 12.0, WAVES), rng.uniform(0, 2 * np.pi, WAVES)
            self.wave[row] = (length * np.stack([np.cos(angle), np.sin(angle)])).T
            self.speed[row] = rng.uniform(0.05, 0.35, WAVES)
            self.start[row] = rng.uniform(0, 2 * np.pi, WAVES)
            self.color[row] = rng.uniform(-1, 1, (WAVES, 3)) * np.linspace(1.0, 0.5, WAVES)[:, None]

    def phase(self, step_B: np.ndarray) -> np.ndarray:
        """Cosine and sine of the first, strongest wave's phase, float32 ``[B, 2]``."""
        phase = self.start[:, 0] + self.speed[:, 0] * step_B
        return np.float32(np.stack([np.cos(phase), np.sin(phase)], 1))

    def frames(self, rows: np.ndarray, step_R: np.ndarray, size: int, strength: float) -> np.ndarray | None:
        """Frames float32 ``[R, size, size, 3]`` from 0 to 255 times ``strength``; None where that is 0."""
        if not strength:
            return None
        x = (np.arange(size) + 0.5) * (2 / size) - 1
        phase = self.start[rows] + self.speed[rows] * step_R[:, None]
        across = np.float32(self.wave[rows, :, 0, None] * x + phase[..., None])
        down = np.float32(self.wave[rows, :, 1, None] * x)
        # sin(a + b) as a product: sines of 2 * size numbers a wave instead of size^2.
        left = np.concatenate([np.cos(down), np.sin(down)], 1)
        right = np.concatenate([np.sin(across), np.cos(across)], 1)
        color = np.float32(np.concatenate([self.color[rows]] * 2, 1))
        colored = (right[..., None] * color[:, :, None]).reshape(len(rows), 2 * WAVES, size * 3)
        waves = (left.transpose(0, 2, 1) @ colored).reshape(len(rows), size, size, 3)
        return np.float32(127.5 * strength) * (1 + np.tanh(waves))
