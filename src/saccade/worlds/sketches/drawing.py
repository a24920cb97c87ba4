"""Objects as people would sketch them: outlines by an unsteady hand, some left out, some with very few points."""

from __future__ import annotations

import numpy as np

from saccade.worlds.sketches.objects import KINDS, Objects
from saccade.worlds.sketches.strokes import Sketch, shortened

POINTS = 33
"""Points of an outline before it is simplified; the last is the first."""
_TOLERANCE = (0.003, 0.05)
"""Of simplification: the least abstract sketch's and the most abstract one's."""
_LEFT_OUT = (0.05, 0.85)
"""Share of details that such sketches leave out; of other parts it is always the first, and the body is always
drawn.
"""


def sketches(objects: Objects, rng: np.random.Generator) -> list[Sketch]:
    """One sketch of each object; how abstract it is shows in nothing but its strokes and their points."""
    abstract_N = rng.random(len(objects))
    between = lambda ends: ends[0] + (ends[1] - ends[0]) * abstract_N
    outline_NPL2 = placed(objects) + _wobble(objects.kind_NP.shape, rng)
    outline_NPL2 = _moved(outline_NPL2, rng)
    left_out_NP = np.where(objects.detail_NP, between(_LEFT_OUT)[:, None], _LEFT_OUT[0])
    drawn_NP = (objects.kind_NP >= 0) & (rng.random(objects.kind_NP.shape) >= left_out_NP)
    drawn_NP[:, 0] = True
    whole = [Sketch(tuple(outline[drawn].astype(np.float32))) for outline, drawn in zip(outline_NPL2, drawn_NP)]
    return shortened(whole, np.exp(between(np.log(_TOLERANCE))))


def placed(objects: Objects) -> np.ndarray:
    """The exact outlines of all parts ``[N, P, POINTS, 2]``."""
    rims = np.stack([_rim(kind) for kind in KINDS])[objects.kind_NP]
    scaled = rims * objects.place_NPF[:, :, None, 2:4]
    angle = objects.place_NPF[:, :, None, 4]
    u, v = scaled[..., 0], scaled[..., 1]
    turned = np.stack([np.cos(angle) * u - np.sin(angle) * v, np.sin(angle) * u + np.cos(angle) * v], -1)
    return turned + objects.place_NPF[:, :, None, :2]


def _rim(kind: str) -> np.ndarray:
    """Points along the rim of a part of half sides 1 ``[POINTS, 2]``."""
    turn = np.linspace(0, 2 * np.pi, POINTS)
    if kind == "ellipse":
        return np.stack([np.cos(turn), np.sin(turn)], -1)
    if kind == "arc":
        there = np.linspace(np.pi, 2 * np.pi, POINTS // 2)
        rim = [radius * np.stack([np.cos(t), np.sin(t)], -1) for radius, t in ((1.0, there), (0.5, there[::-1]))]
        return np.concatenate([*rim, rim[0][:1]])
    corners = {"box": [(-1, -1), (1, -1), (1, 1), (-1, 1)], "triangle": [(0, -1), (1, 1), (-1, 1)]}[kind]
    closed = np.array([*corners, corners[0]], float)
    place = np.linspace(0, len(corners), POINTS)
    return np.stack([np.interp(place, np.arange(len(closed)), closed[:, axis]) for axis in (0, 1)], -1)


def _wobble(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """An unsteady hand: slow waves along each outline, and the whole of it a little out of place."""
    turn = np.linspace(0, 2 * np.pi, POINTS)
    waves = np.stack([f(k * turn) for k in (1, 2, 3, 5) for f in (np.cos, np.sin)])
    weight = rng.normal(0, 0.004, (*shape, 2, len(waves)))
    return np.einsum("npcw,wl->nplc", weight, waves) + rng.normal(0, 0.008, (*shape, 1, 2))


def _moved(outline_NPL2: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each sketch a little aside, larger or smaller than the photo."""
    count = len(outline_NPL2)
    scale = np.exp(rng.normal(0, 0.05, (count, 1, 1, 2)))
    return ((outline_NPL2 - 0.5) * scale + 0.5 + rng.normal(0, 0.02, (count, 1, 1, 2))).clip(0.01, 0.99)
