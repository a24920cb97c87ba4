"""The reader: black segments from left to right, each named by the glyph of the fonts that it resembles most."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from torch import Tensor

from saccade.worlds.shapes import fonts
from saccade.worlds.shapes.render import render
from saccade.worlds.shapes.scene import INK, Scene, Text
from saccade.worlds.shapes.segments import PAINTS, Segments, pixels, segment

_ALIKE = 0.80
"""Least correlation with a glyph; a lesser likeness reads as "?"."""


def read(images: np.ndarray | Tensor) -> list[str]:
    """The line of capital letters in each picture (uint8 [B, H, W, 3] or float [B, 3, H, W]), "" where none is seen."""
    rgb = pixels(images)
    return lines_of(segment(rgb), len(rgb))


def lines_of(found: Segments, rows: int) -> list[str]:
    """The same from segments that were found already."""
    patches, letter = _glyphs()
    dark = np.flatnonzero([PAINTS[k] in INK for k in found.paint])
    dark = dark[np.lexsort((found.x[dark], found.row[dark]))]
    likeness = found.patch[dark] @ patches.T if len(dark) else np.zeros((0, len(letter)), np.float32)
    lines = [""] * rows
    for row, best, top in zip(found.row[dark], likeness.argmax(1), likeness.max(1, initial=0)):
        lines[row] += fonts.LETTERS[letter[best]] if top >= _ALIKE else "?"
    return lines


def ocr_score(images: np.ndarray | Tensor, targets: Sequence[str]) -> np.ndarray:
    """1 - min(edit distance, n) / n of what is read against each target of n letters [B]; 1 where it contains it.

    Case and spaces do not count. NaN where the picture holds a NaN. ValueError for an empty target.
    """
    rgb = pixels(images)
    if len(rgb) != len(targets):
        raise ValueError(f"{len(rgb)} pictures but {len(targets)} targets")
    lines = lines_of(segment(rgb), len(rgb))
    scores = [line_score(line, target) for line, target in zip(lines, targets)]
    return np.where(np.isfinite(rgb).all((1, 2, 3)), scores, np.nan)


def line_score(line: str, target: str) -> float:
    """1 where the line contains the target, else their similarity. ValueError for an empty target."""
    near = similarity(line, target)
    return 1.0 if _plain(target) in _plain(line) else near


def similarity(line: str, target: str) -> float:
    """1 - min(edit distance, n) / n, n the target's length; case and spaces do not count.

    ValueError for an empty target.
    """
    line, target = _plain(line), _plain(target)
    if not target:
        raise ValueError(f"target text {target!r} is empty; a word is needed")
    return 1 - min(_edits(line, target), len(target)) / len(target)


def _plain(text: str) -> str:
    return text.lower().replace(" ", "")


def _edits(one: str, other: str) -> int:
    """Levenshtein's distance."""
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        last, row = row, [i]
        for j, wanted in enumerate(other, 1):
            row.append(min(row[-1] + 1, last[j] + 1, last[j - 1] + (letter != wanted)))
    return row[-1]


@cache
def _glyphs() -> tuple[np.ndarray, np.ndarray]:
    """Patches [N, PATCH * PATCH] of all letters in all fonts, several heights and blurs; their letters [N]."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    patches, letters = [], []
    for height in (5, 6, 7, 8, 9.5, 11, 13, 18, 25):
        size = round(1.6 * height) + 6
        for font in fonts.FONTS:
            places = 0.5 + rng.uniform(-0.5, 0.5, (2 * len(fonts.LETTERS), 2)) / size
            scenes = [Scene((), Text(l, font, x, y, height / size)) for l, (x, y) in zip(2 * fonts.LETTERS, places)]
            sharp = render(scenes, size).astype(np.float32)
            for sigma in (0, 0.7):
                found = segment(gaussian_filter(sharp, (0, sigma, sigma, 0)) if sigma else sharp)
                whole = np.bincount(found.row, minlength=len(scenes))[found.row] == 1
                patches.append(found.patch[whole])
                letters.append(found.row[whole] % len(fonts.LETTERS))
    return np.concatenate(patches), np.concatenate(letters)
