"""Kinds of things (a shape in a colour) as vectors: those that a picture shows, and those that a caption requests."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from saccade.worlds.shapes.judge import judgeable, parse
from saccade.worlds.shapes.meanings import COLORS, SHAPES, Meaning

KINDS = tuple((shape, color) for shape in SHAPES for color in COLORS)
THINGS = 2
"""Largest number of different things in a caption of this world."""


def present_kinds(images: np.ndarray | Tensor) -> Tensor:
    """The kinds that the exact judge detects in each picture: 0 or 1, ``[B, K]``."""
    present_BK = torch.zeros(len(images), len(KINDS))
    for row, objects in zip(present_BK, parse(images)):
        row[[KINDS.index((o.shape, o.color)) for o in objects if (o.shape, o.color) in KINDS]] = 1
    return present_BK


def requested_kinds(meaning: Meaning | None) -> Tensor:
    """The kinds that answer each requested thing: 0 or 1, ``[THINGS, K]``; rows beyond the last thing are 0.

    NaN where the meaning requests a text, things of another world, or nothing. Counts and positions are left out.
    """
    if meaning is None or not judgeable(meaning) or not meaning["include"]:
        return torch.full((THINGS, len(KINDS)), torch.nan)
    answers = lambda item, kind: kind[0] == item["class"] and kind[1] == item.get("color", kind[1])
    rows = [[float(answers(item, kind)) for kind in KINDS] for item in meaning["include"][:THINGS]]
    return torch.tensor(rows + [[0.0] * len(KINDS)] * (THINGS - len(rows)))
