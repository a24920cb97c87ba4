"""What was parsed in a picture, rendered again: the exact picture of this world that the parse describes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from saccade.worlds.shapes import COLORS, SHAPES, Object, Scene, Text, fonts, render
from saccade.worlds.shapes.ocr import read_segments
from saccade.worlds.shapes.scene import INK
from saccade.worlds.shapes.segments import PAINTS, Segments, segment

_CANVAS, _HEIGHT = 96, 0.2
"""Side in pixels and cap height of the picture in which a line is rendered to locate its letters."""
_LONGEST = 8
"""Largest number of letters of a line that is rendered again; captions ask for four at most."""


def rerender(rgb: np.ndarray, objects: Sequence[Sequence[Object]]) -> np.ndarray:
    """The parsed ``objects`` of pictures ``rgb`` [B, S, S, 3] (0 to 255), rendered again: uint8 [B, S, S, 3].

    A line of letters is rendered in every font; the font with the least error is used.
    """
    bare = [Scene(tuple(o for o in parsed if o.shape in SHAPES and o.color in COLORS)) for parsed in objects]
    pictures = render(bare, rgb.shape[1])
    dark = [row for row, parsed in enumerate(objects) if any(o.color in INK for o in parsed)]
    found = segment(rgb[dark])
    lines = {
        dark[k]: (line, _letters(found, k)) for k, line in enumerate(read_segments(found, len(dark))) if _legible(line)
    }
    best = dict.fromkeys(lines, np.inf)
    for font in fonts.FONTS:
        scenes = [replace(bare[row], text=_line(line, font, *letters)) for row, (line, letters) in lines.items()]
        for row, picture in zip(lines, render(scenes, rgb.shape[1])):
            error = float(np.abs(picture - rgb[row]).mean())
            if error < best[row]:
                best[row], pictures[row] = error, picture
    return pictures


def _legible(line: str) -> bool:
    return 0 < len(line) <= _LONGEST and set(line) <= set(fonts.LETTERS)


def _letters(found: Segments, row: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Centres x [n] and y [n] of a picture's black segments from left to right, and their total area."""
    letters = np.flatnonzero((found.row == row) & np.isin(found.paint, _INKS))
    letters = letters[found.x[letters].argsort()]
    return found.x[letters], found.y[letters], float(found.mass[letters].sum())


def _line(string: str, font: str, x: np.ndarray, y: np.ndarray, mass: float) -> Text:
    """The line whose letters have these centres; the height of a single letter follows from its area."""
    dx, dy, area = _letter_offsets(string, font)
    variance = np.square(dx - dx.mean()).sum()
    height = ((dx - dx.mean()) * x).sum() / variance if len(x) == len(dx) > 1 else np.sqrt(mass / area)
    center_x, center_y = x.mean() - dx.mean() * height, y.mean() - dy.mean() * height
    return Text(string, font, float(center_x), float(center_y), float(height))


@cache
def _letter_offsets(string: str, font: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Centres of a line's letters relative to the centre of the line, and their area, at a cap height of 1."""
    height = min(_HEIGHT, 0.9 / fonts.width(string, font))
    found = segment(render([Scene((), Text(string, font, 0.5, 0.5, height))], _CANVAS).astype(np.float32))
    x, y, mass = _letters(found, 0)
    return (x - 0.5) / height, (y - 0.5) / height, mass / height**2


_INKS = [k for k, paint in enumerate(PAINTS) if paint in INK]
