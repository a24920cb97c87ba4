"""Corrupted scenes and degraded pictures, so that a reward model is trained on wrong pictures too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from saccade.worlds.shapes.meanings import COLORS, SHAPES
from saccade.worlds.shapes.scene import Object, Scene


def corrupt_scenes(scenes: Sequence[Scene], rng: np.random.Generator) -> list[Scene]:
    """Each scene with one object changed: its shape, its colour or its place is new, or it is removed or added."""
    return [Scene(_corrupted(scene.objects, rng), scene.text) if scene.objects else scene for scene in scenes]


def degrade_pictures(pictures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pictures uint8 ``[B, H, W, 3]``, blurred, noisy or blended with another, like those of an uncertain model."""
    from scipy.ndimage import gaussian_filter

    kind = rng.integers(3, size=len(pictures))
    out = pictures.astype(np.float32)
    for sigma in (0.8, 1.3):
        rows = (kind == 0) & (rng.random(len(pictures)) < 0.5)
        out[rows] = gaussian_filter(out[rows], (0, sigma, sigma, 0))
    noise = rng.normal(0, rng.uniform(5, 40, (len(pictures), 1, 1, 1)), out.shape)
    out = np.where((kind == 1)[:, None, None, None], out + noise, out)
    share = np.where(kind == 2, rng.uniform(0.2, 0.6, len(pictures)), 0)[:, None, None, None]
    out = (1 - share) * out + share * pictures[rng.permutation(len(pictures))]
    return np.rint(np.clip(out, 0, 255)).astype(np.uint8)


def _corrupted(objects: tuple[Object, ...], rng: np.random.Generator) -> tuple[Object, ...]:
    at = int(rng.integers(len(objects)))
    thing, others = objects[at], objects[:at] + objects[at + 1 :]
    x, y = rng.uniform(0.2, 0.8, 2).tolist()
    match int(rng.integers(5)):
        case 0:
            return (*others, replace(thing, shape=str(rng.choice(SHAPES))))
        case 1:
            return (*others, replace(thing, color=str(rng.choice(list(COLORS)))))
        case 2:
            return (*others, replace(thing, x=x, y=y))
        case 3:
            return others
    return (*objects, replace(thing, shape=str(rng.choice(SHAPES)), color=str(rng.choice(list(COLORS))), x=x, y=y))
