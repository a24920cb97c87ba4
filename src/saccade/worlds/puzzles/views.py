"""Augmented views of a picture: square crops, other sizes, other colors, blur. All pictures are uint8 ``[H, W, 3]``."""

from __future__ import annotations

import numpy as np

_MEAN, _STD = (70, 185), (30, 70)
"""Ranges of the mean and the standard deviation of a channel in a recolored picture, in 0..255."""
_GRAY = 0.2
"""Probability of a gray picture at strength 1."""
_BLUR = 0.3
"""Probability of blur at strength 1."""


def square(picture: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """A square at a random place whose side is at least ``share`` of the shorter side, and at most all of it."""
    height, width = picture.shape[:2]
    side = max(1, round(min(height, width) * rng.uniform(share, 1)))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    return picture[top : top + side, left : left + side]


def resized(picture: np.ndarray, side: int, box: tuple[float, float, float, float] | None = None) -> np.ndarray:
    """The picture, or the part of it in ``box`` (x1, y1, x2, y2), as a square of ``side`` pixels."""
    from PIL import Image

    return np.array(Image.fromarray(picture).resize((side, side), Image.Resampling.BILINEAR, box))


def rotated(picture: np.ndarray, degrees: float) -> np.ndarray:
    """A square picture rotated counterclockwise, of the same size; angles that are not right leave black corners."""
    from PIL import Image

    if degrees % 90 == 0:
        return np.rot90(picture, int(degrees // 90)).copy()
    return np.array(Image.fromarray(picture).rotate(degrees, Image.Resampling.BILINEAR))


def recolored(picture: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """The picture with other colors, sometimes gray; strength 0 changes nothing.

    At strength 1 the channels are mixed by a random rotation, then given a random mean and standard deviation each: no
    color statistic identifies the picture.
    """
    rgb = picture.astype(np.float32)
    mean, std = rng.uniform(*_MEAN, 3), rng.uniform(*_STD, 3)
    if rng.random() < _GRAY * strength:
        rgb = rgb.mean(-1, keepdims=True).repeat(3, -1)
        mean, std, mix = mean[:1], std[:1], np.eye(3)
    else:
        mix = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    mixed = (rgb - rgb.mean((0, 1))) @ mix
    changed = mixed / (mixed.std((0, 1)) + 1) * std + mean
    return np.rint(np.clip(rgb + strength * (changed - rgb), 0, 255)).astype(np.uint8)


def augmented(picture: np.ndarray, strength: float, side: int, rng: np.random.Generator) -> np.ndarray:
    """An augmented view of ``side`` pixels: a random crop, other colors, sometimes mirrored, sometimes blurred.

    Two views of one picture always overlap: a crop's side is 0.6 of the picture's or more.
    """
    from PIL import Image, ImageFilter

    full = picture.shape[0]
    part = full * (1 - 0.4 * strength * rng.random())
    x, y = rng.uniform(0, full - part, 2)
    view = recolored(resized(picture, side, (x, y, x + part, y + part)), strength, rng)
    if strength and rng.random() < 0.5:
        view = view[:, ::-1].copy()
    if rng.random() < _BLUR * strength:
        view = np.array(Image.fromarray(view).filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.0) * side / 48)))
    return view


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Mean difference of two pictures of one size, in 0..255, on a grid of at most about 24 x 24 points."""
    step = max(1, min(one.shape[:2]) // 24)
    difference = one[::step, ::step].astype(np.int16) - other[::step, ::step]
    return float(np.abs(difference).mean())
