"""The crop tool: what a box that a model wrote shows of the original picture, with all the detail that it has there."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from saccade.math.frames import Box, Frame

_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
_BOX = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")


@dataclass(frozen=True, eq=False)
class Crop:
    """The pixels ``[h, w, 3]`` that a box touches, where they lie in the original, and the box as it was written."""

    pixels: np.ndarray
    frame: Frame
    box: Box


def box_in(text: str, shown: Frame) -> Box:
    """The last ``[x1, y1, x2, y2]`` of a text, in the pixels of the picture as ``shown``.

    ValueError with one line, for the model to read, if there is none or if it is not inside the picture.
    """
    found = _BOX.findall(text)
    if not found:
        raise ValueError(f"there is no box [x1, y1, x2, y2] in {text[-60:]!r}")
    box = Box(*map(float, found[-1]), shown)
    if not box.valid:
        near = box.clipped()
        nearest = list(near.corners if near.valid else shown.whole)
        raise ValueError(f"box {list(box.corners)} is not inside {shown.width} x {shown.height} pixels; nearest: {nearest}")
    return box


def crop(text: str, original: np.ndarray, shown: Frame) -> Crop:
    """Cut the box of a text, written in the picture as ``shown``, out of the ``original`` ``[H, W, 3]``.

    ``shown`` may be the original resized, or a crop of it resized. ValueError with one line as in `box_in`, and for an
    original that is not the one which was shown.
    """
    whole = shown.original
    high, wide = original.shape[:2]
    if (high, wide) != (whole.height, whole.width):
        raise ValueError(f"the original has {wide} x {high} pixels, not {whole.width} x {whole.height}")
    box = box_in(text, shown)
    frame = whole.crop(box)
    return Crop(np.ascontiguousarray(original[frame.slices]), frame, box)
