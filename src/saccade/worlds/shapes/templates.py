"""What the judge compares segments with: patches of all shapes and of all letters.

They are read from a file beside this one, for to draw them takes most of a second in every process. After a change of
what is drawn here

    python -m saccade.worlds.shapes.templates

writes it anew.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from saccade.worlds.shapes import fonts
from saccade.worlds.shapes.meanings import SHAPES
from saccade.worlds.shapes.render import render
from saccade.worlds.shapes.scene import Object, Scene, Text
from saccade.worlds.shapes.segments import segment

FILE = Path(__file__).with_suffix(".npz")

_SYMMETRY = {"circle": 1.0, "square": 0.25, "triangle": 1 / 3, "ring": 1.0, "star": 0.2, "cross": 0.25}
"""Share of a full turn after which a shape is unchanged; for round shapes any share will do."""


def shape_templates() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Patches ``[N, PATCH * PATCH]`` of all shapes at many angles, radii and blurs; their shapes and angles ``[N]``."""
    kept = _kept()
    return kept["shapes"], kept["kinds"], kept["angles"]


def glyph_templates() -> tuple[np.ndarray, np.ndarray]:
    """Patches ``[N, PATCH * PATCH]`` of all letters in all fonts, at several heights and blurs; their letters [N]."""
    kept = _kept()
    return kept["glyphs"], kept["letters"]


@cache
def _kept() -> dict[str, np.ndarray]:
    with np.load(FILE) as arrays:
        return dict(arrays)


def draw_shapes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Patches ``[N, PATCH * PATCH]`` of all shapes at many angles, radii and blurs; their shapes and angles ``[N]``."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    patches, kinds, angles = [], [], []
    for radius in (3.6, 4.2, 4.8, 5.5, 6.3, 8, 11, 15):
        size = round(2.5 * radius) + 6
        for shape in SHAPES:
            steps = 4 if shape in ("circle", "ring") else 16
            turned = np.repeat(np.arange(steps) / steps * 2 * np.pi * _SYMMETRY[shape], 2)
            places = 0.5 + rng.uniform(-0.5, 0.5, (len(turned), 2)) / size
            scenes = [Scene((Object(shape, "black", x, y, radius / size, a),)) for (x, y), a in zip(places, turned)]
            sharp = render(scenes, size).astype(np.float32)
            for sigma in (0, 0.7):
                soft = gaussian_filter(sharp, (0, sigma, sigma, 0)) if sigma else sharp
                patches.append(segment(soft).patch)
                kinds.append(np.full(len(turned), SHAPES.index(shape)))
                angles.append(turned)
    return np.concatenate(patches), np.concatenate(kinds), np.concatenate(angles)


def draw_glyphs() -> tuple[np.ndarray, np.ndarray]:
    """Patches ``[N, PATCH * PATCH]`` of all letters in all fonts, at several heights and blurs; their letters [N]."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    patches, letters = [], []
    for height in (5, 6, 7, 8, 9.5, 11, 13, 18, 25):
        size = round(1.6 * height) + 6
        for font in fonts.FONTS:
            places = 0.5 + rng.uniform(-0.5, 0.5, (2 * len(fonts.LETTERS), 2)) / size
            scenes = [
                Scene((), Text(letter, font, x, y, height / size)) for letter, (x, y) in zip(2 * fonts.LETTERS, places)
            ]
            sharp = render(scenes, size).astype(np.float32)
            for sigma in (0, 0.7):
                segments = segment(gaussian_filter(sharp, (0, sigma, sigma, 0)) if sigma else sharp)
                in_one_piece = np.bincount(segments.row, minlength=len(scenes))[segments.row] == 1
                patches.append(segments.patch[in_one_piece])
                letters.append(segments.row[in_one_piece] % len(fonts.LETTERS))
    return np.concatenate(patches), np.concatenate(letters)


if __name__ == "__main__":
    shapes, kinds, angles = draw_shapes()
    glyphs, letters = draw_glyphs()
    np.savez_compressed(FILE, shapes=shapes, kinds=kinds, angles=angles, glyphs=glyphs, letters=letters)
