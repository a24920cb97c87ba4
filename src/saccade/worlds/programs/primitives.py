"""Random primitives of many scenes as arrays, and the pixels that they cover.

A mask is true for the pixels of a 32 x 32 grid whose center is inside a primitive. Suffixes here: N scenes, K slots.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SIDE = 32
KINDS = ("rect", "circle", "ellipse", "triangle")
COLORS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "black")
_SIDES = (5, 18)
"""Smallest and largest side of a primitive's bounding box."""
_COUNT = {"rect": 4, "circle": 3, "ellipse": 4, "triangle": 6}
"""Numbers that describe a primitive of each kind."""


@dataclass(frozen=True)
class Primitive:
    """One shape: rect (x, y, width, height), circle (cx, cy, r), ellipse (cx, cy, rx, ry), triangle (three points)."""

    kind: str
    color: str
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Shapes:
    """Primitives of N scenes: ``kind`` and ``color`` as indices ``[N, K]``, ``numbers`` ``[N, K, 6]``, 0 if unused."""

    kind: np.ndarray
    color: np.ndarray
    numbers: np.ndarray

    def primitive(self, row: int, slot: int) -> Primitive:
        """The primitive in a slot of a scene."""
        kind = KINDS[self.kind[row, slot]]
        return Primitive(kind, COLORS[self.color[row, slot]], tuple(self.numbers[row, slot, : _COUNT[kind]].tolist()))

    def rows(self, index: np.ndarray) -> Shapes:
        """The primitives of some scenes."""
        return Shapes(self.kind[index], self.color[index], self.numbers[index])

    def put(self, row: np.ndarray, slot: np.ndarray, new: Shapes) -> None:
        """Replace M primitives by ``new`` ones ``[M, 1]``."""
        self.kind[row, slot], self.color[row, slot] = new.kind[:, 0], new.color[:, 0]
        self.numbers[row, slot] = new.numbers[:, 0]


def random_shapes(rng: np.random.Generator, shape: tuple[int, int]) -> Shapes:
    """Random shapes ``[N, K]`` anywhere on coordinates 0 to 31."""
    box = rng.integers(_SIDES[0], _SIDES[1] + 1, (2, *shape))
    return random_shapes_in(rng.integers(0, SIDE - box), box, rng)


def random_shapes_in(corner: np.ndarray, box: np.ndarray, rng: np.random.Generator) -> Shapes:
    """Random shapes ``[N, K]`` in boxes with top left ``corner`` and sides ``box``, both (x, y) ``[2, N, K]``."""
    shape = box.shape[1:]
    kind, color = rng.integers(len(KINDS), size=shape), rng.integers(len(COLORS), size=shape)
    rx, ry = np.maximum(box // 2, 1)
    ry = np.where((kind == KINDS.index("ellipse")) & (rx == ry), np.maximum(ry - 2, 1), ry)
    r, zero = np.minimum(rx, ry), np.zeros(shape, int)
    numbers = [
        (*corner, *box, zero, zero),
        (*(corner + r), r, zero, zero, zero),
        (*(corner + (rx, ry)), rx, ry, zero, zero),
        _triangle(corner, box, rng),
    ]
    return Shapes(kind, color, np.moveaxis(np.choose(kind, [np.stack(row) for row in numbers]), 0, -1))


def masks(shapes: Shapes) -> np.ndarray:
    """The pixels inside each primitive: bool ``[N, K, 32, 32]``, indexed by y, then x."""
    x = np.arange(SIDE, dtype=np.float32)[None, :] + 0.5
    y = np.arange(SIDE, dtype=np.float32)[:, None] + 0.5
    a, b, c, d, e, f = np.moveaxis(shapes.numbers[..., None, None].astype(np.float32), 2, 0)
    side = lambda x1, y1, x2, y2: (x2 - x1) * (y - y1) - (y2 - y1) * (x - x1) >= 0
    signs = [side(a, b, c, d), side(c, d, e, f), side(e, f, a, b)]
    inside_ellipse = lambda rx, ry: ((x - a) / np.maximum(rx, 1)) ** 2 + ((y - b) / np.maximum(ry, 1)) ** 2 <= 1
    return np.choose(
        shapes.kind[..., None, None],
        [
            (x >= a) & (x < a + c) & (y >= b) & (y < b + d),
            inside_ellipse(c, c),
            inside_ellipse(c, d),
            (signs[0] == signs[1]) & (signs[1] == signs[2]),
        ],
    )


def dilate(mask: np.ndarray) -> np.ndarray:
    """Masks and the 8 neighbors of each of their pixels."""
    vertical = mask.copy()
    vertical[..., 1:, :] |= mask[..., :-1, :]
    vertical[..., :-1, :] |= mask[..., 1:, :]
    dilated = vertical.copy()
    dilated[..., 1:] |= vertical[..., :-1]
    dilated[..., :-1] |= vertical[..., 1:]
    return dilated


def _triangle(corner: np.ndarray, box: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """A point on one side of the box and both ends of the opposite side, as three points."""
    (x1, y1), (x2, y2) = corner, corner + box
    x, y = corner + (rng.random(box.shape) * (box + 1)).astype(int)
    choices = [(x, y1, x1, y2, x2, y2), (x, y2, x1, y1, x2, y1), (x1, y, x2, y1, x2, y2), (x2, y, x1, y1, x1, y2)]
    return tuple(np.choose(rng.integers(4, size=x.shape), [np.stack(choice) for choice in choices]))
