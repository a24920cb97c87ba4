"""Random scenes of primitives on integer coordinates 0 to 31, painted in order, some of them fully covered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saccade.worlds.programs.primitives import SIDE, Primitive, Shapes, dilate, masks, random_shapes, random_shapes_in

_MIN_VISIBLE = 14
"""Smallest number of pixels of a primitive that later ones leave visible."""
_HIDDEN_SIDES = (2, 6)
"""Smallest and largest side of a hidden primitive's bounding box."""
_MAX_HIDDEN = 2
_ROUNDS = 60
"""Rounds of resampling primitives that break the rules."""
_HIDING_ROUNDS = 16
"""Rounds of sampling hidden primitives."""


@dataclass(frozen=True)
class Scene:
    """Primitives in the order of painting; those at ``hidden`` are covered by later ones and change no pixel."""

    painted: tuple[Primitive, ...]
    hidden: tuple[int, ...] = ()

    @property
    def visible(self) -> tuple[Primitive, ...]:
        """The visible primitives, in the order of painting."""
        return tuple(one for i, one in enumerate(self.painted) if i not in self.hidden)


def sample_scenes(count: int, rng: np.random.Generator, primitives: tuple[int, int] = (2, 5)) -> list[Scene]:
    """About ``count`` random scenes with (least, most) visible ``primitives`` and 0 to 2 hidden ones.

    Every visible primitive shows at least 14 of 1024 pixels, and touching ones differ in color. The few scenes that
    break these rules after all rounds are left out. ValueError unless 1 <= least <= most <= 8.
    """
    least, most = primitives
    if not 1 <= least <= most <= 8:
        raise ValueError(f"primitives are {primitives}; least and most must be 1 to 8, in that order")
    active = np.arange(most) < rng.integers(least, most + 1, count)[:, None]
    shapes, valid = _resampled(random_shapes(rng, active.shape), active, rng)
    cover = masks(shapes.rows(valid)) & active[valid, :, None, None]
    hidden = _hidden(cover, active[valid], rng)
    return [_scene(shapes, row, active[row], hidden[i], rng) for i, row in enumerate(valid)]


def _resampled(shapes: Shapes, active: np.ndarray, rng: np.random.Generator) -> tuple[Shapes, np.ndarray]:
    """The shapes with invalid ones sampled again, and the scenes in which all are valid in the end."""
    rows = np.arange(len(active))
    for _ in range(_ROUNDS):
        current = shapes.rows(rows)
        invalid = active[rows] & _invalid(masks(current) & active[rows, :, None, None], current.color)
        remaining = invalid.any(1)
        rows, invalid = rows[remaining], invalid[remaining]
        if not len(rows):
            break
        row, slot = np.nonzero(invalid)
        shapes.put(rows[row], slot, random_shapes(rng, (len(row), 1)))
    return shapes, np.setdiff1d(np.arange(len(active)), rows)


def _invalid(cover: np.ndarray, color: np.ndarray) -> np.ndarray:
    """Which primitives ``[N, K]`` show too few pixels, or touch an earlier one of their color."""
    from_above = np.logical_or.accumulate(cover[:, ::-1], 1)[:, ::-1]
    later = np.concatenate([from_above[:, 1:], np.zeros_like(cover[:, :1])], 1)
    visible = (cover & ~later).sum((2, 3))
    flat = lambda x: x.reshape(*x.shape[:2], -1).astype(np.float32)
    touching = flat(dilate(cover)) @ flat(cover).transpose(0, 2, 1) > 0
    same_color = touching & (color[:, :, None] == color[:, None, :])
    return (visible < _MIN_VISIBLE) | np.tril(same_color, -1).any(2)


def _hidden(cover: np.ndarray, active: np.ndarray, rng: np.random.Generator) -> list[list[tuple[Primitive, int]]]:
    """The hidden primitives of each scene, each with the slot of the primitive that covers it."""
    inner = np.zeros_like(cover)  # pixels that a convex shape covers completely
    inner[..., 1:-1, 1:-1] = ~dilate(~cover)[..., 1:-1, 1:-1]
    wanted = rng.integers(0, _MAX_HIDDEN + 1, len(cover))
    found: list[list[tuple[Primitive, int]]] = [[] for _ in cover]
    rows, grid = np.arange(len(cover)), np.arange(SIDE)
    for _ in range(_HIDING_ROUNDS):
        slot = (rng.random(active.shape) * active).argmax(1)
        under = inner[rows, slot]
        place = (rng.random((len(cover), SIDE * SIDE)) * under.reshape(len(cover), -1)).argmax(1)
        box = rng.integers(_HIDDEN_SIDES[0], _HIDDEN_SIDES[1] + 1, (2, len(cover)))
        corner = np.clip(np.stack([place % SIDE, place // SIDE]) - box // 2, 0, SIDE - 1 - box)
        x_in, y_in = ((grid >= low[:, None]) & (grid < (low + side)[:, None]) for low, side in zip(corner, box))
        fits = ~(y_in[:, :, None] & x_in[:, None, :] & ~under).any((1, 2))
        shapes = random_shapes_in(corner[..., None], box[..., None], rng)
        for row in np.flatnonzero(fits).tolist():
            if len(found[row]) < wanted[row]:
                found[row].append((shapes.primitive(row, 0), int(slot[row])))
    return found


def _scene(
    shapes: Shapes, row: int, active: np.ndarray, hidden: list[tuple[Primitive, int]], rng: np.random.Generator
) -> Scene:
    """The primitives in order, each hidden one at a random place before the one that covers it."""
    order: list[tuple[Primitive, int | None]] = [
        (shapes.primitive(row, slot), slot) for slot in np.flatnonzero(active).tolist()
    ]
    for primitive, cover in hidden:
        at = next(i for i, (_, slot) in enumerate(order) if slot == cover)
        order.insert(int(rng.integers(0, at + 1)), (primitive, None))
    return Scene(tuple(one for one, _ in order), tuple(i for i, (_, slot) in enumerate(order) if slot is None))
