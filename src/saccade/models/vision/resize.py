"""Differentiable resizing of pictures as image processors of transformers, which use Pillow, do it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

RESAMPLING = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of the resampling filters that torch has too, with antialiasing."""


def resize(pictures: Tensor, height: int, width: int, mode: str) -> Tensor:
    """Pictures ``[B, C, H, W]`` in [0, 1] as ``[B, C, height, width]``; ``mode`` is one of those in `RESAMPLING`.

    One axis is resized after the other, as in Pillow, and values are clamped to [0, 1] in between.
    """
    for size in ((pictures.shape[2], width), (height, width)):
        if pictures.shape[2:] != size:
            pictures = F.interpolate(pictures, size, mode=mode, antialias=True).clamp(0, 1)
    return pictures
