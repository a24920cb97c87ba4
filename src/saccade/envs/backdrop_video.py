"""A video unrelated to the task: coloured waves drift at speeds without a common period, so that it never repeats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from saccade.random import numpy_generator

WAVES = 6
"""Number of waves in a video."""


class Video:
    """One video for each row, from the row's seed; a frame follows from the seed and the step alone.

    Wave ``k`` of a row is sin(x·wave[k] + speed[k]·step + start[k]) in a colour of its own; x runs over [-1, 1]^2.
    """

    def __init__(self, seeds: Sequence[int]):
        count = len(seeds)
        self.wave, self.speed = np.zeros((count, WAVES, 2)), np.zeros((count, WAVES))
        self.start, self.color = np.zeros((count, WAVES)), np.zeros((count, WAVES, 3))
        self.begin(range(count), seeds)

    def begin(self, rows: Sequence[int], seeds: Sequence[int]) -> None:
        """Replace the videos of these rows."""
        for row, seed in zip(rows, seeds):
            rng = numpy_generator(int(seed), "backdrop")
            length, angle = rng.uniform(2.0, 12.0, WAVES), rng.uniform(0, 2 * np.pi, WAVES)
            self.wave[row] = (length * np.stack([np.cos(angle), np.sin(angle)])).T
            self.speed[row] = rng.uniform(0.05, 0.35, WAVES)
            self.start[row] = rng.uniform(0, 2 * np.pi, WAVES)
            self.color[row] = rng.uniform(-1, 1, (WAVES, 3)) * np.linspace(1.0, 0.5, WAVES)[:, None]

    def phase(self, step_B: np.ndarray) -> np.ndarray:
        """Cosine and sine of the phase of the first, strongest wave, float32 ``[B, 2]``."""
        phase = self.start[:, 0] + self.speed[:, 0] * step_B
        return np.stack([np.cos(phase), np.sin(phase)], 1).astype(np.float32)

    def frames(self, rows: np.ndarray, step_R: np.ndarray, size: int, strength: float) -> np.ndarray | None:
        """Frames float32 ``[R, size, size, 3]`` from 0 to 255 times ``strength``; None where that is 0."""
        if not strength:
            return None
        x = (np.arange(size) + 0.5) * (2 / size) - 1
        phase = self.start[rows] + self.speed[rows] * step_R[:, None]
        across = (self.wave[rows, :, 0, None] * x + phase[..., None]).astype(np.float32)
        down = (self.wave[rows, :, 1, None] * x).astype(np.float32)
        # sin(a + b) as a product: sines of 2 * size numbers a wave instead of size^2.
        left = np.concatenate([np.cos(down), np.sin(down)], 1)
        right = np.concatenate([np.sin(across), np.cos(across)], 1)
        color = np.concatenate([self.color[rows]] * 2, 1).astype(np.float32)
        colored = (right[..., None] * color[:, :, None]).reshape(len(rows), 2 * WAVES, size * 3)
        waves = (left.transpose(0, 2, 1) @ colored).reshape(len(rows), size, size, 3)
        return np.float32(127.5 * strength) * (1 + np.tanh(waves))
