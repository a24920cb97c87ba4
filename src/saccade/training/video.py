"""Episodes as small moving pictures: thinned, scaled, written as WebP or GIF, and laid out as a strip where nothing
may move.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from torch import Tensor

from saccade.math.pixels import to_unit

FRAMES = 96
"""Most frames of a clip; longer episodes are shown faster, first and last frame always."""

SIDE = 192
"""Longest side of a frame in pixels."""

STRIP = 5
"""Frames of a strip."""

_LOSSLESS = 128

_GAP = 2

_TIME, _REST = 80, 1200
"""Milliseconds of a frame, and of the last one before the clip begins again."""


def small(clip: Any, count: int = FRAMES) -> np.ndarray:
    """At most ``count`` frames of a clip uint8 ``[T, H, W, 3]``, evenly spaced and not larger than SIDE. ValueError
    for other arrays.
    """
    from PIL import Image

    frames = np.asarray(clip)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        raise ValueError(f"a sample's clip must be uint8 [T, H, W, 3], not {frames.dtype} {list(frames.shape)}")
    kept = frames[np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)]
    height, width = kept.shape[1:3]
    scale = SIDE / max(height, width)
    if scale >= 1:
        return kept
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX)) for frame in kept])


def webp(clip: Any) -> bytes:
    """A clip uint8 ``[T, H, W, 3]`` as an animated WebP that begins again for ever; small pictures lose nothing."""
    frames = small(clip)
    return _animated(frames, "WEBP", lossless=max(frames.shape[1:3]) <= _LOSSLESS, quality=75, method=3)


def gif(clip: Any) -> bytes:
    """The same as a GIF, for those who know nothing else."""
    return _animated(small(clip), "GIF")


def thumbnails(clip: Any) -> Tensor:
    """A few frames of a clip from its first to its last, side by side: ``[3, H, W]`` in [0, 1]."""
    frames = small(clip, STRIP)
    gap = np.full((frames.shape[1], _GAP, 3), 255, np.uint8)
    parts = [part for frame in frames for part in (gap, frame)][1:]
    return to_unit(np.concatenate(parts, 1))


def _animated(frames: np.ndarray, kind: str, **options: Any) -> bytes:
    from PIL import Image

    first, *rest = [Image.fromarray(frame) for frame in frames]
    times = [_TIME] * len(rest) + [_REST]
    buffer = io.BytesIO()
    first.save(buffer, kind, save_all=True, append_images=rest, duration=times, loop=0, **options)
    return buffer.getvalue()
