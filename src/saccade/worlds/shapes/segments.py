"""Segmentation of pictures by colour, and a small patch of each segment that is invariant to position and size.

A pixel is modelled as a mixture, v = a (paint - background): its paint is the one with the least residual, and a is the
painted share of the pixel, so that soft and blurred edges count by their coverage. Connected pixels of one paint are a
segment; its patch is sampled around its centroid in units of its radius of gyration. Segments that touch are also
described as one, for a generated shape may be drawn in two paints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from torch import Tensor

from saccade.worlds.shapes.meanings import COLORS
from saccade.worlds.shapes.scene import BACKGROUND, INK

PAINTS = (*COLORS, *INK)
PATCH = 16
"""Side of a patch in samples."""
_HALF_SIDE = 2.3
"""Half the side of a patch in radii of gyration."""
_MIN_SHARE = 0.42
"""Least painted share of a pixel that belongs to a segment."""
_MIN_AREA = 6.5 / 32**2
"""Least area of a segment as a share of the picture; the smallest object of the world has three times as much."""
_MIN_INK_AREA = 3.5 / 32**2
"""Least area of a segment of ink as a share of the picture: the letter I in a word of four letters is a thin bar."""
_FAINT = 40.0
"""Cost of explaining a pixel with little paint, in units of colour: separates pale paints from thin strong ones."""

_CHUNK = 1 << 19
"""Values of a picture batch that are processed at a time, so that they stay in the cache."""
_MIN_CONTRAST = 12.0
"""Least distance from the background, in units of colour, of a pixel that is painted."""


@dataclass(frozen=True)
class Segments:
    """N segments of B pictures."""

    row: np.ndarray
    """Number of the picture ``[N]``."""
    paint: np.ndarray
    """Index of the paint in PAINTS ``[N]``."""
    x: np.ndarray
    """Column of the centroid in unit coordinates ``[N]``."""
    y: np.ndarray
    """Row of the centroid in unit coordinates ``[N]``."""
    mass: np.ndarray
    """Painted area as a share of the picture ``[N]``."""
    gyration: np.ndarray
    """Radius of gyration in pixels ``[N]``."""
    patch: np.ndarray
    """Resampled segment as a unit vector ``[N, PATCH * PATCH]``."""
    union: np.ndarray
    """Index of the union of touching segments that the segment is in, -1 where it touches none ``[N]``."""


def pixels(images: np.ndarray | Tensor) -> np.ndarray:
    """Pictures as float32 ``[B, H, W, 3]`` in 0..255.

    ``images`` are uint8 ``[B, H, W, 3]`` or float ``[B, 3, H, W]`` in [0, 1]; ValueError for anything else.
    """
    is_float = isinstance(images, Tensor) and images.is_floating_point()
    array = images.detach().cpu().float().numpy() if is_float else np.asarray(images)
    if array.ndim == 4 and array.dtype == np.uint8 and array.shape[3] == 3:
        return array.astype(np.float32)
    if array.ndim == 4 and array.dtype.kind == "f" and array.shape[1] == 3:
        return np.ascontiguousarray(array.transpose(0, 2, 3, 1), np.float32) * 255
    raise ValueError(f"pictures {array.dtype} {list(array.shape)} must be uint8 [B, H, W, 3] or float [B, 3, H, W]")


def segment(rgb: np.ndarray) -> Segments:
    """The segments of pictures float32 ``[B, H, W, 3]`` in 0..255; pictures with a NaN have none."""
    return segment_with_unions(rgb)[0]


def segment_with_unions(rgb: np.ndarray) -> tuple[Segments, Segments]:
    """`segment`, and the unions of segments that touch; the paint of a union is its color of the largest area."""
    chunk = max(1, _CHUNK // max(1, rgb[0].size if len(rgb) else 1))
    pairs = [_segment(rgb[i : i + chunk]) for i in range(0, max(1, len(rgb)), chunk)]
    before = np.cumsum([0, *(len(unions.row) for _, unions in pairs)])
    segments, unions = ([pair[k] for pair in pairs] for k in (0, 1))
    return _joined(segments, chunk, before), _joined(unions, chunk, before)


def _joined(pieces: list[Segments], chunk: int, unions: np.ndarray) -> Segments:
    """The segments of consecutive chunks of pictures; ``unions`` are counted before each chunk."""
    joined = {name: np.concatenate([getattr(p, name) for p in pieces]) for name in Segments.__dataclass_fields__}
    sizes = [len(p.row) for p in pieces]
    joined["row"] = joined["row"] + np.repeat(np.arange(len(pieces)) * chunk, sizes)
    shift = np.repeat(unions[: len(pieces)], sizes)
    joined["union"] = np.where(joined["union"] < 0, -1, joined["union"] + shift)
    return Segments(**joined)


def _segment(rgb: np.ndarray) -> tuple[Segments, Segments]:
    rgb = np.where(np.isfinite(rgb).all((1, 2, 3), keepdims=True), rgb, _BACKGROUND)
    paint, share = _unmix(rgb)
    own = np.take_along_axis(share, paint[..., None].astype(int), -1)[..., 0]
    number = _connect(paint, share > _MIN_SHARE)
    whole, union = _unite(number)
    segments = _describe(number, paint, lambda place, kind: share[(*place, kind)], union)
    return segments, _describe(whole, paint, lambda place, kind: own[place], np.full(whole.max(initial=0), -1))


def _unite(number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers from 1 of unions of segments that touch ``[B, H, W]``; the union of each segment, from 0, or -1."""
    touching = np.zeros((3, 3, 3), bool)
    touching[1] = True
    whole, count = ndimage.label(number > 0, touching)
    owner = np.zeros(number.max(initial=0) + 1, int)
    owner[number] = whole
    several = np.bincount(owner[1:], minlength=count + 1) > 1
    several[0] = False
    renumbered = np.where(several, np.cumsum(several), 0)
    return renumbered[whole], renumbered[owner[1:]] - 1


def _unmix(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The paint of each pixel ``[B, H, W]`` and the share of each paint there ``[B, H, W, paints]``."""
    v = rgb - _BACKGROUND
    painted = (v * v).sum(-1) > _MIN_CONTRAST**2
    v = v[painted]
    share = np.clip(v @ _PROJECTION, 0, 1)
    # |v - a d|^2 - |v|^2, without computing the difference for every paint
    residual = share * share * _LENGTH2 - 2 * share * (v @ _DIRECTION) + _FAINT**2 * (1 - share) ** 2
    paint, shares = np.zeros(rgb.shape[:3], np.int8), np.zeros((*rgb.shape[:3], len(PAINTS)), np.float32)
    paint[painted], shares[painted] = residual.argmin(-1), share
    return paint, shares


_BACKGROUND = np.array(BACKGROUND, np.float32)
_DIRECTION = np.array([np.subtract(c, BACKGROUND) for c in {**COLORS, **INK}.values()], np.float32).T
_LENGTH2 = (_DIRECTION**2).sum(0)
_PROJECTION = _DIRECTION / _LENGTH2


def _connect(paint: np.ndarray, solid: np.ndarray) -> np.ndarray:
    """Segment numbers from 1 ``[B, H, W]``, 0 outside: connected pixels of one paint, diagonals included."""
    inside = np.take_along_axis(solid, paint[..., None].astype(int), -1)[..., 0]
    planes = inside[:, None] & (paint[:, None] == np.arange(len(PAINTS))[:, None, None])
    neighbours = np.zeros((3, 3, 3, 3), bool)
    neighbours[1, 1] = True
    number, _ = ndimage.label(planes, neighbours)
    number = number.sum(1)
    area = np.bincount(number.ravel(), minlength=1) / max(number[:1].size, 1)
    ink = np.zeros(len(area), bool)
    ink[number[paint >= len(COLORS)]] = True
    keep = area >= np.where(ink, _MIN_INK_AREA, _MIN_AREA)
    keep[0] = False
    return np.where(keep, np.cumsum(keep), 0)[number]


def _describe(number: np.ndarray, paint: np.ndarray, weigh: Callable, union: np.ndarray) -> Segments:
    """Segments by their numbers; ``weigh`` gives the painted share of pixels at (row, y, x) by the segments' paint."""
    height, width = number.shape[1:]
    count = int(number.max(initial=0))
    owner = np.where(number > 0, number, ndimage.maximum_filter(number, (1, 3, 3)))
    first = np.unique(number, return_index=True)[1][-count:] if count else np.zeros(0, int)
    inside = number > 0
    areas = np.bincount((number[inside] - 1) * len(PAINTS) + paint[inside], minlength=count * len(PAINTS))
    areas = areas.reshape(count, len(PAINTS))
    colored = areas[:, : len(COLORS)]
    kind = np.where(colored.any(1), colored.argmax(1), areas.argmax(1))
    row, y, x = np.nonzero(owner)
    index = owner[row, y, x] - 1
    weight = weigh((row, y, x), kind[index])
    total = lambda value: np.bincount(index, weight * value, count)
    mass = total(1.0)
    cx, cy = total(x) / mass, total(y) / mass
    gyration = np.sqrt(total((x - cx[index]) ** 2 + (y - cy[index]) ** 2) / mass + 1e-6)
    soft = np.zeros(number.shape, np.float32)
    soft[row, y, x] = weight
    patch = _patches(soft, owner, first // (height * width), cx, cy, gyration)
    unit = lambda value, side: (value + 0.5) / side
    return Segments(
        row=first // (height * width),
        paint=kind,
        x=unit(cx, width),
        y=unit(cy, height),
        mass=mass / (height * width),
        gyration=gyration,
        patch=patch,
        union=union,
    )


def _patches(
    soft: np.ndarray, owner: np.ndarray, row: np.ndarray, cx: np.ndarray, cy: np.ndarray, gyration: np.ndarray
) -> np.ndarray:
    """Each segment's paint, sampled bilinearly on a grid around its centroid: unit vectors ``[N, PATCH * PATCH]``."""
    height, width = soft.shape[1:]
    steps = (np.arange(PATCH) - (PATCH - 1) / 2) / (PATCH / 2) * _HALF_SIDE
    x = np.clip(cx[:, None] + gyration[:, None] * steps, 0, width - 1.001)
    y = np.clip(cy[:, None] + gyration[:, None] * steps, 0, height - 1.001)
    x0, y0 = x.astype(int), y.astype(int)
    fx, fy = (x - x0)[:, None, :], (y - y0)[:, :, None]
    numbers = np.arange(1, len(row) + 1)[:, None, None]

    def at(dy: int, dx: int) -> np.ndarray:
        place = (row[:, None, None] * height + (y0 + dy)[:, :, None]) * width + (x0 + dx)[:, None, :]
        return soft.reshape(-1)[place] * (owner.reshape(-1)[place] == numbers)

    sampled = (1 - fy) * ((1 - fx) * at(0, 0) + fx * at(0, 1)) + fy * ((1 - fx) * at(1, 0) + fx * at(1, 1))
    flat = sampled.reshape(len(row), PATCH * PATCH).astype(np.float32)
    return flat / (np.linalg.norm(flat, axis=1, keepdims=True) + 1e-9)
