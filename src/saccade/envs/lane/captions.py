"""What lies ahead, in words: the weather, how the road runs soon and later, and the next car or cone.

"fog road gently left then straight cone right": what the short-range sensors do not show, always eight words.
"""

from __future__ import annotations

import numpy as np

from saccade.envs.lane.roads import KINDS, WEATHERS, Roads

STRETCHES = ((1.5, 7.5), (7.5, 14.0))
"""From and to how many metres ahead."""

BENT, SHARP = 0.008, 0.025
"""Mean curvature from which a stretch is called a bend, and a sharp one, in 1/m."""

SIGHT = (1.0, 16.0)
"""A car or cone is told of from and to so many metres ahead."""

RUNS = ("sharply right", "gently right", "straight ahead", "gently left", "sharply left")

LATER = ("right", "straight", "left")

WORDS = (*WEATHERS, "road", "then", *" ".join((*RUNS, *LATER)).split(), *KINDS)

LENGTH = 8
"""Words of a caption."""

SWAPPED = {"left": "right", "right": "left"}
"""How a caption reads in a mirror."""


def runs(roads: Roads, s_B: np.ndarray) -> np.ndarray:
    """How each stretch runs: -2 sharply right, -1 gently right, 0 straight, 1 gently left, 2 sharply left; ``[B,
    2]``.
    """
    found = []
    for start, end in STRETCHES:
        curvature = roads.at(roads.curvature_BN, s_B[:, None] + np.linspace(start, end, 13)).mean(1)
        size = np.abs(curvature)
        found.append(np.sign(curvature) * ((size > BENT) + 1.0 * (size > SHARP)))
    return np.stack(found, 1).astype(np.int64)


def next_thing(roads: Roads, s_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kind of the next car or cone in sight (0: none) and whether it is on the left, each ``[B]``."""
    away = roads.thing_BM4[:, :, 0] - s_B[:, None]
    away = np.where((away >= SIGHT[0]) & (away <= SIGHT[1]), away, np.inf)
    nearest, row = away.argmin(1), np.arange(len(away))
    kind = np.where(np.isfinite(away.min(1)), roads.kind_BM[row, nearest], 0)
    return kind, roads.thing_BM4[row, nearest, 1] > 0


def captions(roads: Roads, s_B: np.ndarray) -> list[str]:
    """The true caption of each place on its road."""
    run_B2, (kind_B, left_B) = runs(roads, s_B), next_thing(roads, s_B)
    told = []
    for weather, (soon, later), kind, left in zip(roads.weather_B, run_B2, kind_B, left_B):
        side = ("left" if left else "right") if kind else "ahead"
        road = f"{RUNS[soon + 2]} then {LATER[np.sign(later) + 1]}"
        told.append(f"{WEATHERS[weather]} road {road} {KINDS[kind]} {side}")
    return told
