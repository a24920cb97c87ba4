"""Synthetic human sketches of objects: wobbly outlines, with omitted parts and different levels of abstraction."""

from __future__ import annotations

import numpy as np

from saccade.worlds.sketches.objects import KINDS, Objects
from saccade.worlds.sketches.strokes import Sketch, simplify_sketches

POINTS = 33
"""Points of an outline before simplification; the last one is the first one."""
_TOLERANCE = (0.003, 0.05)
"""Simplification tolerance of the least and of the most abstract sketch."""
_OMITTED = (0.05, 0.85)
"""Probability that the least and the most abstract sketch omits a detail; limbs always have the first one."""


def draw_objects(objects: Objects, rng: np.random.Generator) -> list[Sketch]:
    """One sketch of each object; a random level of abstraction decides its number of strokes and points."""
    abstraction_N = rng.random(len(objects))
    interpolate = lambda ends: ends[0] + (ends[1] - ends[0]) * abstraction_N
    outline_NPL2 = outlines(objects) + _wobble(objects.kind_NP.shape, rng)
    outline_NPL2 = _displace(outline_NPL2, rng)
    omitted_NP = np.where(objects.detail_NP, interpolate(_OMITTED)[:, None], _OMITTED[0])
    drawn_NP = (objects.kind_NP >= 0) & (rng.random(objects.kind_NP.shape) >= omitted_NP)
    drawn_NP[:, 0] = True
    complete = [Sketch(tuple(outline[drawn].astype(np.float32))) for outline, drawn in zip(outline_NPL2, drawn_NP)]
    return simplify_sketches(complete, np.exp(interpolate(np.log(_TOLERANCE))))


def outlines(objects: Objects) -> np.ndarray:
    """The exact outlines of all parts ``[N, P, POINTS, 2]``."""
    unit = np.stack([_unit_outline(kind) for kind in KINDS])[objects.kind_NP]
    scaled = unit * objects.shape_NPF[:, :, None, 2:4]
    angle = objects.shape_NPF[:, :, None, 4]
    u, v = scaled[..., 0], scaled[..., 1]
    rotated = np.stack([np.cos(angle) * u - np.sin(angle) * v, np.sin(angle) * u + np.cos(angle) * v], -1)
    return rotated + objects.shape_NPF[:, :, None, :2]


def _unit_outline(kind: str) -> np.ndarray:
    """Points along the outline of a part whose half sides are 1: ``[POINTS, 2]``."""
    turn = np.linspace(0, 2 * np.pi, POINTS)
    if kind == "ellipse":
        return np.stack([np.cos(turn), np.sin(turn)], -1)
    if kind == "arc":
        half = np.linspace(np.pi, 2 * np.pi, POINTS // 2)
        sides = [radius * np.stack([np.cos(t), np.sin(t)], -1) for radius, t in ((1.0, half), (0.5, half[::-1]))]
        return np.concatenate([*sides, sides[0][:1]])
    corners = {"box": [(-1, -1), (1, -1), (1, 1), (-1, 1)], "triangle": [(0, -1), (1, 1), (-1, 1)]}[kind]
    closed = np.array([*corners, corners[0]], float)
    position = np.linspace(0, len(corners), POINTS)
    return np.stack([np.interp(position, np.arange(len(closed)), closed[:, axis]) for axis in (0, 1)], -1)


def _wobble(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Hand tremor: low-frequency waves along each outline and a small offset of the outline, ``[N, P, POINTS, 2]``."""
    turn = np.linspace(0, 2 * np.pi, POINTS)
    waves = np.stack([f(k * turn) for k in (1, 2, 3, 5) for f in (np.cos, np.sin)])
    weight = rng.normal(0, 0.004, (*shape, 2, len(waves)))
    return np.einsum("npcw,wl->nplc", weight, waves) + rng.normal(0, 0.008, (*shape, 1, 2))


def _displace(outline_NPL2: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shift and scale each sketch slightly relative to the photo."""
    count = len(outline_NPL2)
    scale = np.exp(rng.normal(0, 0.05, (count, 1, 1, 2)))
    return ((outline_NPL2 - 0.5) * scale + 0.5 + rng.normal(0, 0.02, (count, 1, 1, 2))).clip(0.01, 0.99)
