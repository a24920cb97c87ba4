"""Vector sketches as pictures: drawn anew for every canvas, never a large picture made smaller.

The rule for lines, in every arm: ``width`` is a share of the canvas, as in an SVG file, so a line of 1.3 pixels on 64
is one of 0.3 pixels on 16, and pale there. Ends are round, edges soft: across a line, ink adds up to its width. Lines
that cross are no darker. A dot is a line as long as a pixel is wide, lest it fall between two.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from saccade.worlds.sketches.strokes import Sketch

WIDTH = 0.02
"""The width of a line in shares of the canvas."""
_PIECE = 4.0
"""Pixels: lines are cut into pieces at most this long, so that only the pixels around a piece are looked at."""


def rasterise(sketches: Sequence[Sketch], canvas: int, width: float = WIDTH) -> Tensor:
    """Ink in [0, 1] ``[B, canvas, canvas]``, 0 on empty paper; the same strokes give the same bits in any batch."""
    start_S2, end_S2, row_S = _pieces(sketches, canvas)
    wide = width * canvas
    reach = wide / 2 + 0.5
    corner_S2 = (torch.minimum(start_S2, end_S2) - reach - 0.5).ceil()
    side = int(np.ceil(_PIECE + 2 * reach)) + 1
    step = torch.arange(side, dtype=torch.float32)
    x_SW, y_SW = (corner_S2[:, axis, None] + step for axis in (0, 1))
    far_SHW = _distance(start_S2, end_S2, x_SW[:, None, :] + 0.5, y_SW[:, :, None] + 0.5)
    ink_SHW = (reach - far_SHW).clamp(0, min(wide, 1.0))  # a pixel's own width, swept over the line's
    on_SW = lambda at: (at >= 0) & (at < canvas)
    ink_SHW = ink_SHW * (on_SW(x_SW)[:, None, :] & on_SW(y_SW)[:, :, None])
    at = lambda axis: axis.clamp(0, canvas - 1).long()
    pixel_SHW = (row_S[:, None, None] * canvas + at(y_SW)[:, :, None]) * canvas + at(x_SW)[:, None, :]
    paper = torch.zeros(len(sketches) * canvas * canvas)
    paper.scatter_reduce_(0, pixel_SHW.flatten(), ink_SHW.flatten(), "amax")
    return paper.view(len(sketches), canvas, canvas)


def pictures(sketches: Sequence[Sketch], canvas: int, width: float = WIDTH) -> Tensor:
    """Black lines on white as a network for photos takes them, in [0, 1] ``[B, 3, canvas, canvas]``."""
    return (1 - rasterise(sketches, canvas, width))[:, None].expand(-1, 3, -1, -1)


def _pieces(sketches: Sequence[Sketch], canvas: int) -> tuple[Tensor, Tensor, Tensor]:
    """Starts and ends of short pieces in pixels ``[S, 2]``, and the sketch that each belongs to ``[S]``."""
    strokes = [stroke for sketch in sketches for stroke in sketch.strokes]
    owner = np.repeat(np.arange(len(sketches)), [len(sketch.strokes) for sketch in sketches])
    half = np.array([0.5 / canvas, 0.0])
    start = np.concatenate([s[:-1] if len(s) > 1 else s - half for s in strokes]) * canvas
    end = np.concatenate([s[1:] if len(s) > 1 else s + half for s in strokes]) * canvas
    row = np.repeat(owner, [max(len(s) - 1, 1) for s in strokes])
    count = np.maximum(np.ceil(np.linalg.norm(end - start, axis=1) / _PIECE), 1).astype(int)
    which = np.repeat(np.arange(len(count)), count)
    place = (np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)) / count[which]
    along = (end - start)[which]
    first = start[which] + place[:, None] * along
    last = first + along / count[which, None]
    return *(torch.from_numpy(x.astype(np.float32)) for x in (first, last)), torch.from_numpy(row[which])


def _distance(start_S2: Tensor, end_S2: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """From points to the pieces, in pixels ``[S, H, W]``."""
    (x0, y0), (dx, dy) = (each[:, :, None, None].unbind(1) for each in (start_S2, end_S2 - start_S2))
    u, v = x - x0, y - y0
    share = ((u * dx + v * dy) / (dx * dx + dy * dy).clamp(min=1e-12)).clamp(0, 1)
    return ((u - share * dx) ** 2 + (v - share * dy) ** 2).sqrt()
