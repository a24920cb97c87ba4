"""Pictures to coloured segments, and every segment to a small patch that does not depend on its place and size.

A pixel is explained as a mixture, v = a (paint - background): the paint that leaves the least rest names it, and a is
the share of the pixel that is painted, so soft and blurred edges count for what they cover. Connected pixels of one
paint are a segment; its patch is read around its centroid in units of its radius of gyration.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from torch import Tensor

from saccade.worlds.shapes.meanings import COLORS
from saccade.worlds.shapes.scene import BACKGROUND, INK

PAINTS = (*COLORS, *INK)
PATCH = 16
"""Side of a patch in samples."""
_REACH = 2.3
"""Half the side of a patch in radii of gyration."""
_SOLID = 0.42
"""Least share of paint of a pixel that belongs to a segment."""
_LEAST = 6.5 / 32**2
"""Least area of a segment as a share of the picture; the smallest object of the world has three times as much."""
_LEAST_INK = 3.5 / 32**2
"""The same for ink: an I of four letters is a thin bar."""
_FAINT = 40.0
"""Cost of explaining a pixel with little paint, in units of colour: keeps pale paints apart from thin strong ones."""

_CHUNK = 1 << 19
"""Numbers of a picture batch that are worked on at a time, so that they stay in the cache."""
_SEEN = 12.0
"""Least distance from the background of a pixel that is looked at."""


@dataclass(frozen=True)
class Segments:
    """N segments of B pictures: ``row`` and ``paint`` (an index into PAINTS) [N], ``x``, ``y``, ``mass`` in unit
    coordinates [N], ``spread`` (radius of gyration in pixels) [N], ``patch`` unit vectors [N, PATCH * PATCH].
    """

    row: np.ndarray
    paint: np.ndarray
    x: np.ndarray
    y: np.ndarray
    mass: np.ndarray
    spread: np.ndarray
    patch: np.ndarray


def pixels(images: np.ndarray | Tensor) -> np.ndarray:
    """uint8 [B, H, W, 3] or float [B, 3, H, W] in [0, 1] -> float32 [B, H, W, 3] in 0..255. ValueError otherwise."""
    array = images.detach().cpu().float().numpy() if _is_float(images) else np.asarray(images)
    if array.ndim == 4 and array.dtype == np.uint8 and array.shape[3] == 3:
        return array.astype(np.float32)
    if array.ndim == 4 and array.dtype.kind == "f" and array.shape[1] == 3:
        return np.ascontiguousarray(array.transpose(0, 2, 3, 1), np.float32) * 255
    raise ValueError(f"pictures {array.dtype} {list(array.shape)} must be uint8 [B, H, W, 3] or float [B, 3, H, W]")


def segment(rgb: np.ndarray) -> Segments:
    """The segments of pictures float32 [B, H, W, 3] in 0..255; pictures with a NaN have none."""
    chunk = max(1, _CHUNK // max(1, rgb[0].size if len(rgb) else 1))
    pieces = [_segment(rgb[i : i + chunk]) for i in range(0, max(1, len(rgb)), chunk)]
    joined = {name: np.concatenate([getattr(p, name) for p in pieces]) for name in Segments.__dataclass_fields__}
    starts = np.repeat(np.arange(len(pieces)) * chunk, [len(p.row) for p in pieces])
    return Segments(**{**joined, "row": joined["row"] + starts})


def _segment(rgb: np.ndarray) -> Segments:
    rgb = np.where(np.isfinite(rgb).all((1, 2, 3), keepdims=True), rgb, np.float32(BACKGROUND))
    paint, share = _unmix(rgb)
    return _describe(_connect(paint, share > _SOLID), paint, share)


def _unmix(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The paint of each pixel [B, H, W] and the share of each paint there [B, H, W, paints]."""
    v = rgb - np.float32(BACKGROUND)
    painted = (v * v).sum(-1) > _SEEN**2
    v = v[painted]
    share = np.clip(v @ _TOWARDS, 0, 1)
    # |v - a d|^2 less |v|^2, without forming the difference for every paint
    rest = share * share * _LENGTH2 - 2 * share * (v @ _DIRECTION) + _FAINT**2 * (1 - share) ** 2
    paint, shares = np.zeros(rgb.shape[:3], np.int8), np.zeros((*rgb.shape[:3], len(PAINTS)), np.float32)
    paint[painted], shares[painted] = rest.argmin(-1), share
    return paint, shares


_DIRECTION = np.array([np.subtract(c, BACKGROUND) for c in {**COLORS, **INK}.values()], np.float32).T
_LENGTH2 = (_DIRECTION**2).sum(0)
_TOWARDS = _DIRECTION / _LENGTH2


def _connect(paint: np.ndarray, solid: np.ndarray) -> np.ndarray:
    """Segment numbers from 1 [B, H, W], 0 where there is none: touching pixels of one paint, diagonals included."""
    own = np.take_along_axis(solid, paint[..., None].astype(int), -1)[..., 0]
    planes = own[:, None] & (paint[:, None] == np.arange(len(PAINTS))[:, None, None])
    around = np.zeros((3, 3, 3, 3), bool)
    around[1, 1] = True
    number, _ = ndimage.label(planes, around)
    number = number.sum(1)
    area = np.bincount(number.ravel(), minlength=1) / max(number[:1].size, 1)
    inked = np.zeros(len(area), bool)
    inked[number[paint >= len(COLORS)]] = True
    keep = area >= np.where(inked, _LEAST_INK, _LEAST)
    keep[0] = False
    return np.where(keep, np.cumsum(keep), 0)[number]


def _describe(number: np.ndarray, paint: np.ndarray, share: np.ndarray) -> Segments:
    height, width = number.shape[1:]
    count = int(number.max(initial=0))
    owner = np.where(number > 0, number, ndimage.maximum_filter(number, (1, 3, 3)))
    first = np.unique(number, return_index=True)[1][-count:] if count else np.zeros(0, int)
    kind = paint.reshape(-1)[first]
    row, y, x = np.nonzero(owner)
    index = owner[row, y, x] - 1
    weight = share[row, y, x, kind[index]]
    total = lambda value: np.bincount(index, weight * value, count)
    mass = total(1.0)
    cx, cy = total(x) / mass, total(y) / mass
    spread = np.sqrt(total((x - cx[index]) ** 2 + (y - cy[index]) ** 2) / mass + 1e-6)
    soft = np.zeros(number.shape, np.float32)
    soft[row, y, x] = weight
    patch = _patches(soft, owner, first // (height * width), cx, cy, spread)
    unit = lambda value, side: (value + 0.5) / side
    return Segments(
        first // (height * width), kind, unit(cx, width), unit(cy, height), mass / (height * width), spread, patch
    )


def _patches(
    soft: np.ndarray, owner: np.ndarray, row: np.ndarray, cx: np.ndarray, cy: np.ndarray, spread: np.ndarray
) -> np.ndarray:
    """Each segment's paint, read bilinearly on a grid around its centroid: unit vectors [N, PATCH * PATCH]."""
    height, width = soft.shape[1:]
    steps = (np.arange(PATCH) - (PATCH - 1) / 2) / (PATCH / 2) * _REACH
    x = np.clip(cx[:, None] + spread[:, None] * steps, 0, width - 1.001)
    y = np.clip(cy[:, None] + spread[:, None] * steps, 0, height - 1.001)
    x0, y0 = x.astype(int), y.astype(int)
    fx, fy = (x - x0)[:, None, :], (y - y0)[:, :, None]
    mine = np.arange(1, len(row) + 1)[:, None, None]

    def at(dy: int, dx: int) -> np.ndarray:
        place = (row[:, None, None] * height + (y0 + dy)[:, :, None]) * width + (x0 + dx)[:, None, :]
        return soft.reshape(-1)[place] * (owner.reshape(-1)[place] == mine)

    read = (1 - fy) * ((1 - fx) * at(0, 0) + fx * at(0, 1)) + fy * ((1 - fx) * at(1, 0) + fx * at(1, 1))
    flat = read.reshape(len(row), PATCH * PATCH).astype(np.float32)
    return flat / (np.linalg.norm(flat, axis=1, keepdims=True) + 1e-9)


def _is_float(images: np.ndarray | Tensor) -> bool:
    return isinstance(images, Tensor) and images.is_floating_point()
