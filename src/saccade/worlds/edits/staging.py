"""What scenes of edits are made of: things and their names, what captions say of them, and where they stand.

One or two things stand two steps of the grid apart, so that there is room for whatever a size allows; more are tiny.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from saccade.worlds.shapes import COLORS, SHAPES, SIZES, Meaning, Object, Scene
from saccade.worlds.shapes.judge import relations
from saccade.worlds.shapes.layout import CROWD, GRID
from saccade.worlds.splits import CELLS

Thing = tuple[str, str]
"""A shape and its colour."""
_JITTER = 0.01
_TILT = 0.2


def pick(options: Sequence[Any], rng: np.random.Generator) -> Any:
    """A random one; it takes exactly one random number, whatever there is to choose from."""
    return options[int(rng.random() * len(options))]


def name(thing: Thing) -> str:
    """red ring"""
    return f"{thing[1]} {thing[0]}"


def article(thing: Thing) -> str:
    """a red ring, an orange star"""
    return f"{'an' if thing[1][0] in 'aeiou' else 'a'} {name(thing)}"


def told(things: Sequence[Thing]) -> Meaning:
    """One thing, or two that differ."""
    include = [{"class": shape, "count": 1, "color": color} for shape, color in things]
    return {"tag": "colors" if len(things) == 1 else "color_attr", "include": include}


def alike(thing: Thing, many: int) -> Meaning:
    """So many of one kind."""
    shape, color = thing
    include = [{"class": shape, "count": many, "color": color}]
    return {"tag": "colors" if many == 1 else "counting", "include": include}


def related(things: Sequence[Thing], relation: str) -> Meaning:
    """The first thing's place, seen from the second; captions of places name no colours."""
    moved, anchor = ({"class": shape, "count": 1} for shape, _ in things)
    return {"tag": "position", "include": [anchor, moved | {"position": [relation, 0]}]}


def pair(rng: np.random.Generator) -> list[Thing]:
    """Two things that differ in shape and in colour."""
    shapes, colors = (np.argsort(rng.random(len(known)))[:2] for known in (SHAPES, COLORS))
    return [(SHAPES[s], tuple(COLORS)[c]) for s, c in zip(shapes, colors)]


def one_or_two(rng: np.random.Generator) -> tuple[list[Thing], Scene]:
    """One thing anywhere, or two; the first is the one to be edited."""
    things = pair(rng)[: 1 + int(rng.random() < 0.5)]
    cells = apart(rng) if len(things) == 2 else [int(rng.random() * len(CELLS))]
    return things, spread(things, cells, rng)


def apart(rng: np.random.Generator) -> tuple[int, int]:
    """Two cells between which there is room for two things of any size."""
    return pick(_PAIRS, rng)


def spread(things: Sequence[Thing], cells: Sequence[int], rng: np.random.Generator, crowded: bool = False) -> Scene:
    """Things of one size near the points of their cells, a little turned; ``crowded`` ones are tiny."""
    radius = SIZES["tiny"] if crowded else pick((SIZES["small"], SIZES["large"]), rng)
    jitter = rng.uniform(-1, 1, (len(things), 3)) * (_JITTER, _JITTER, _TILT)
    points = np.array([point(cell, CROWD if crowded else GRID) for cell in cells])
    places = np.column_stack([points + jitter[:, :2], np.full(len(things), radius), jitter[:, 2]]).tolist()
    return Scene(tuple(Object(*thing, *place) for thing, place in zip(things, places)))


def upright(thing: Thing, cell: int, radius: float, crowded: bool = False) -> Object:
    """A thing exactly on the point of a cell."""
    return Object(*thing, *point(cell, CROWD if crowded else GRID), radius)


def changed(scene: Scene, first: Object) -> Scene:
    """The scene with another first object."""
    return Scene((first, *scene.objects[1:]))


def point(cell: int, grid: np.ndarray) -> tuple[float, float]:
    """Where the point of a cell lies, x and y."""
    return float(grid[cell % 3]), float(grid[cell // 3])


def _steps(one: int, other: int) -> tuple[int, int]:
    """How many columns and rows lie from ``other`` to ``one``."""
    return one % 3 - other % 3, one // 3 - other // 3


def _moves() -> list[tuple[int, int, int, str]]:
    """All (start, anchor, goal, relation at the goal) in which that relation does not hold at the start."""
    ways = {(-2, 0): "left of", (2, 0): "right of", (0, -2): "above", (0, 2): "below"}
    at = lambda cell: Object("ring", "red", *point(cell, GRID), SIZES["large"])
    aligned = [(goal, anchor, ways[_steps(goal, anchor)]) for goal, anchor in _PAIRS if _steps(goal, anchor) in ways]
    return [
        (start, anchor, goal, way) for goal, anchor, way in aligned for start, other in _PAIRS
        if other == anchor and way not in relations(at(start), at(anchor))
    ]  # fmt: skip


_PAIRS = [(a, b) for a in range(9) for b in range(9) if max(map(abs, _steps(a, b))) == 2]
"""Cells between which there is room for two things of any size."""
MOVES = _moves()
