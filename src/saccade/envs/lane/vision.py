"""The lane error by classical computer vision on a camera's picture: edges, line segments, the lane's centre.

Crop, stretch to the full range, blur, Canny, closing, probabilistic Hough; the nearest long segment on either side of
the centre; its position at the bottom of the picture, smoothed over time. Settings are those of the code that came with
2510.22370, scaled from its pictures of 700 columns.
"""

from __future__ import annotations

import numpy as np

SMOOTH = 0.2
"""Weight of a new measurement in the smoothed one."""

COLUMNS = 700
"""Width in pixels of the pictures that the settings were chosen for."""

STEEP = 0.3
"""Smallest absolute slope of a segment that can be a marking."""


def marking_columns(picture: np.ndarray) -> tuple[float, float]:
    """Positions of the left and the right marking at the bottom of a picture uint8 ``[H, W, 3]``, in widths of the
    picture from its centre (left negative); NaN for a marking that is not detected.
    """
    from scipy import ndimage
    from skimage import feature, morphology, transform

    grey = picture.astype(np.float64).mean(2)
    grey = (grey - grey.min()) / max(np.ptp(grey), 1e-9)
    scale = picture.shape[1] / COLUMNS
    edges = feature.canny(ndimage.gaussian_filter(grey, 1.1 * max(scale, 0.5)), 0, 50 / 255, 150 / 255)
    edges = morphology.closing(edges, np.ones((3, 3) if scale < 0.5 else (5, 5), bool))
    segments = transform.probabilistic_hough_line(
        edges,
        threshold=max(round(15 * scale), 5),
        line_length=max(round(5 * scale), 4),
        line_gap=max(round(100 * scale), 3),
        theta=np.linspace(-np.pi / 2, np.pi / 2, 60, endpoint=False),
        rng=0,
    )
    return _nearest(segments, *picture.shape[:2])


def _nearest(segments: list, height: int, width: int) -> tuple[float, float]:
    """Positions at the bottom of the long steep segments that are nearest to the centre on either side."""
    steep = [s for s in segments if abs(s[1][1] - s[0][1]) > STEEP * abs(s[1][0] - s[0][0])]
    lengths = [np.hypot(x1 - x0, y1 - y0) for (x0, y0), (x1, y1) in steep]
    left, right = [np.nan], [np.nan]
    for ((x0, y0), (x1, y1)), length in zip(steep, lengths):
        if length > max(lengths) / 2:
            bottom = (x0 + (height - y0) * (x1 - x0) / (y1 - y0) + 0.5) / width - 0.5
            (left if (x0 + x1) / 2 < width / 2 else right).append(bottom)
    return float(np.nanmax(left)) if len(left) > 1 else np.nan, float(np.nanmin(right)) if len(right) > 1 else np.nan


def lane_error(column_B2: np.ndarray, width: float, lane: float) -> np.ndarray:
    """Distance in metres to the left of the lane's centre ``[B]``, from the positions of both markings in a picture
    that is ``width`` metres wide at its bottom. A marking that is not detected is assumed a lane's width away from the
    other; 0 where neither is detected.
    """
    left, right = column_B2.T * width
    alone = np.where(np.isnan(left), right - lane / 2, left + lane / 2)
    middle = np.where(np.isnan(left) | np.isnan(right), alone, (left + right) / 2)
    return np.nan_to_num(middle)
