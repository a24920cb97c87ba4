"""Parts of edited scenes: things and their names, meanings that captions express, and where things stand.

One or two things stand two steps of the grid apart, which leaves room for things of any size; more things are tiny.
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
"""Largest shift of a thing from its point, in sides of the picture."""
_TILT = 0.2
"""Largest rotation of a thing in radians."""


def choose(options: Sequence[Any], rng: np.random.Generator) -> Any:
    """A random option; takes exactly one random number, whatever the options."""
    return options[int(rng.random() * len(options))]


def thing_name(thing: Thing) -> str:
    """Colour and shape, as in "red ring"."""
    return f"{thing[1]} {thing[0]}"


def with_article(thing: Thing) -> str:
    """The name with its article, as in "a red ring" and "an orange star"."""
    return f"{'an' if thing[1][0] in 'aeiou' else 'a'} {thing_name(thing)}"


def attribute_meaning(things: Sequence[Thing]) -> Meaning:
    """The meaning that there is this thing, or these two different ones."""
    include = [{"class": shape, "count": 1, "color": color} for shape, color in things]
    return {"tag": "colors" if len(things) == 1 else "color_attr", "include": include}


def counting_meaning(thing: Thing, number: int) -> Meaning:
    """The meaning that there are ``number`` equal things."""
    shape, color = thing
    include = [{"class": shape, "count": number, "color": color}]
    return {"tag": "colors" if number == 1 else "counting", "include": include}


def relation_meaning(things: Sequence[Thing], relation: str) -> Meaning:
    """The meaning that the first thing is in a relation to the second; captions of relations name no colours."""
    moved, anchor = ({"class": shape, "count": 1} for shape, _ in things)
    return {"tag": "position", "include": [anchor, moved | {"position": [relation, 0]}]}


def two_things(rng: np.random.Generator) -> list[Thing]:
    """Two things of different shape and different colour."""
    shapes, colors = (np.argsort(rng.random(len(known)))[:2] for known in (SHAPES, COLORS))
    return [(SHAPES[s], tuple(COLORS)[c]) for s, c in zip(shapes, colors)]


def one_or_two_things(rng: np.random.Generator) -> tuple[list[Thing], Scene]:
    """One thing in any cell, or two, and their scene; the first thing is the one to be edited."""
    things = two_things(rng)[: 1 + int(rng.random() < 0.5)]
    cells = distant_cells(rng) if len(things) == 2 else [int(rng.random() * len(CELLS))]
    return things, place_things(things, cells, rng)


def distant_cells(rng: np.random.Generator) -> tuple[int, int]:
    """Two cells with room for two things of any size."""
    return choose(_PAIRS, rng)


def place_things(
    things: Sequence[Thing], cells: Sequence[int], rng: np.random.Generator, crowded: bool = False
) -> Scene:
    """A scene of equally large things near the points of their cells, slightly rotated; tiny if ``crowded``."""
    radius = SIZES["tiny"] if crowded else choose((SIZES["small"], SIZES["large"]), rng)
    jitter = rng.uniform(-1, 1, (len(things), 3)) * (_JITTER, _JITTER, _TILT)
    points = np.array([cell_point(cell, CROWD if crowded else GRID) for cell in cells])
    places = np.column_stack([points + jitter[:, :2], np.full(len(things), radius), jitter[:, 2]]).tolist()
    return Scene(tuple(Object(*thing, *place) for thing, place in zip(things, places)))


def upright_object(thing: Thing, cell: int, radius: float, crowded: bool = False) -> Object:
    """A thing exactly on the point of a cell, not rotated."""
    return Object(*thing, *cell_point(cell, CROWD if crowded else GRID), radius)


def with_first(scene: Scene, first: Object) -> Scene:
    """The scene with its first object replaced."""
    return Scene((first, *scene.objects[1:]))


def cell_point(cell: int, grid: np.ndarray) -> tuple[float, float]:
    """x and y of the point of a cell."""
    return float(grid[cell % 3]), float(grid[cell // 3])


def _steps(one: int, other: int) -> tuple[int, int]:
    """Columns and rows from ``other`` to ``one``."""
    return one % 3 - other % 3, one // 3 - other // 3


def _moves() -> list[tuple[int, int, int, str]]:
    """All (start, anchor, goal, relation at the goal) in which that relation does not hold at the start."""
    relation_of = {(-2, 0): "left of", (2, 0): "right of", (0, -2): "above", (0, 2): "below"}
    large_ring = lambda cell: Object("ring", "red", *cell_point(cell, GRID), SIZES["large"])
    aligned = [
        (goal, anchor, relation_of[_steps(goal, anchor)])
        for goal, anchor in _PAIRS
        if _steps(goal, anchor) in relation_of
    ]
    return [
        (start, anchor, goal, relation)
        for goal, anchor, relation in aligned
        for start, other in _PAIRS
        if other == anchor and relation not in relations(large_ring(start), large_ring(anchor))
    ]


_PAIRS = [(a, b) for a in range(9) for b in range(9) if max(map(abs, _steps(a, b))) == 2]
"""Pairs of cells with room for two things of any size."""
MOVES = _moves()
"""Start, anchor and goal cell of each possible move, and the relation to the anchor that it creates."""
