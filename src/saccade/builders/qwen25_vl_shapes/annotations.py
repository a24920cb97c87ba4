"""Pictures with annotated objects, and from them the targets of every cell for pretraining the vision tower."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saccade.builders.qwen25_vl_shapes.preprocessing import CELL
from saccade.worlds.questions.layouts import SceneBatch
from saccade.worlds.shapes import COLORS, SHAPES, Text, fonts

EDGE_UNIT = 16.0
"""Pixels in one unit of the edges in cell targets."""

SHAPE_CLASSES = (*SHAPES, "plate", "rect", "ellipse")

COLOR_CLASSES = (*COLORS, "black")

LETTER_CLASSES = (*fonts.LETTERS, *"0123456789")


@dataclass(frozen=True)
class AnnotatedPictures:
    """N pictures uint8 ``[N, S, S, 3]`` and their K annotated objects.

    ``boxes`` ``[N, K, 4]`` are in pixels (empty where there is no object), ``shape``, ``color`` and ``letter``
    ``[N, K]`` are classes counted from 1, 0 for none. ``owner`` ``[N, cells]`` is the object visible at the center of
    each cell, -1 for none; without it that is the object whose box contains the center.
    """

    pictures: np.ndarray
    boxes: np.ndarray
    shape: np.ndarray
    color: np.ndarray
    letter: np.ndarray
    owner: np.ndarray | None = None

    def centers(self) -> np.ndarray:
        """The center of every cell, twice: x, y, x, y in pixels ``[cells, 4]``."""
        middle = np.arange(self.pictures.shape[1] // CELL) * CELL + CELL / 2
        y, x = (a.ravel() for a in np.meshgrid(middle, middle, indexing="ij"))
        return np.stack([x, y, x, y], -1)

    def cells(self) -> dict[str, Tensor]:
        """Targets of every cell, row by row: classes ``[N, cells]``, edges ``[N, cells, 4]`` in units of EDGE_UNIT."""
        edges = self.boxes[:, None] - self.centers()[:, None]  # [N, cells, K, 4]
        if self.owner is None:
            inside = (edges[..., :2] <= 0).all(-1) & (edges[..., 2:] > 0).all(-1)
            owner, occupied = np.where(inside, np.abs(edges).sum(-1), np.inf).argmin(-1), inside.any(-1)
        else:
            owner, occupied = np.maximum(self.owner, 0), self.owner >= 0
        pick = lambda value: torch.from_numpy(np.where(occupied, np.take_along_axis(value, owner, 1), 0)).long()
        distance = np.take_along_axis(edges, owner[..., None, None], 2)[:, :, 0] / EDGE_UNIT
        return {
            "shape": pick(self.shape),
            "color": pick(self.color),
            "letter": pick(self.letter),
            "edges": torch.from_numpy(distance).float(),
            "occupied": torch.from_numpy(occupied),
        }


def annotate_scenes(scenes: SceneBatch, unit: np.ndarray, pictures: np.ndarray) -> AnnotatedPictures:
    """Pictures of scenes, annotated from the boxes in unit coordinates ``[N, K, 4]``."""
    pixels = np.where(scenes.present[..., None], unit * pictures.shape[1], 0.0)
    return AnnotatedPictures(pictures, pixels, scenes.shape + 1, scenes.color + 1, np.zeros_like(scenes.shape))


def annotate_lines(texts: Sequence[Text], pictures: np.ndarray) -> AnnotatedPictures:
    """Pictures of one line of text each, annotated with the box of every letter."""
    found, letter = np.zeros((len(texts), 4, 4)), np.zeros((len(texts), 4), int)
    for i, text in enumerate(texts):
        start = text.x - fonts.width(text.string, text.font) * text.height / 2
        for k, glyph in enumerate(text.string):
            left = start + (fonts.width(text.string[: k + 1], text.font) - fonts.width(glyph, text.font)) * text.height
            right = left + fonts.width(glyph, text.font) * text.height
            found[i, k] = left, text.y - text.height / 2, right, text.y + text.height / 2
            letter[i, k] = 1 + LETTER_CLASSES.index(glyph)
    nothing = np.zeros_like(letter)
    return AnnotatedPictures(pictures, found * pictures.shape[1], nothing, nothing, letter)


def class_ids(names: Sequence[str], known: Sequence[str]) -> np.ndarray:
    """Indices of names in ``known``, counted from 1."""
    return np.array([1 + list(known).index(name) for name in names])
