"""OCR of this world's text: black segments from left to right, each matched to the most similar glyph of the fonts."""

from __future__ import annotations

from functools import cache

import numpy as np
from torch import Tensor

from saccade.worlds.shapes import fonts
from saccade.worlds.shapes.render import render
from saccade.worlds.shapes.scene import INK, Scene, Text
from saccade.worlds.shapes.segments import PAINTS, Segments, pixels, segment

_MIN_CORRELATION = 0.80
"""Least correlation of a segment with a glyph; a segment below it is read as "?"."""


def read_text(images: np.ndarray | Tensor) -> list[str]:
    """The line of capital letters in each picture, "" where there is none.

    ``images`` are uint8 ``[B, H, W, 3]`` or float ``[B, 3, H, W]`` in [0, 1].
    """
    rgb = pixels(images)
    return read_segments(segment(rgb), len(rgb))


def read_segments(segments: Segments, rows: int) -> list[str]:
    """`read_text` of the segments of ``rows`` pictures."""
    patches, letter = _glyphs()
    ink = np.flatnonzero([PAINTS[k] in INK for k in segments.paint])
    ink = ink[np.lexsort((segments.x[ink], segments.row[ink]))]
    correlation = segments.patch[ink] @ patches.T if len(ink) else np.zeros((0, len(letter)), np.float32)
    lines = [""] * rows
    for row, best, highest in zip(segments.row[ink], correlation.argmax(1), correlation.max(1, initial=0)):
        lines[row] += fonts.LETTERS[letter[best]] if highest >= _MIN_CORRELATION else "?"
    return lines


@cache
def _glyphs() -> tuple[np.ndarray, np.ndarray]:
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
