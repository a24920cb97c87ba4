"""Large canvases with colored plates in jittered cells, each with a small dark digit, rendered in batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saccade.worlds.canvases.glyphs import GLYPHS, HEIGHT, WIDTH
from saccade.worlds.shapes import COLORS
from saccade.worlds.shapes.scene import BACKGROUND, INK

COLOR_NAMES = ("red", "green", "blue", "yellow", "orange", "purple", "cyan", "pink")
"""Colors of plates."""
PLATE = 20
"""Side of a plate in pixels."""
CELL = 24
"""Side of a cell of the grid in pixels."""
_JITTER = (CELL - PLATE) // 2
_SHIFT = 3
"""Greatest distance in pixels of a glyph's center from its plate's, on each axis."""
_MIN_INK = 0.7
"""Least opacity of a glyph, which is random, so that the darkness of a blurred plate does not reveal its digit."""


@dataclass(frozen=True)
class Plates:
    """P canvases of K plates.

    ``color`` and ``digit`` ``[P, K]`` are indices into COLOR_NAMES and DIGITS, ``cell`` ``[P, K]`` is the cell of the
    grid, row by row, ``corner`` and ``glyph`` ``[P, K, 2]`` are the upper left corners (x, y) of plate and digit.
    """

    color: np.ndarray
    digit: np.ndarray
    cell: np.ndarray
    corner: np.ndarray
    glyph: np.ndarray


def place_plates(color: np.ndarray, digit: np.ndarray, cell: np.ndarray, side: int, rng: np.random.Generator) -> Plates:
    """Plates ``[P, K]`` at jittered places in their cells of a grid of ``side`` x ``side`` cells."""
    grid = np.stack([cell % side, cell // side], -1)
    corner = grid * CELL + _JITTER + rng.integers(-_JITTER, _JITTER + 1, grid.shape)
    glyph = corner + ((PLATE - WIDTH) // 2, (PLATE - HEIGHT) // 2) + rng.integers(-_SHIFT, _SHIFT + 1, grid.shape)
    return Plates(color, digit, cell, corner, glyph)


def render_canvases(plates: Plates, size: int, rng: np.random.Generator) -> np.ndarray:
    """Pictures uint8 ``[P, size, size, 3]``."""
    count, number = plates.color.shape
    canvas = np.empty((count, size, size, 3), np.uint8)
    canvas[:] = BACKGROUND
    colors = np.array([COLORS[name] for name in COLOR_NAMES], np.float32)[plates.color][:, :, None, None]
    ink = GLYPHS[plates.digit] * rng.uniform(_MIN_INK, 1, (count, number, 1, 1)).astype(np.float32)
    inked = colors + ink[..., None] * (np.array(INK["black"], np.float32) - colors)
    for k in range(number):
        canvas[_window(plates.corner[:, k], PLATE, PLATE)] = colors[:, k]
        canvas[_window(plates.glyph[:, k], HEIGHT, WIDTH)] = np.rint(inked[:, k])
    return canvas


def digit_boxes(plates: Plates, slot: int) -> np.ndarray:
    """Boxes ``[P, 4]`` of the digits in one slot, in pixels, x2 and y2 exclusive."""
    corner = plates.glyph[:, slot]
    return np.concatenate([corner, corner + (WIDTH, HEIGHT)], -1).astype(float)


def _window(corner: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, y = corner.T[:, :, None, None]
    return np.arange(len(corner))[:, None, None], y + np.arange(height)[:, None], x + np.arange(width)
