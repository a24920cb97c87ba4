"""Six digits as bitmaps of seven segments, similar in ink, so that a blurred digit cannot be recognized."""

from __future__ import annotations

import numpy as np

DIGITS = ("0", "2", "3", "5", "6", "9")
WIDTH, HEIGHT = 6, 10
_SEGMENTS = {"0": "abcdef", "2": "abged", "3": "abgcd", "5": "afgcd", "6": "afgedc", "9": "abcdfg"}
"""Segments by their usual letters: a top, b and c right, d bottom, e and f left, g middle."""
_SEGMENT_PIXELS = {
    "a": np.s_[0:2, :],
    "g": np.s_[4:6, :],
    "d": np.s_[8:10, :],
    "f": np.s_[0:6, 0:2],
    "b": np.s_[0:6, 4:6],
    "e": np.s_[4:10, 0:2],
    "c": np.s_[4:10, 4:6],
}


def _glyph(digit: str) -> np.ndarray:
    ink = np.zeros((HEIGHT, WIDTH), np.float32)
    for segment in _SEGMENTS[digit]:
        ink[_SEGMENT_PIXELS[segment]] = 1
    return ink


GLYPHS = np.stack([_glyph(digit) for digit in DIGITS])
"""Ink ``[6, HEIGHT, WIDTH]`` in {0, 1}."""
