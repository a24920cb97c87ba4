"""How scenes are painted: "plain" as in the world of shapes, or "gravity", where up, down, left and right can be seen.

In gravity there is a sky above a ground, the light comes from the left, and every object is lit from above: so no part
of the picture is like another, and no object is the same when it is turned.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from saccade.naming import require
from saccade.worlds.questions.layouts import REACH, Crowd
from saccade.worlds.shapes import COLORS, SHAPES, Scene, Text, render
from saccade.worlds.shapes.render import coverage
from saccade.worlds.shapes.scene import BACKGROUND, INK

STYLES = ("plain", "gravity")
_HORIZON = 0.62
_SKY = np.array([[178, 208, 240], [236, 240, 244]], np.float32)
_GROUND = np.array([[196, 190, 168], [150, 142, 118]], np.float32)
_LEFT, _RIGHT = 1.0, 0.86
"""Brightness of the background at its left and right edge."""
_LIGHT, _SHADE = 0.35, 0.5
"""How far an object's top is turned to white and its bottom to black."""
_PAINTS = np.array(list(COLORS.values()), np.float32)


def draw(
    things: Crowd, places: np.ndarray, lines: Sequence[Text | None], size: int, style: str = "plain"
) -> np.ndarray:
    """Pictures uint8 [P, size, size, 3] of objects at ``places`` [P, K, 4] and of lines of text, one pixel
    anti-aliased.

    ValueError for an unknown style.
    """
    require("style", style, STYLES)
    canvas = np.repeat(background(size, style)[None], len(lines), 0)
    for slot in range(things.here.shape[1]):
        for shape in range(len(SHAPES)):
            rows = np.flatnonzero(things.here[:, slot] & (things.shape[:, slot] == shape))
            if len(rows):
                _paint(canvas, rows, SHAPES[shape], places[rows, slot], _PAINTS[things.color[rows, slot]], style)
    written = [i for i, line in enumerate(lines) if line is not None]
    if written:
        _write(canvas, np.array(written), [Scene((), lines[i]) for i in written])
    return canvas


@lru_cache(8)
def background(size: int, style: str) -> np.ndarray:
    """The empty picture of a style, uint8 [size, size, 3]."""
    if style == "plain":
        return np.full((size, size, 3), BACKGROUND, np.uint8)
    along = ((np.arange(size, dtype=np.float32) + 0.5) / size)[:, None]
    sky = _SKY[0] + (_SKY[1] - _SKY[0]) * (along / _HORIZON)
    ground = _GROUND[0] + (_GROUND[1] - _GROUND[0]) * ((along - _HORIZON) / (1 - _HORIZON))
    rows = np.where(along < _HORIZON, sky, ground)
    return np.rint(rows[:, None] * (_LEFT + (_RIGHT - _LEFT) * along[None])).astype(np.uint8)


def _paint(canvas: np.ndarray, rows: np.ndarray, shape: str, places: np.ndarray, paint: np.ndarray, style: str) -> None:
    """Blend one object into each of the rows, within the smallest window that holds all of them."""
    size = canvas.shape[1]
    x, y, radius, angle = places.T
    side = min(size, int(np.ceil(2 * REACH * size * radius.max())) + 3)
    corner = np.clip(np.rint(places[:, :2] * size - side / 2), 0, size - side).astype(int)
    left, top = corner.T
    alpha = coverage(shape, (x * size - left) / side, (y * size - top) / side, radius * size / side, angle, side)
    step = np.arange(side)
    window = rows[:, None, None], (top[:, None] + step)[:, :, None], (left[:, None] + step)[:, None, :]
    paint = paint[:, None, None]
    if style == "gravity":
        height = (y[:, None] * size - window[1][:, :, 0] - 0.5) / (radius[:, None] * size)
        paint = _lit(paint, np.clip(height, -1, 1).astype(np.float32)[:, :, None, None])
    under = canvas[window].astype(np.float32)
    canvas[window] = np.rint(under + alpha[..., None] * (paint - under)).astype(np.uint8)


def _lit(paint: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Paint that is lighter above an object's middle (``height`` up to 1) and darker below (down to -1)."""
    return paint + (255 - paint) * _LIGHT * np.maximum(height, 0) + paint * _SHADE * np.minimum(height, 0)


def _write(canvas: np.ndarray, rows: np.ndarray, lines: Sequence[Scene]) -> None:
    """Blend a line of text into each of the rows; its share of a pixel is read off the plain picture."""
    ink, plain = np.float32(INK["black"]), np.float32(BACKGROUND)
    alpha = (plain - render(lines, canvas.shape[1])) / (plain - ink)
    canvas[rows] = np.rint(canvas[rows] + alpha * (ink - canvas[rows])).astype(np.uint8)
