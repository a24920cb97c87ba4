"""How pictures are shown to the miniature: resized as by its processor, one token for a cell of 8 x 8 pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from saccade.models.vision.differentiable import ImagePreprocessor

CELL = 8
"""Pixels of a side that one token stands for."""

FEWEST, MOST = 32, 64
"""Sides in pixels of the least and the most that a picture is shown with."""

SHOWN = ImagePreprocessor(CELL // 2, 2, 2, FEWEST**2, MOST**2, "bicubic", (0.5,) * 3, (0.5,) * 3)


def displayed(picture: np.ndarray, most: int = MOST * MOST) -> np.ndarray:
    """A picture of any size as the processor shows it: sides in whole cells, pixels between the two bounds."""
    return resized(picture, *replace(SHOWN, max_pixels=most).resized(*picture.shape[:2]))


def resized(picture: np.ndarray, high: int, wide: int, window: Sequence[float] | None = None) -> np.ndarray:
    """A picture, or a window of it, as uint8 [high, wide, 3], bicubic as the processor's."""
    from PIL import Image

    return np.array(
        Image.fromarray(np.ascontiguousarray(picture)).resize((wide, high), Image.Resampling.BICUBIC, window)
    )


def patches(pictures: np.ndarray) -> tuple[Tensor, Tensor]:
    """Pictures uint8 [N, H, W, 3], sides in whole cells -> patches as the processor lays them out, and their grids
    [N, 3].
    """
    found, grid = SHOWN.patches(torch.from_numpy(pictures).movedim(-1, 1).float() / 255)
    return found.flatten(0, 1), grid
