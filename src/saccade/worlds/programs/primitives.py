"""Primitives of many scenes as arrays: drawn at random, and the pixels that they cover.

Masks say which pixels of a 32 x 32 grid have their centre inside a primitive.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SIDE = 32
KINDS = ("rect", "circle", "ellipse", "triangle")
COLORS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "black")
_SIDES = (5, 18)
"""Least and most sides of a primitive's bounding box."""
_COUNT = {"rect": 4, "circle": 3, "ellipse": 4, "triangle": 6}


@dataclass(frozen=True)
class Primitive:
    """One shape: rect (x, y, width, height), circle (cx, cy, r), ellipse (cx, cy, rx, ry), triangle (three points)."""

    kind: str
    color: str
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Shapes:
    """Primitives of N scenes: ``kind`` and ``color`` as indices [N, K], ``numbers`` [N, K, 6], 0 where there is
    none.
    """

    kind: np.ndarray
    color: np.ndarray
    numbers: np.ndarray

    def primitive(self, row: int, slot: int) -> Primitive:
        """One of them."""
        kind = KINDS[self.kind[row, slot]]
        return Primitive(kind, COLORS[self.color[row, slot]], tuple(self.numbers[row, slot, : _COUNT[kind]].tolist()))

    def rows(self, index: np.ndarray) -> Shapes:
        """Those of some scenes."""
        return Shapes(self.kind[index], self.color[index], self.numbers[index])

    def put(self, row: np.ndarray, slot: np.ndarray, new: Shapes) -> None:
        """Have ``new`` ones [M, 1] in the places of M others."""
        self.kind[row, slot], self.color[row, slot], self.numbers[row, slot] = (
            new.kind[:, 0],
            new.color[:, 0],
            new.numbers[:, 0],
        )


def drawn(rng: np.random.Generator, shape: tuple[int, int]) -> Shapes:
    """Shapes [N, K] anywhere on 0-31."""
    box = rng.integers(_SIDES[0], _SIDES[1] + 1, (2, *shape))
    return within(rng.integers(0, SIDE - box), box, rng)


def within(corner: np.ndarray, box: np.ndarray, rng: np.random.Generator) -> Shapes:
    """Shapes [N, K] inside the boxes of left top ``corner`` and sides ``box``, both (x, y) [2, N, K]."""
    shape = box.shape[1:]
    kind, color = rng.integers(len(KINDS), size=shape), rng.integers(len(COLORS), size=shape)
    rx, ry = np.maximum(box // 2, 1)
    ry = np.where((kind == KINDS.index("ellipse")) & (rx == ry), np.maximum(ry - 2, 1), ry)
    r, none = np.minimum(rx, ry), np.zeros(shape, int)
    numbers = [
        (*corner, *box, none, none),
        (*(corner + r), r, none, none, none),
        (*(corner + (rx, ry)), rx, ry, none, none),
        _triangle(corner, box, rng),
    ]
    return Shapes(kind, color, np.moveaxis(np.choose(kind, [np.stack(row) for row in numbers]), 0, -1))


def masks(shapes: Shapes) -> np.ndarray:
    """Which pixels lie inside: bool [N, K, 32, 32], rows of pixels first."""
    x = np.arange(SIDE, dtype=np.float32)[None, :] + 0.5
    y = np.arange(SIDE, dtype=np.float32)[:, None] + 0.5
    a, b, c, d, e, f = np.moveaxis(shapes.numbers[..., None, None].astype(np.float32), 2, 0)
    side = lambda x1, y1, x2, y2: (x2 - x1) * (y - y1) - (y2 - y1) * (x - x1) >= 0
    turns = [side(a, b, c, d), side(c, d, e, f), side(e, f, a, b)]
    round_ = lambda rx, ry: ((x - a) / np.maximum(rx, 1)) ** 2 + ((y - b) / np.maximum(ry, 1)) ** 2 <= 1
    return np.choose(
        shapes.kind[..., None, None],
        [
            (x >= a) & (x < a + c) & (y >= b) & (y < b + d),
            round_(c, c),
            round_(c, d),
            (turns[0] == turns[1]) & (turns[1] == turns[2]),
        ],
    )


def grown(mask: np.ndarray) -> np.ndarray:
    """Masks and all pixels around them, diagonals included."""
    tall = mask.copy()
    tall[..., 1:, :] |= mask[..., :-1, :]
    tall[..., :-1, :] |= mask[..., 1:, :]
    wide = tall.copy()
    wide[..., 1:] |= tall[..., :-1]
    wide[..., :-1] |= tall[..., 1:]
    return wide


def _triangle(corner: np.ndarray, box: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """A point on one side of the box and the whole opposite side, as three points."""
    (x1, y1), (x2, y2) = corner, corner + box
    x, y = corner + (rng.random(box.shape) * (box + 1)).astype(int)
    ways = [(x, y1, x1, y2, x2, y2), (x, y2, x1, y1, x2, y1), (x1, y, x2, y1, x2, y2), (x2, y, x1, y1, x1, y2)]
    return tuple(np.choose(rng.integers(4, size=x.shape), [np.stack(way) for way in ways]))
