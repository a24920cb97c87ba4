"""OCR of this world's text: black segments from left to right, each matched to the most similar glyph of the fonts."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from saccade.worlds.shapes import fonts
from saccade.worlds.shapes.scene import INK
from saccade.worlds.shapes.segments import PAINTS, Segments, pixels, segment
from saccade.worlds.shapes.templates import glyph_templates

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
    patches, letter = glyph_templates()
    ink = np.flatnonzero([PAINTS[k] in INK for k in segments.paint])
    ink = ink[np.lexsort((segments.x[ink], segments.row[ink]))]
    correlation = segments.patch[ink] @ patches.T if len(ink) else np.zeros((0, len(letter)), np.float32)
    lines = [""] * rows
    for row, best, highest in zip(segments.row[ink], correlation.argmax(1), correlation.max(1, initial=0)):
        lines[row] += fonts.LETTERS[letter[best]] if highest >= _MIN_CORRELATION else "?"
    return lines
