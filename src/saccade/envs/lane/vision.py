"""The lane error as classical vision reads it from a camera's picture: edges, line segments, the lane's middle.

Crop, stretch to the full range, blur, Canny, closing, probabilistic Hough; the nearest long segment on either side of
the middle; its place at the foot of the picture, smoothed over time. Settings are those of the code that came with
2510.22370, scaled from its pictures of 700 columns.
"""

from __future__ import annotations

import numpy as np

SMOOTH = 0.2
"""Share of a new measurement."""

COLUMNS = 700
"""Width of the pictures that the settings were made for."""

STEEP = 0.3
"""Least rise of a segment that can be a marking."""


def feet(picture: np.ndarray) -> tuple[float, float]:
    """Columns where the left and the right marking reach the foot of a picture uint8 ``[H, W, 3]``, in widths of the
    picture from its middle (left negative); NaN for one that is not seen.
    """
    from scipy import ndimage
    from skimage import feature, morphology, transform

    grey = picture.astype(np.float64).mean(2)
    grey = (grey - grey.min()) / max(np.ptp(grey), 1e-9)
    scale = picture.shape[1] / COLUMNS
    edges = feature.canny(ndimage.gaussian_filter(grey, 1.1 * max(scale, 0.5)), 0, 50 / 255, 150 / 255)
    edges = morphology.closing(edges, np.ones((3, 3) if scale < 0.5 else (5, 5), bool))
    segments = transform.probabilistic_hough_line(
        edges, threshold=max(round(15 * scale), 5), line_length=max(round(5 * scale), 4), line_gap=max(round(100 * scale), 3),
        theta=np.linspace(-np.pi / 2, np.pi / 2, 60, endpoint=False), rng=0,
    )  # fmt: skip
    return _nearest(segments, *picture.shape[:2])


def _nearest(segments: list, height: int, width: int) -> tuple[float, float]:
    """Of the long steep segments, prolonged to the foot, those next to the middle."""
    steep = [s for s in segments if abs(s[1][1] - s[0][1]) > STEEP * abs(s[1][0] - s[0][0])]
    lengths = [np.hypot(x1 - x0, y1 - y0) for (x0, y0), (x1, y1) in steep]
    left, right = [np.nan], [np.nan]
    for ((x0, y0), (x1, y1)), length in zip(steep, lengths):
        if length > max(lengths) / 2:
            foot = (x0 + (height - y0) * (x1 - x0) / (y1 - y0) + 0.5) / width - 0.5
            (left if (x0 + x1) / 2 < width / 2 else right).append(foot)
    return float(np.nanmax(left)) if len(left) > 1 else np.nan, float(np.nanmin(right)) if len(right) > 1 else np.nan


def error(foot_B2: np.ndarray, wide: float, lane: float) -> np.ndarray:
    """Metres to the left of the lane's middle ``[B]``, from the feet of both markings in a picture that shows
    ``wide`` metres at its foot. A marking that is not seen is taken to be a lane away from the other; 0 where
    neither is seen.
    """
    left, right = foot_B2.T * wide
    alone = np.where(np.isnan(left), right - lane / 2, left + lane / 2)
    middle = np.where(np.isnan(left) | np.isnan(right), alone, (left + right) / 2)
    return np.nan_to_num(middle)
