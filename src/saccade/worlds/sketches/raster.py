"""A rasterizer of vector sketches, which draws them at the resolution of each canvas instead of scaling a picture.

The line width is a fraction of the canvas, as in an SVG file: a line of 1.3 pixels on a canvas of 64 has 0.3 pixels on
one of 16, and is pale there. Line ends are round and edges antialiased: the ink across a line adds up to its width.
Crossing lines are not darker. A dot is drawn as a line one pixel long, so that it cannot fall between two pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from saccade.worlds.sketches.strokes import Sketch

LINE_WIDTH = 0.02
"""Default line width as a fraction of the canvas."""
_SEGMENT = 4.0
"""Largest length in pixels of the segments that lines are cut into; only the pixels around a segment are computed."""


def rasterize(sketches: Sequence[Sketch], canvas: int, width: float = LINE_WIDTH) -> Tensor:
    """Ink in [0, 1] ``[B, canvas, canvas]``, 0 where nothing is drawn; rows do not depend on one another."""
    start_S2, end_S2, row_S = _segments(sketches, canvas)
    pixels = width * canvas
    radius = pixels / 2 + 0.5
    corner_S2 = (torch.minimum(start_S2, end_S2) - radius - 0.5).ceil()
    side = int(np.ceil(_SEGMENT + 2 * radius)) + 1
    step = torch.arange(side, dtype=torch.float32)
    x_SW, y_SW = (corner_S2[:, axis, None] + step for axis in (0, 1))
    distance_SHW = _distance(start_S2, end_S2, x_SW[:, None, :] + 0.5, y_SW[:, :, None] + 0.5)
    ink_SHW = (radius - distance_SHW).clamp(0, min(pixels, 1.0))  # the overlap of a pixel with the line's cross section
    inside_SW = lambda axis: (axis >= 0) & (axis < canvas)
    ink_SHW = ink_SHW * (inside_SW(x_SW)[:, None, :] & inside_SW(y_SW)[:, :, None])
    index = lambda axis: axis.clamp(0, canvas - 1).long()
    pixel_SHW = (row_S[:, None, None] * canvas + index(y_SW)[:, :, None]) * canvas + index(x_SW)[:, None, :]
    ink = torch.zeros(len(sketches) * canvas * canvas)
    ink.scatter_reduce_(0, pixel_SHW.flatten(), ink_SHW.flatten(), "amax")
    return ink.view(len(sketches), canvas, canvas)


def draw(sketches: Sequence[Sketch], canvas: int, width: float = LINE_WIDTH) -> Tensor:
    """Sketches as pictures of black lines on white, in [0, 1] ``[B, 3, canvas, canvas]``."""
    return (1 - rasterize(sketches, canvas, width))[:, None].expand(-1, 3, -1, -1)


def _segments(sketches: Sequence[Sketch], canvas: int) -> tuple[Tensor, Tensor, Tensor]:
    """Starts and ends of short segments in pixels ``[S, 2]``, and the index of the sketch of each ``[S]``."""
    strokes = [stroke for one in sketches for stroke in one.strokes]
    sketch = np.repeat(np.arange(len(sketches)), [len(one.strokes) for one in sketches])
    half = np.array([0.5 / canvas, 0.0])
    start = np.concatenate([s[:-1] if len(s) > 1 else s - half for s in strokes]) * canvas
    end = np.concatenate([s[1:] if len(s) > 1 else s + half for s in strokes]) * canvas
    row = np.repeat(sketch, [max(len(s) - 1, 1) for s in strokes])
    count = np.maximum(np.ceil(np.linalg.norm(end - start, axis=1) / _SEGMENT), 1).astype(int)
    line = np.repeat(np.arange(len(count)), count)
    t = (np.arange(len(line)) - np.repeat(np.cumsum(count) - count, count)) / count[line]
    direction = (end - start)[line]
    first = start[line] + t[:, None] * direction
    last = first + direction / count[line, None]
    to_tensor = lambda x: torch.from_numpy(x.astype(np.float32))
    return to_tensor(first), to_tensor(last), torch.from_numpy(row[line])


def _distance(start_S2: Tensor, end_S2: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Distance in pixels of the points (x, y) from the segments ``[S, H, W]``."""
    (x0, y0), (dx, dy) = (each[:, :, None, None].unbind(1) for each in (start_S2, end_S2 - start_S2))
    u, v = x - x0, y - y0
    t = ((u * dx + v * dy) / (dx * dx + dy * dy).clamp(min=1e-12)).clamp(0, 1)
    return ((u - t * dx) ** 2 + (v - t * dy) ** 2).sqrt()
