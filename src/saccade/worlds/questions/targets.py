"""Scenes with an unambiguous answer: targets that no other object matches, pairs in an unambiguous relation."""

from __future__ import annotations

import numpy as np

from saccade.worlds.questions.layouts import COLOR_NAMES, SceneBatch, different_values, fill_cells, sample_scenes
from saccade.worlds.shapes import RELATIONS, SHAPES
from saccade.worlds.splits import balanced

_C, _S, _R = len(COLOR_NAMES), len(SHAPES), len(RELATIONS)


def with_targets(
    scenes: SceneBatch, target: np.ndarray, by_shape: np.ndarray, by_color: np.ndarray, rng: np.random.Generator
) -> tuple[SceneBatch, np.ndarray, np.ndarray]:
    """Give the targets ``[P, K]`` one shape, color or both that no other object of their scene has.

    Where both count, other objects share one of the two at random. Returns the scenes, the shapes ``[P]`` and the
    colors ``[P]``.
    """
    number, most = target.shape
    shape, color = rng.integers(_S, size=number), rng.integers(_C, size=number)
    shared = rng.integers(3, size=target.shape)
    both = (by_shape & by_color)[:, None]
    same_shape, same_color = both & (shared == 1), both & (shared == 2)
    distract = lambda value, options, same: np.where(same, value[:, None], different_values(value, options, rng, most))
    choose = lambda old, value, by, distractor: np.where(by[:, None], np.where(target, value[:, None], distractor), old)
    shapes = choose(scenes.shape, shape, by_shape, distract(shape, _S, same_shape))
    colors = choose(scenes.color, color, by_color, distract(color, _C, same_color))
    return SceneBatch(shapes, colors, scenes.cell, scenes.present), shape, color


def unique_target(
    number: int, objects: tuple[int, int], by_shape: np.ndarray, by_color: np.ndarray, rng: np.random.Generator
) -> tuple[SceneBatch, np.ndarray, np.ndarray]:
    """Scenes in which slot 0 is the only object of its shape, color or both."""
    scenes = sample_scenes(number, objects, rng)
    return with_targets(scenes, first_slot(scenes), by_shape, by_color, rng)


def counted_targets(
    number: int,
    objects: tuple[int, int],
    by_shape: np.ndarray,
    by_color: np.ndarray,
    most: int,
    rng: np.random.Generator,
) -> tuple[SceneBatch, np.ndarray, np.ndarray, np.ndarray]:
    """Scenes with 0 to ``most`` targets in equal parts: scenes, targets ``[P, K]``, shapes ``[P]``, colors ``[P]``."""
    targets = balanced(number, most + 1, rng)
    scenes = sample_scenes(number, objects, rng, at_least=targets)
    target = np.arange(objects[1]) < targets[:, None]
    scenes, shape, color = with_targets(scenes, target, by_shape, by_color, rng)
    return scenes, target, shape, color


def related_pair(
    number: int, objects: tuple[int, int], rng: np.random.Generator, at_least: int = 2
) -> tuple[SceneBatch, np.ndarray]:
    """Scenes in which object 0 has a relation to object 1, in one row or column, and the relations ``[P]``."""
    scenes, relation = sample_scenes(number, objects, rng, at_least), balanced(number, _R, rng)
    taken = _PAIRS[relation, rng.integers(_PAIRS.shape[1], size=number)]
    return SceneBatch(scenes.shape, scenes.color, fill_cells(taken, objects[1], rng), scenes.present), relation


def first_slot(scenes: SceneBatch) -> np.ndarray:
    """True in slot 0 alone: bool ``[P, K]``."""
    return np.broadcast_to(np.arange(scenes.shape.shape[1]) == 0, scenes.shape.shape)


def _distance(relation: str, one: int, anchor: int) -> int:
    """Number of cells by which ``one`` lies on the relation's side of ``anchor``."""
    columns, rows = anchor % 3 - one % 3, anchor // 3 - one // 3
    return {"left of": columns, "right of": -columns, "above": rows, "below": -rows}[relation]


def _aligned(relation: str, one: int, anchor: int) -> bool:
    same = one // 3 == anchor // 3 if relation in ("left of", "right of") else one % 3 == anchor % 3
    return same and _distance(relation, one, anchor) > 0


_PAIRS = np.array([[(a, b) for a in range(9) for b in range(9) if _aligned(r, a, b)] for r in RELATIONS])
"""For each relation all cells (one, other) where it holds within a row or column."""
OFF_SIDE = np.array([[[_distance(r, a, b) <= 0 for a in range(9)] for b in range(9)] for r in RELATIONS])
"""Whether a cell does not lie on the relation's side of the anchor: ``[relations, anchor's cell, cell]``."""
