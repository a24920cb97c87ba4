"""Videos of episodes for reports: subsampled, scaled, encoded as WebP or GIF, and as a row of thumbnails."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from torch import Tensor

from saccade.math.pixels import to_float

FRAMES = 96
"""Largest number of frames of a clip; longer episodes are subsampled, with their first and last frame."""

SIDE = 192
"""Longest side of a frame in pixels."""

THUMBNAILS = 5
"""Number of frames in a row of thumbnails."""

_LOSSLESS_SIDE = 128
"""Longest side in pixels of clips that are encoded without loss."""
_GAP = 2
"""Pixels between thumbnails."""
_FRAME_MS, _LAST_FRAME_MS = 80, 1200
"""Milliseconds for which a frame, and the last one, is shown."""


def shrink(clip: Any, count: int = FRAMES) -> np.ndarray:
    """At most ``count`` evenly spaced frames of a clip uint8 ``[T, H, W, 3]``, of at most SIDE pixels a side.

    ValueError for other arrays.
    """
    frames = np.asarray(clip)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        raise ValueError(f"a sample's clip must be uint8 [T, H, W, 3], not {frames.dtype} {list(frames.shape)}")
    kept = frames[np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)]
    return kept if max(kept.shape[1:3]) <= SIDE else np.stack([smaller(frame) for frame in kept])


def smaller(frame: np.ndarray) -> np.ndarray:
    """A frame uint8 ``[H, W, 3]`` with at most SIDE pixels a side."""
    from PIL import Image

    height, width = frame.shape[:2]
    scale = SIDE / max(height, width)
    if scale >= 1:
        return frame
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX))


def webp(clip: Any) -> bytes:
    """A clip uint8 ``[T, H, W, 3]`` as a looping WebP animation, lossless where its frames are small."""
    frames = shrink(clip)
    # Without loss `quality` is effort: the most would take ten times as long for a tenth of the bytes.
    if max(frames.shape[1:3]) <= _LOSSLESS_SIDE:
        return _encode(frames, "WEBP", lossless=True, quality=0, method=0)
    return _encode(frames, "WEBP", quality=75, method=1)


def gif(clip: Any) -> bytes:
    """A clip uint8 ``[T, H, W, 3]`` as a looping GIF animation."""
    return _encode(shrink(clip), "GIF")


def thumbnails(clip: Any) -> Tensor:
    """Evenly spaced frames of a clip side by side: ``[3, H, W]`` in [0, 1]."""
    frames = shrink(clip, THUMBNAILS)
    gap = np.full((frames.shape[1], _GAP, 3), 255, np.uint8)
    parts = [part for frame in frames for part in (gap, frame)][1:]
    return to_float(np.concatenate(parts, 1))


def _encode(frames: np.ndarray, kind: str, **options: Any) -> bytes:
    from PIL import Image

    first, *rest = [Image.fromarray(frame) for frame in frames]
    times = [_FRAME_MS] * len(rest) + [_LAST_FRAME_MS]
    buffer = io.BytesIO()
    first.save(buffer, kind, save_all=True, append_images=rest, duration=times, loop=0, **options)
    return buffer.getvalue()
