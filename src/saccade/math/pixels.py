"""Pictures in two layouts: uint8 ``[..., H, W, 3]`` of files and screens, float ``[..., 3, H, W]`` of networks."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor


def to_float(pixels: Any) -> Tensor:
    """uint8 ``[..., H, W, C]``, a tensor or an array -> float32 ``[..., C, H, W]`` in [0, 1], on the same device."""
    tensor = pixels if isinstance(pixels, Tensor) else torch.from_numpy(np.array(pixels))
    return tensor.movedim(-1, -3).float() / 255


def to_uint8(picture: Tensor) -> np.ndarray:
    """``[..., C, H, W]`` -> uint8 ``[..., H, W, C]``, rounded; values outside of [0, 1] are clipped, NaN is black."""
    unit = picture.detach().float().cpu().nan_to_num(0, 1, 0).clamp(0, 1)
    return (unit * 255).round().byte().movedim(-3, -1).contiguous().numpy()


def picture_digest(pixels: Any) -> str:
    """A hash of the shape and the pixels of an array, the same in every process."""
    return hashlib.blake2b(pixels.tobytes(), digest_size=12, key=repr(pixels.shape).encode()[:64]).hexdigest()
