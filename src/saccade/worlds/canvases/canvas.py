"""Large canvases with coloured plates in jittered cells, each with a small dark digit, drawn for many problems at
once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saccade.worlds.canvases.glyphs import GLYPHS, HEIGHT, WIDTH
from saccade.worlds.shapes import COLORS
from saccade.worlds.shapes.scene import BACKGROUND, INK

PAINTS = ("red", "green", "blue", "yellow", "orange", "purple", "cyan", "pink")
"""Colours of plates, in the order in which more plates use them."""
PLATE = 20
CELL = 24
_JITTER = (CELL - PLATE) // 2
_SHIFT = 3
"""How far a glyph's centre may lie from its plate's, on each axis, in pixels."""
_FAINTEST = 0.7
"""Least share of ink in a glyph's pixels: drawn at random, so that a blurred plate's darkness does not name its
digit.
"""


@dataclass(frozen=True)
class Plates:
    """P canvases of K plates: ``color`` and ``digit`` [P, K] are positions in PAINTS and DIGITS, ``cell`` [P, K] a cell
    of the grid, row by row, ``corner`` and ``glyph`` [P, K, 2] the upper left corners (x, y) of plate and digit.
    """

    color: np.ndarray
    digit: np.ndarray
    cell: np.ndarray
    corner: np.ndarray
    glyph: np.ndarray


def lay(color: np.ndarray, digit: np.ndarray, cell: np.ndarray, side: int, rng: np.random.Generator) -> Plates:
    """Plates [P, K] in their cells of a grid of ``side`` cells, all places jittered."""
    grid = np.stack([cell % side, cell // side], -1)
    corner = grid * CELL + _JITTER + rng.integers(-_JITTER, _JITTER + 1, grid.shape)
    glyph = corner + ((PLATE - WIDTH) // 2, (PLATE - HEIGHT) // 2) + rng.integers(-_SHIFT, _SHIFT + 1, grid.shape)
    return Plates(color, digit, cell, corner, glyph)


def draw(plates: Plates, size: int, rng: np.random.Generator) -> np.ndarray:
    """Pictures uint8 [P, size, size, 3]."""
    count, many = plates.color.shape
    canvas = np.empty((count, size, size, 3), np.uint8)
    canvas[:] = BACKGROUND
    paint = np.array([COLORS[name] for name in PAINTS], np.float32)[plates.color][:, :, None, None]
    ink = GLYPHS[plates.digit] * rng.uniform(_FAINTEST, 1, (count, many, 1, 1)).astype(np.float32)
    inked = paint + ink[..., None] * (np.float32(INK["black"]) - paint)
    for k in range(many):
        canvas[_window(plates.corner[:, k], PLATE, PLATE)] = paint[:, k]
        canvas[_window(plates.glyph[:, k], HEIGHT, WIDTH)] = np.rint(inked[:, k])
    return canvas


def boxes(plates: Plates, slot: int) -> np.ndarray:
    """Boxes [P, 4] of the digits in one slot, in pixels, x2 and y2 exclusive."""
    corner = plates.glyph[:, slot]
    return np.concatenate([corner, corner + (WIDTH, HEIGHT)], -1).astype(float)


def _window(corner: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, y = corner.T[:, :, None, None]
    return np.arange(len(corner))[:, None, None], y + np.arange(height)[:, None], x + np.arange(width)
