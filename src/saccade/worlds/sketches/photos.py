"""Rendered photos of objects: filled parts, lit from one side and textured, in front of an uneven background."""

from __future__ import annotations

import numpy as np

from saccade.worlds.sketches.objects import KINDS, Objects


def render_photos(objects: Objects, size: int, rng: np.random.Generator) -> np.ndarray:
    """One photo of each object, uint8 ``[N, size, size, 3]``, with random light, texture and background."""
    count = len(objects)
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = axis[None, None, :], axis[None, :, None]
    canvas = _background(x, y, count, rng)
    light_N = rng.uniform(0, 2 * np.pi, count)
    phase_N = rng.uniform(0, 2 * np.pi, (count, 3))
    for part in range(objects.kind_NP.shape[1]):
        for kind in range(len(KINDS)):
            rows = np.flatnonzero(objects.kind_NP[:, part] == kind)
            if len(rows):
                u, v, scale = to_local(objects.shape_NPF[rows, part], x, y)
                alpha = np.clip(0.5 - signed_distance(kind, u, v) * scale * size, 0, 1)
                paint = _paint(objects.hue_NP[rows, part], u, v, light_N[rows], phase_N[rows])
                canvas[rows] += alpha[..., None] * (paint - canvas[rows])
    canvas += 0.02 * rng.standard_normal(canvas.shape, dtype=np.float32)
    return np.rint(canvas.clip(0, 1) * 255).astype(np.uint8)


def to_local(shape_NF: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Canvas coordinates in the frame of a part, whose outline is near 1, and its smaller half side ``[N, 1, 1]``."""
    cx, cy, w, h, angle = (column[:, None, None].astype(np.float32) for column in shape_NF.T)
    dx, dy = x - cx, y - cy
    cos, sin = np.cos(angle), np.sin(angle)
    return (cos * dx + sin * dy) / w, (cos * dy - sin * dx) / h, np.minimum(w, h)


def signed_distance(kind: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Negative inside a part; near its outline the distance from it, in half sides."""
    match KINDS[kind]:
        case "ellipse":
            return np.sqrt(u * u + v * v) - 1
        case "box":
            return np.maximum(np.abs(u), np.abs(v)) - 1
        case "arc":
            return np.maximum(np.abs(np.sqrt(u * u + v * v) - 0.75) - 0.25, v)
        case _:
            return np.maximum(v - 1, (2 * np.abs(u) - v - 1) / np.float32(np.sqrt(5)))


def _paint(hue_N: np.ndarray, u: np.ndarray, v: np.ndarray, light_N: np.ndarray, phase_N: np.ndarray) -> np.ndarray:
    """Colours ``[N, H, W, 3]``: a hue, brighter towards the light, with faint stripes."""
    colour = 0.55 + 0.35 * np.cos(2 * np.pi * (hue_N[:, None] + np.array([0, 1 / 3, 2 / 3])))
    side = lambda angle_N: np.cos(angle_N)[:, None, None] * u + np.sin(angle_N)[:, None, None] * v
    shade = 0.85 + 0.2 * np.tanh(side(light_N)) + 0.06 * np.sin(7 * side(phase_N[:, 0]) + phase_N[:, 1, None, None])
    return (colour[:, None, None] * shade[..., None]).astype(np.float32)


def _background(x: np.ndarray, y: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """A light background with a gradient of brightness ``[N, H, W, 3]``."""
    tint = rng.uniform(0.75, 0.98, (count, 1, 1, 3))
    slope = rng.uniform(-0.15, 0.15, (2, count, 1, 1, 1))
    return (tint + slope[0] * (x[..., None] - 0.5) + slope[1] * (y[..., None] - 0.5)).astype(np.float32)
