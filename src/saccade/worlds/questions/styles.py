"""Styles of rendered scenes: "plain" as in the world of shapes, or "gravity", where orientation is visible.

In gravity there is a sky above a ground, the light comes from the left, and every object is lit from above: so all
parts of the picture differ, and every object changes when it is rotated.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from saccade.naming import require
from saccade.worlds.questions.layouts import EXTENT, SceneBatch
from saccade.worlds.shapes import COLORS, SHAPES, Scene, Text, render
from saccade.worlds.shapes.render import coverage
from saccade.worlds.shapes.scene import BACKGROUND, INK

STYLES = ("plain", "gravity")
_HORIZON = 0.62
"""Height of the horizon from the top, as a fraction of the side."""
_SKY = np.array([[178, 208, 240], [236, 240, 244]], np.float32)
_GROUND = np.array([[196, 190, 168], [150, 142, 118]], np.float32)
_LEFT, _RIGHT = 1.0, 0.86
"""Brightness of the background at its left and right edge."""
_LIGHT, _SHADE = 0.35, 0.5
"""Fractions by which an object's top is blended with white and its bottom with black."""
_COLORS = np.array(list(COLORS.values()), np.float32)


def render_scenes(
    scenes: SceneBatch, places: np.ndarray, lines: Sequence[Text | None], size: int, style: str = "plain"
) -> np.ndarray:
    """Anti-aliased pictures uint8 ``[P, size, size, 3]`` of objects at ``places`` ``[P, K, 4]`` and of lines of text.

    ValueError for an unknown style.
    """
    require("style", style, STYLES)
    canvas = np.repeat(background(size, style)[None], len(lines), 0)
    for slot in range(scenes.present.shape[1]):
        for shape in range(len(SHAPES)):
            rows = np.flatnonzero(scenes.present[:, slot] & (scenes.shape[:, slot] == shape))
            if len(rows):
                _blend_objects(
                    canvas, rows, SHAPES[shape], places[rows, slot], _COLORS[scenes.color[rows, slot]], style
                )
    with_text = [i for i, line in enumerate(lines) if line is not None]
    if with_text:
        _blend_text(canvas, np.array(with_text), [Scene((), lines[i]) for i in with_text])
    return canvas


@lru_cache(8)
def background(size: int, style: str) -> np.ndarray:
    """The background of a style, uint8 ``[size, size, 3]``."""
    if style == "plain":
        return np.full((size, size, 3), BACKGROUND, np.uint8)
    along = ((np.arange(size, dtype=np.float32) + 0.5) / size)[:, None]
    sky = _SKY[0] + (_SKY[1] - _SKY[0]) * (along / _HORIZON)
    ground = _GROUND[0] + (_GROUND[1] - _GROUND[0]) * ((along - _HORIZON) / (1 - _HORIZON))
    rows = np.where(along < _HORIZON, sky, ground)
    return np.rint(rows[:, None] * (_LEFT + (_RIGHT - _LEFT) * along[None])).astype(np.uint8)


def _blend_objects(
    canvas: np.ndarray, rows: np.ndarray, shape: str, places: np.ndarray, color: np.ndarray, style: str
) -> None:
    """Blend one object into each of the rows, within the smallest window that contains all of them."""
    size = canvas.shape[1]
    x, y, radius, angle = places.T
    side = min(size, int(np.ceil(2 * EXTENT * size * radius.max())) + 3)
    corner = np.clip(np.rint(places[:, :2] * size - side / 2), 0, size - side).astype(int)
    left, top = corner.T
    alpha = coverage(shape, (x * size - left) / side, (y * size - top) / side, radius * size / side, angle, side)
    offset = np.arange(side)
    window = rows[:, None, None], (top[:, None] + offset)[:, :, None], (left[:, None] + offset)[:, None, :]
    color = color[:, None, None]
    if style == "gravity":
        height = (y[:, None] * size - window[1][:, :, 0] - 0.5) / (radius[:, None] * size)
        color = _shade(color, np.clip(height, -1, 1).astype(np.float32)[:, :, None, None])
    below = canvas[window].astype(np.float32)
    canvas[window] = np.rint(below + alpha[..., None] * (color - below)).astype(np.uint8)


def _shade(color: np.ndarray, height: np.ndarray) -> np.ndarray:
    """The color made lighter above an object's center (``height`` up to 1) and darker below it (down to -1)."""
    return color + (255 - color) * _LIGHT * np.maximum(height, 0) + color * _SHADE * np.minimum(height, 0)


def _blend_text(canvas: np.ndarray, rows: np.ndarray, scenes: Sequence[Scene]) -> None:
    """Blend a line of text into each of the rows; its opacity is that of the text in a plain picture."""
    ink, plain = np.array(INK["black"], np.float32), np.array(BACKGROUND, np.float32)
    alpha = (plain - render(scenes, canvas.shape[1])) / (plain - ink)
    canvas[rows] = np.rint(canvas[rows] + alpha * (ink - canvas[rows])).astype(np.uint8)
