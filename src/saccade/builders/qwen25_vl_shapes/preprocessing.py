"""Preprocessing of pictures as by the miniature's processor: resized, one token for a cell of 8 x 8 pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from saccade.models.vision.differentiable import ImagePreprocessor

CELL = 8
"""Side in pixels of the cell that one token stands for."""

MIN_SIDE, MAX_SIDE = 32, 64
"""Sides in pixels of the smallest and the largest square picture."""

PREPARATION = ImagePreprocessor(CELL // 2, 2, 2, MIN_SIDE**2, MAX_SIDE**2, "bicubic", (0.5,) * 3, (0.5,) * 3)


def displayed(picture: np.ndarray, max_pixels: int = MAX_SIDE * MAX_SIDE) -> np.ndarray:
    """A picture of any size as the processor shows it: sides in multiples of CELL, pixels within the bounds."""
    return resized(picture, *replace(PREPARATION, max_pixels=max_pixels).resized(*picture.shape[:2]))


def resized(picture: np.ndarray, height: int, width: int, window: Sequence[float] | None = None) -> np.ndarray:
    """A picture, or a window of it, resized to uint8 ``[height, width, 3]`` with bicubic interpolation."""
    from PIL import Image

    return np.array(
        Image.fromarray(np.ascontiguousarray(picture)).resize((width, height), Image.Resampling.BICUBIC, window)
    )


def patches(pictures: np.ndarray) -> tuple[Tensor, Tensor]:
    """Patches of pictures uint8 ``[N, H, W, 3]`` in the processor's layout, and their grids ``[N, 3]``."""
    found, grid = PREPARATION.patches(torch.from_numpy(pictures).movedim(-1, 1).float() / 255)
    return found.flatten(0, 1), grid
