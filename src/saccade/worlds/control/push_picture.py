"""How the world "push" looks: bench with its hole, block, peg and jaw as soft-edged rectangles, one picture a row."""

from __future__ import annotations

import numpy as np

SKY, BENCH, WOOD, STEEL, JAW = (236, 240, 245), (92, 98, 110), (214, 140, 62), (40, 110, 190), (30, 34, 42)


def draw(place_B6: np.ndarray, size: int, clearance: float) -> np.ndarray:
    """Pictures uint8 ``[B, size, size, 3]`` of x in [-1, 1] and y in [-0.5, 1.5], y upwards.

    Edges cover a pixel in part, so that places can be read finer than a pixel.
    """
    x, y, _, _, block, hole = place_B6.T
    zero = np.zeros_like(x)
    # Colours lead while painting, since short last axes are slow; the picture that is handed out has them last.
    picture_3B = np.empty((3, len(x), size, size), np.float32)
    picture_3B[:] = np.float32(SKY)[:, None, None, None]
    _fill(picture_3B, (zero - 1, zero + 1, zero - 0.5, zero), BENCH)
    _fill(picture_3B, (hole - 0.05 - clearance, hole + 0.05 + clearance, zero - 0.2, zero), SKY)
    _fill(picture_3B, (block - 0.15, block + 0.15, zero, zero + 0.2), WOOD)
    _fill(picture_3B, (x - 0.05, x + 0.05, y, y + 0.35), STEEL)
    _fill(picture_3B, (x - 0.1, x + 0.1, y + 0.3, y + 0.45), JAW)
    return np.ascontiguousarray((picture_3B + 0.5).astype(np.uint8).transpose(1, 2, 3, 0))


def _fill(picture_3B: np.ndarray, box: tuple[np.ndarray, ...], color: tuple[int, int, int]) -> None:
    """Paint a rectangle (left, right, low, high; each ``[B]``) of each row over its picture, in place."""
    size = picture_3B.shape[-1]
    left, right, low, high = box
    across = _cover((left + 1) * size / 2, (right + 1) * size / 2, size)
    down = _cover((1.5 - high) * size / 2, (1.5 - low) * size / 2, size)
    lines = np.flatnonzero(down.any(0))
    part = slice(lines[0], lines[-1] + 1) if len(lines) else slice(0)
    share = down[:, part, None] * across[:, None, :]
    for channel, value in zip(picture_3B, color):
        channel[:, part] += share * (value - channel[:, part])


def _cover(start_B: np.ndarray, end_B: np.ndarray, size: int) -> np.ndarray:
    """How much of each pixel of a line lies between start and end, in pixels: ``[B, size]`` float32."""
    pixel = np.arange(size)
    inside = np.minimum(pixel + 1, end_B[:, None]) - np.maximum(pixel, start_B[:, None])
    return np.clip(inside, 0.0, 1.0).astype(np.float32)
