"""Scenes staged for a question: targets that nothing else can be taken for, pairs that stand in a clear relation."""

from __future__ import annotations

import numpy as np

from saccade.worlds.questions.layouts import COLOR_NAMES, Crowd, crowd, other, seats
from saccade.worlds.shapes import RELATIONS, SHAPES
from saccade.worlds.splits import balanced

_C, _S, _R = len(COLOR_NAMES), len(SHAPES), len(RELATIONS)


def tell_apart(
    things: Crowd, target: np.ndarray, by_shape: np.ndarray, by_color: np.ndarray, rng: np.random.Generator
) -> tuple[Crowd, np.ndarray, np.ndarray]:
    """Targets [P, K] get one shape, colour or both, no other object has it; the others share one half where both count.

    Returns the crowd, the shapes [P] and the colours [P].
    """
    number, most = target.shape
    shape, color = rng.integers(_S, size=number), rng.integers(_C, size=number)
    half = rng.integers(3, size=target.shape)
    both = (by_shape & by_color)[:, None]
    shares_shape, shares_color = both & (half == 1), both & (half == 2)
    wrong = lambda value, options, share: np.where(share, value[:, None], other(value, options, rng, most))
    pick = lambda own, value, by, miss: np.where(by[:, None], np.where(target, value[:, None], miss), own)
    shapes = pick(things.shape, shape, by_shape, wrong(shape, _S, shares_shape))
    colors = pick(things.color, color, by_color, wrong(color, _C, shares_color))
    return Crowd(shapes, colors, things.cell, things.here), shape, color


def one(
    number: int, objects: tuple[int, int], by_shape: np.ndarray, by_color: np.ndarray, rng: np.random.Generator
) -> tuple[Crowd, np.ndarray, np.ndarray]:
    """Slot 0 is the only object of its shape, colour or both."""
    drawn = crowd(number, objects, rng)
    return tell_apart(drawn, first(drawn), by_shape, by_color, rng)


def some(
    number: int,
    objects: tuple[int, int],
    by_shape: np.ndarray,
    by_color: np.ndarray,
    most: int,
    rng: np.random.Generator,
) -> tuple[Crowd, np.ndarray, np.ndarray, np.ndarray]:
    """The same with none to ``most`` targets in equal parts; the second value says which slots they are [P, K]."""
    wanted = balanced(number, most + 1, rng)
    drawn = crowd(number, objects, rng, least=wanted)
    target = np.arange(objects[1]) < wanted[:, None]
    things, shape, color = tell_apart(drawn, target, by_shape, by_color, rng)
    return things, target, shape, color


def pair(number: int, objects: tuple[int, int], rng: np.random.Generator, least: int = 2) -> tuple[Crowd, np.ndarray]:
    """Object 0 stands in a relation to object 1, in one row or column; relations [P] in equal parts."""
    things, way = crowd(number, objects, rng, least), balanced(number, _R, rng)
    taken = _PAIRS[way, rng.integers(_PAIRS.shape[1], size=number)]
    return Crowd(things.shape, things.color, seats(taken, objects[1], rng), things.here), way


def first(things: Crowd) -> np.ndarray:
    """Slot 0 alone [P, K]."""
    return np.broadcast_to(np.arange(things.shape.shape[1]) == 0, things.shape.shape)


def _side(way: str, one: int, anchor: int) -> int:
    """How many cells ``one`` lies on that side of ``anchor``."""
    columns, rows = anchor % 3 - one % 3, anchor // 3 - one // 3
    return {"left of": columns, "right of": -columns, "above": rows, "below": -rows}[way]


def _aligned(way: str, one: int, anchor: int) -> bool:
    same = one // 3 == anchor // 3 if way in ("left of", "right of") else one % 3 == anchor % 3
    return same and _side(way, one, anchor) > 0


_PAIRS = np.array([[(a, b) for a in range(9) for b in range(9) if _aligned(way, a, b)] for way in RELATIONS])
"""For each relation all cells (one, other) where it holds within a row or column."""
ELSEWHERE = np.array([[[_side(way, a, b) <= 0 for a in range(9)] for b in range(9)] for way in RELATIONS])
"""[relations, anchor's cell, cell]: the cells that do not lie on that side of the anchor."""
