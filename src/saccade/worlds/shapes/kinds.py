"""Kinds of things (a shape in a colour) as vectors: what a picture shows, and which kinds a caption asks for."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from saccade.worlds.shapes.judge import judgeable, parse
from saccade.worlds.shapes.meanings import COLORS, SHAPES, Meaning

KINDS = tuple((shape, color) for shape in SHAPES for color in COLORS)
THINGS = 2
"""Different things that a caption of this world can name."""


def present(images: np.ndarray | Tensor) -> Tensor:
    """Which kinds the exact judge sees in each picture: 0 or 1, ``[B, K]``."""
    rows = torch.zeros(len(images), len(KINDS))
    for row, objects in zip(rows, parse(images)):
        seen = [KINDS.index((o.shape, o.color)) for o in objects if (o.shape, o.color) in KINDS]
        row[seen] = 1
    return rows


def wanted(meaning: Meaning | None) -> Tensor:
    """For each thing that is asked for the kinds that answer it: 0 or 1, ``[THINGS, K]``, no kind for a thing that is
    not there.

    NaN where the meaning speaks of words, of another world, or of nothing. How many of a thing and where is left out.
    """
    if not judgeable(meaning) or not meaning["include"]:
        return torch.full((THINGS, len(KINDS)), torch.nan)
    answers = lambda item, kind: kind[0] == item["class"] and kind[1] == item.get("color", kind[1])
    rows = [[float(answers(item, kind)) for kind in KINDS] for item in meaning["include"][:THINGS]]
    return torch.tensor(rows + [[0.0] * len(KINDS)] * (THINGS - len(rows)))
