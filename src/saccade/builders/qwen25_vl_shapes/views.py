"""What pictures show, cell by cell: the one thing that the tower is told while it learns to see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saccade.builders.qwen25_vl_shapes.shown import CELL
from saccade.worlds.questions.layouts import SceneBatch
from saccade.worlds.shapes import COLORS, SHAPES, Text, fonts

FAR = 16.0
"""Pixels that count as one unit of distance."""

THINGS = (*SHAPES, "plate", "rect", "ellipse")

PAINTS = (*COLORS, "black")

GLYPHS = (*fonts.LETTERS, *"0123456789")


@dataclass(frozen=True)
class Views:
    """N pictures uint8 [N, S, S, 3] and what they show: boxes [N, K, 4] in pixels (empty where nothing is), shapes,
    colors and letters [N, K], each counted from 1 with 0 for "none". ``owner`` [N, cells] says which of the K is
    seen in the middle of each cell, -1 for none; without it that is the one whose box lies there.
    """

    pictures: np.ndarray
    boxes: np.ndarray
    shape: np.ndarray
    color: np.ndarray
    letter: np.ndarray
    owner: np.ndarray | None = None

    def middles(self) -> np.ndarray:
        """The middle of every cell, twice: x, y, x, y in pixels [cells, 4]."""
        middle = np.arange(self.pictures.shape[1] // CELL) * CELL + CELL / 2
        y, x = (a.ravel() for a in np.meshgrid(middle, middle, indexing="ij"))
        return np.stack([x, y, x, y], -1)

    def cells(self) -> dict[str, Tensor]:
        """Targets of every cell, row by row: classes [N, cells] and edges [N, cells, 4] in units of FAR."""
        edges = self.boxes[:, None] - self.middles()[:, None]  # [N, cells, K, 4]
        if self.owner is None:
            inside = (edges[..., :2] <= 0).all(-1) & (edges[..., 2:] > 0).all(-1)
            owner, seen = np.where(inside, np.abs(edges).sum(-1), np.inf).argmin(-1), inside.any(-1)
        else:
            owner, seen = np.maximum(self.owner, 0), self.owner >= 0
        pick = lambda value: torch.from_numpy(np.where(seen, np.take_along_axis(value, owner, 1), 0)).long()
        near = np.take_along_axis(edges, owner[..., None, None], 2)[:, :, 0] / FAR
        return {
            "shape": pick(self.shape),
            "color": pick(self.color),
            "letter": pick(self.letter),
            "edges": torch.from_numpy(near).float(),
            "seen": torch.from_numpy(seen),
        }


def views_of(things: SceneBatch, unit: np.ndarray, pictures: np.ndarray) -> Views:
    """What pictures of a crowd show, from its boxes in unit coordinates."""
    pixels = np.where(things.present[..., None], unit * pictures.shape[1], 0.0)
    return Views(pictures, pixels, things.shape + 1, things.color + 1, np.zeros_like(things.shape))


def views_of_lines(texts: Sequence[Text], pictures: np.ndarray) -> Views:
    """What pictures of one line of text each show: every letter has a box of its own."""
    found, letter = np.zeros((len(texts), 4, 4)), np.zeros((len(texts), 4), int)
    for i, text in enumerate(texts):
        start = text.x - fonts.width(text.string, text.font) * text.height / 2
        for k, glyph in enumerate(text.string):
            left = start + (fonts.width(text.string[: k + 1], text.font) - fonts.width(glyph, text.font)) * text.height
            right = left + fonts.width(glyph, text.font) * text.height
            found[i, k] = left, text.y - text.height / 2, right, text.y + text.height / 2
            letter[i, k] = 1 + GLYPHS.index(glyph)
    nothing = np.zeros_like(letter)
    return Views(pictures, found * pictures.shape[1], nothing, nothing, letter)


def counted(names: Sequence[str], known: Sequence[str]) -> np.ndarray:
    """Where names stand among those known, counted from 1."""
    return np.array([1 + list(known).index(name) for name in names])
