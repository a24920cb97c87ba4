"""The scene of this world that is nearest to a picture: what is seen in it, as it would be painted."""

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
"""Side of the picture in pixels, and cap height, in which a line is drawn to learn where its ink lies."""
_LONGEST = 8
"""Letters of a line that is still tried; captions ask for four at most."""


def nearest(rgb: np.ndarray, objects: Sequence[Sequence[Object]]) -> np.ndarray:
    """What was parsed in pictures ``rgb`` [B, S, S, 3] (0..255), painted again: uint8 [B, S, S, 3].

    A line of letters is tried in every font, and the one that comes nearest is kept.
    """
    bare = [Scene(tuple(o for o in seen if o.shape in SHAPES and o.color in COLORS)) for seen in objects]
    drawn = render(bare, rgb.shape[1])
    dark = [row for row, seen in enumerate(objects) if any(o.color in INK for o in seen)]
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
                best[row], drawn[row] = error, picture
    return drawn


def _legible(line: str) -> bool:
    return 0 < len(line) <= _LONGEST and set(line) <= set(fonts.LETTERS)


def _letters(found: Segments, row: int) -> tuple[np.ndarray, np.ndarray, float]:
    """The centres of a picture's black segments from left to right, x [n] and y [n], and their area."""
    own = np.flatnonzero((found.row == row) & np.isin(found.paint, _INKS))
    own = own[found.x[own].argsort()]
    return found.x[own], found.y[own], float(found.mass[own].sum())


def _line(string: str, font: str, x: np.ndarray, y: np.ndarray, mass: float) -> Text:
    """The line whose letters have these centres; one letter is as high as its area says."""
    dx, dy, area = _drawn(string, font)
    spread = np.square(dx - dx.mean()).sum()
    height = ((dx - dx.mean()) * x).sum() / spread if len(x) == len(dx) > 1 else np.sqrt(mass / area)
    return Text(string, font, *map(float, (x.mean() - dx.mean() * height, y.mean() - dy.mean() * height, height)))


@cache
def _drawn(string: str, font: str) -> tuple[np.ndarray, np.ndarray, float]:
    """The centres of a line's letters, seen from the line's own, and their area, for a cap height of 1."""
    height = min(_HEIGHT, 0.9 / fonts.width(string, font))
    found = segment(render([Scene((), Text(string, font, 0.5, 0.5, height))], _CANVAS).astype(np.float32))
    x, y, mass = _letters(found, 0)
    return (x - 0.5) / height, (y - 0.5) / height, mass / height**2


_INKS = [k for k, paint in enumerate(PAINTS) if paint in INK]
