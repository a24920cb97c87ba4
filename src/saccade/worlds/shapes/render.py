"""Rendering of scenes: signed distance fields of shapes and letters, turned into anti-aliased paint."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from saccade.naming import require
from saccade.worlds.shapes import fonts
from saccade.worlds.shapes.meanings import COLORS, SHAPES
from saccade.worlds.shapes.scene import BACKGROUND, INK, Scene, Text

_PAINT = {**COLORS, **INK}
_CHUNK = 256


def render(scenes: Sequence[Scene], size: int = 32) -> np.ndarray:
    """Pictures uint8 ``[B, size, size, 3]`` of scenes, with one pixel of anti-aliasing.

    ValueError for an unknown shape, color or font.
    """
    pieces = [_render(scenes[i : i + _CHUNK], size) for i in range(0, len(scenes), _CHUNK)]
    return np.concatenate(pieces) if pieces else np.zeros((0, size, size, 3), np.uint8)


def coverage(shape: str, x: np.ndarray, y: np.ndarray, radius: np.ndarray, angle: np.ndarray, size: int) -> np.ndarray:
    """Share of each pixel that a shape covers, in [0, 1] ``[N, size, size]``; places, radii and angles are ``[N]``."""
    grid = ((np.arange(size) + 0.5) / size).astype(np.float32)
    column = lambda a: np.asarray(a, np.float32)[:, None, None]
    dx, dy = (grid[None, None, :] - column(x)) / column(radius), (grid[None, :, None] - column(y)) / column(radius)
    cos, sin = np.cos(column(angle)), np.sin(column(angle))
    distance = _DISTANCE[shape](cos * dx + sin * dy, cos * dy - sin * dx)
    return np.clip(0.5 - distance * (column(radius) * size), 0, 1)


def _render(scenes: Sequence[Scene], size: int) -> np.ndarray:
    for shape, color in {(thing.shape, thing.color) for scene in scenes for thing in scene.objects}:
        require("shape", shape, SHAPES)
        require("color", color, tuple(_PAINT))
    canvas = np.empty((len(scenes), size, size, 3), np.float32)
    canvas[:] = BACKGROUND
    for slot in range(max([0, *(len(s.objects) for s in scenes)])):
        _paint_slot(canvas, scenes, slot, size)
    texts = {i: s.text for i, s in enumerate(scenes) if s.text is not None}
    if texts:
        ink = _lines([*texts.values()], size)
        _blend(canvas, np.array([*texts]), ink, [text.color for text in texts.values()])
    return np.rint(canvas).astype(np.uint8)


def _paint_slot(canvas: np.ndarray, scenes: Sequence[Scene], slot: int, size: int) -> None:
    """Paint object number ``slot`` of the scenes, all scenes with the same shape at once."""
    for shape in SHAPES:
        rows = [i for i, s in enumerate(scenes) if len(s.objects) > slot and s.objects[slot].shape == shape]
        if rows:
            things = [scenes[i].objects[slot] for i in rows]
            x, y, radius, angle = np.array([(o.x, o.y, o.radius, o.angle) for o in things], np.float32).T
            _blend(canvas, np.array(rows), coverage(shape, x, y, radius, angle, size), [o.color for o in things])


def _blend(canvas: np.ndarray, rows: np.ndarray, alpha: np.ndarray, colors: Sequence[str]) -> None:
    paint = np.array([_PAINT[color] for color in colors], np.float32)[:, None, None]
    under = canvas[rows]
    canvas[rows] = under + alpha[..., None] * (paint - under)


def _circle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.sqrt(u * u + v * v) - 1.0


def _square(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(u), np.abs(v)) - 0.8


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(v, 0.8660254 * np.abs(u) - 0.5 * v) - 0.575


def _ring(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.abs(np.sqrt(u * u + v * v) - 0.77) - 0.23


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    u, v = np.abs(u), np.abs(v)
    return np.maximum(np.maximum(u, v) - 1.0, np.minimum(u, v) - 0.3)


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Star of five points: the plane is folded onto half a point, whose edge is a straight line."""
    sector = np.float32(2 * np.pi / 5)
    around = np.arctan2(u, -v)
    folded = np.abs(around - sector * np.rint(around / sector))
    length = np.sqrt(u * u + v * v)
    x, y = length * np.sin(folded), length * np.cos(folded)
    tip, inner = 1.15, 0.52
    notch = np.array([inner * np.sin(np.pi / 5), inner * np.cos(np.pi / 5)])
    normal = np.array([tip - notch[1], notch[0]]) / np.hypot(tip - notch[1], notch[0])
    return np.float32(normal[0]) * x + np.float32(normal[1]) * (y - np.float32(tip))


_DISTANCE = dict(zip(SHAPES, (_circle, _square, _triangle, _ring, _star, _cross), strict=True))


def _lines(texts: Sequence[Text], size: int) -> np.ndarray:
    """Share of each pixel that is ink ``[N, size, size]``: the distance fields of the letters at all pixels."""
    ink = np.zeros((len(texts), size, size), np.float32)
    for slot in range(max(len(text.string) for text in texts)):
        rows = [i for i, text in enumerate(texts) if len(text.string) > slot]
        ink[rows] = np.maximum(ink[rows], _letters([texts[i] for i in rows], slot, size))
    return ink


def _letters(texts: Sequence[Text], slot: int, size: int) -> np.ndarray:
    atlas = fonts.atlas()
    font = np.array([fonts.font_index(text.font) for text in texts])
    letter = np.array([fonts.indices(text.string)[slot] for text in texts])
    height = np.array([text.height for text in texts], np.float32)[:, None]
    before = np.array([_advance(text, slot) for text in texts], np.float32)
    x = np.array([text.x for text in texts], np.float32) + before * height[:, 0]
    y = np.array([text.y for text in texts], np.float32) + atlas.drop[font, letter] * height[:, 0]
    grid = (np.arange(size, dtype=np.float32) + 0.5) / size
    texel = lambda centre: (grid - centre[:, None]) / height * fonts.CAP + (fonts.CELL - 1) / 2
    distance = _bilinear(atlas.distance, font, letter, texel(y), texel(x))
    return np.clip(0.5 - distance * (height * size)[..., None], 0, 1)


def _advance(text: Text, slot: int) -> float:
    """Offset of a letter's centre from the centre of its line, in cap heights."""
    half = lambda string: fonts.width(string, text.font)
    return half(text.string[: slot + 1]) - half(text.string[slot]) / 2 - half(text.string) / 2


def _bilinear(field: np.ndarray, font: np.ndarray, letter: np.ndarray, row: np.ndarray, col: np.ndarray) -> np.ndarray:
    """Glyph fields at texel rows ``[N, size]`` x columns ``[N, size]``, clamped to the cell, whose rim is empty."""
    row, col = np.clip(row, 0, fonts.CELL - 1.001), np.clip(col, 0, fonts.CELL - 1.001)
    r, c = row.astype(int), col.astype(int)
    fr, fc = (row - r)[:, :, None], (col - c)[:, None, :]
    at = lambda dr, dc: field[font[:, None, None], letter[:, None, None], (r + dr)[:, :, None], (c + dc)[:, None, :]]
    return (1 - fr) * ((1 - fc) * at(0, 0) + fc * at(0, 1)) + fr * ((1 - fc) * at(1, 0) + fc * at(1, 1))
