"""How many different answers to one caption are drawn: a measure of diversity that junk cannot raise."""

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
"""Shape, colour, column and row of the cell that it lies in."""


def modes(images: np.ndarray | Tensor, meanings: Sequence[Meaning | None]) -> list[set[Mode]]:
    """For each picture the modes of the objects that its caption asked for; empty where there are none, or no meaning.

    A shape that was not asked for, or has another colour than was said, counts for nothing.
    """
    found = parse(images)
    return [{_mode(o) for o in objects if _asked(o, meaning)} for objects, meaning in zip(found, meanings, strict=True)]


def covered(images: np.ndarray | Tensor, meanings: Sequence[Meaning | None], groups: Sequence[int]) -> float:
    """Mean number of different modes that the pictures of a group show; NaN without pictures."""
    seen: dict[int, set[Mode]] = {}
    for group, own in zip(groups, modes(images, meanings), strict=True):
        seen.setdefault(group, set()).update(own)
    return float(np.mean([len(each) for each in seen.values()])) if seen else float("nan")


def _asked(thing: Object, meaning: Meaning | None) -> bool:
    things = meaning["include"] if meaning else []
    return any(item["class"] == thing.shape and item.get("color", thing.color) == thing.color for item in things)


def _mode(thing: Object) -> Mode:
    cell = lambda place: min(int(place * CELLS), CELLS - 1)
    return thing.shape, thing.color, cell(thing.x), cell(thing.y)
