"""Pictures in their two layouts: bytes ``[..., H, W, 3]`` of files and screens, numbers ``[..., 3, H, W]`` in [0, 1]
of networks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def to_unit(pixels: Any) -> Tensor:
    """uint8 ``[..., H, W, C]``, a tensor or an array -> float32 ``[..., C, H, W]`` in [0, 1], on the same device."""
    seen = pixels if isinstance(pixels, Tensor) else torch.from_numpy(np.array(pixels))
    return seen.movedim(-1, -3).float() / 255


def to_bytes(picture: Tensor) -> np.ndarray:
    """``[..., C, H, W]`` -> uint8 ``[..., H, W, C]``, rounded; what lies outside of [0, 1] is clipped, NaN is black."""
    shown = picture.detach().float().cpu().nan_to_num(0, 1, 0).clamp(0, 1)
    return (shown * 255).round().byte().movedim(-3, -1).contiguous().numpy()
