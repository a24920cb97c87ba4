"""Mode coverage: how many different right answers to one caption a model gives, which noise cannot raise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from saccade.worlds.shapes.judge import parse
from saccade.worlds.shapes.meanings import Meaning
from saccade.worlds.shapes.scene import Object

CELLS = 3
"""Cells of a picture on each axis."""

Mode = tuple[str, str, int, int]
"""Shape, colour, and the column and row of the cell where an object lies."""


def modes(images: np.ndarray | Tensor, meanings: Sequence[Meaning | None]) -> list[set[Mode]]:
    """The modes of the requested objects in each picture; none for a picture without them or without a meaning.

    An object of a shape that was not requested, or of another colour than requested, does not count.
    """
    found = parse(images)
    return [
        {_mode(o) for o in objects if _requested(o, meaning)} for objects, meaning in zip(found, meanings, strict=True)
    ]


def mode_coverage(images: np.ndarray | Tensor, meanings: Sequence[Meaning | None], groups: Sequence[int]) -> float:
    """Mean number of different modes in the pictures of a group; NaN without pictures."""
    group_modes: dict[int, set[Mode]] = {}
    for group, picture_modes in zip(groups, modes(images, meanings), strict=True):
        group_modes.setdefault(group, set()).update(picture_modes)
    return float(np.mean([len(each) for each in group_modes.values()])) if group_modes else float("nan")


def _requested(thing: Object, meaning: Meaning | None) -> bool:
    things = meaning["include"] if meaning else []
    return any(item["class"] == thing.shape and item.get("color", thing.color) == thing.color for item in things)


def _mode(thing: Object) -> Mode:
    cell = lambda coordinate: min(int(coordinate * CELLS), CELLS - 1)
    return thing.shape, thing.color, cell(thing.x), cell(thing.y)
