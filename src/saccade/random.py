"""Random numbers of many rows at once, each row from its own seed: SplitMix64 as a counter-based stream, Box-Muller on
it.

    bits(seed, key, i) = mix(mix(seed + (key + 1) a) + (i + 1) b)

Where a batch has hundreds of rows of a few numbers each, a generator object a row would cost more than the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_KEY, _PLACE = np.uint64(0xD1342543DE82EF95), np.uint64(0x9E3779B97F4A7C15)


def uniform(seeds_B: Tensor, shape: Sequence[int], key: int = 0) -> Tensor:
    """Uniform on [0, 1): ``[B, *shape]`` float32, row by row from ``seeds_B`` (int64); another ``key`` is another
    stream.
    """
    count = math.prod(shape)
    exact = (_bits(seeds_B, count, key) >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
    return torch.from_numpy(exact.reshape(-1, *shape))


def normal(seeds_B: Tensor, shape: Sequence[int], key: int = 0) -> Tensor:
    """Standard normal: ``[B, *shape]`` float32, row by row from ``seeds_B`` (int64); another ``key`` is another
    stream.
    """
    count = math.prod(shape)
    half = (count + 1) // 2
    unit = (_bits(seeds_B, 2 * half, key) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    radius = np.sqrt(-2 * np.log1p(-unit[:, :half]))
    angle = 2 * math.pi * unit[:, half:]
    both = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], 1)
    return torch.from_numpy(both[:, :count].astype(np.float32).reshape(-1, *shape))


def _bits(seeds_B: Tensor, count: int, key: int) -> np.ndarray:
    """``[B, count]`` uint64."""
    own = seeds_B.cpu().numpy().astype(np.int64, copy=False).view(np.uint64)
    start_B = _mix(own + np.array([key + 1], np.uint64) * _KEY)
    return _mix(start_B[:, None] + np.arange(1, count + 1, dtype=np.uint64) * _PLACE)


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
