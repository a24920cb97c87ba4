"""True captions of the road ahead: the weather, the course of the road soon and later, and the next car or cone.

"fog road gently left then straight cone right": always eight words, about what the short-range sensors do not reach.
"""

from __future__ import annotations

import numpy as np

from saccade.envs.lane.roads import KINDS, WEATHERS, Roads

STRETCHES = ((1.5, 7.5), (7.5, 14.0))
"""Start and end of each described stretch, in metres ahead."""

BENT, SHARP = 0.008, 0.025
"""Mean curvature above which a stretch is called a bend, and a sharp one, in 1/m."""

OBJECT_RANGE = (1.0, 16.0)
"""Smallest and largest distance of a described car or cone, in metres ahead."""

RUNS = ("sharply right", "gently right", "straight ahead", "gently left", "sharply left")

LATER = ("right", "straight", "left")

WORDS = (*WEATHERS, "road", "then", *" ".join((*RUNS, *LATER)).split(), *KINDS)

LENGTH = 8
"""Number of words of a caption."""

SWAPPED = {"left": "right", "right": "left"}
"""Words that a mirror image exchanges."""


def runs(roads: Roads, s_B: np.ndarray) -> np.ndarray:
    """Course of each stretch: -2 sharply right, -1 gently right, 0 straight, 1 gently left, 2 sharply left; ``[B, 2]``
    int64.
    """
    courses = []
    for start, end in STRETCHES:
        curvature = roads.at(roads.curvature_BN, s_B[:, None] + np.linspace(start, end, 13)).mean(1)
        size = np.abs(curvature)
        courses.append(np.sign(curvature) * ((size > BENT) + 1.0 * (size > SHARP)))
    return np.stack(courses, 1).astype(np.int64)


def next_object(roads: Roads, s_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kind of the next car or cone in range (0: none) and whether it is on the left, each ``[B]``."""
    ahead = roads.object_BM4[:, :, 0] - s_B[:, None]
    ahead = np.where((ahead >= OBJECT_RANGE[0]) & (ahead <= OBJECT_RANGE[1]), ahead, np.inf)
    nearest, row = ahead.argmin(1), np.arange(len(ahead))
    kind = np.where(np.isfinite(ahead.min(1)), roads.kind_BM[row, nearest], 0)
    return kind, roads.object_BM4[row, nearest, 1] > 0


def captions(roads: Roads, s_B: np.ndarray) -> list[str]:
    """The true caption of each position on its road."""
    run_B2, (kind_B, left_B) = runs(roads, s_B), next_object(roads, s_B)
    texts = []
    for weather, (soon, later), kind, left in zip(roads.weather_B, run_B2, kind_B, left_B):
        side = ("left" if left else "right") if kind else "ahead"
        road = f"{RUNS[soon + 2]} then {LATER[np.sign(later) + 1]}"
        texts.append(f"{WEATHERS[weather]} road {road} {KINDS[kind]} {side}")
    return texts
