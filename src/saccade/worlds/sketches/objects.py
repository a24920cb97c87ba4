"""Objects of a few parts in twelve families; the objects of a family are near twins.

Coordinates are those of a unit canvas, y downwards. A part is an ellipse, box, arc or triangle at (x, y), half as wide
and high as ``w`` and ``h``, turned by ``angle``. Families differ in what tells their objects apart: mostly the large
parts in the first ones, mostly the small parts in the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

KINDS = ("ellipse", "box", "arc", "triangle")
FAMILIES = 12
PARTS = 6
"""Most parts that an object has; the first is its body."""
_SMALL = 0.07
"""Parts at most this large are details."""


@dataclass(frozen=True)
class Objects:
    """N objects as arrays.

    ``family_N``; ``kind_NP`` counts in `KINDS`, -1 where there is no part; ``place_NPF`` is (x, y, w, h, angle);
    ``detail_NP`` says which parts are small ones on the body; ``hue_NP`` in [0, 1), which no sketch shows.
    """

    family_N: np.ndarray
    kind_NP: np.ndarray
    place_NPF: np.ndarray
    detail_NP: np.ndarray
    hue_NP: np.ndarray

    def __len__(self) -> int:
        return len(self.family_N)


def objects(count: int, rng: np.random.Generator) -> Objects:
    """Random objects, of every family as many as of any other, or one more."""
    family_N = rng.permutation(np.arange(count) % FAMILIES)
    kind_FP, place_FPF = templates()
    kind_NP, place_NPF = kind_FP[family_N], place_FPF[family_N].copy()
    detail_NP = place_NPF[:, :, 2] <= _SMALL
    share_N = family_N / (FAMILIES - 1)
    vary_NP = np.where(detail_NP, 0.25 + 0.75 * share_N[:, None], 1.0 - 0.8 * share_N[:, None])
    normal = lambda spread, *shape: rng.normal(0, spread, (count, PARTS, *shape))
    shift = np.where(detail_NP[..., None], normal(0.08, 2), normal(0.07, 2))
    place_NPF[:, :, :2] += shift * vary_NP[..., None]
    place_NPF[:, :, 2:4] *= np.exp(normal(0.28, 2) * vary_NP[..., None])
    place_NPF[:, :, 4] += normal(0.4) * vary_NP
    place_NPF[:, :, :2] = place_NPF[:, :, :2].clip(0.12, 0.88)
    return Objects(family_N, kind_NP, place_NPF, detail_NP, rng.random((count, PARTS)))


@cache
def templates() -> tuple[np.ndarray, np.ndarray]:
    """What the families' objects have in common, always the same: kinds ``[families, P]`` and places ``[families, P,
    5]``.
    """
    rng = np.random.default_rng(12)
    kind_FP = np.full((FAMILIES, PARTS), -1)
    place_FPF = np.zeros((FAMILIES, PARTS, 5))
    for family in range(FAMILIES):
        count = int(rng.integers(4, PARTS + 1))
        kind_FP[family, :count] = [rng.choice([0, 1, 3]), *rng.integers(len(KINDS), size=count - 1)]
        place_FPF[family, :count] = _parts(count, rng)
    return kind_FP, place_FPF


def _parts(count: int, rng: np.random.Generator) -> np.ndarray:
    """A body, one or two limbs around it, and details on it: places ``[count, 5]``."""
    limbs = int(rng.integers(1, 3))
    body = np.array([0.5, 0.5, *rng.uniform(0.2, 0.3, 2), rng.uniform(-0.3, 0.3)])
    around = rng.uniform(0, 2 * np.pi) + np.arange(limbs) * rng.uniform(1.6, 3.1)
    reach = body[2:4] * 1.1
    limb = lambda a: [*(0.5 + reach * (np.cos(a), np.sin(a))), *rng.uniform(0.09, 0.15, 2), rng.uniform(-0.5, 0.5)]
    detail = lambda: [
        *(0.5 + body[2:4] * rng.uniform(-0.5, 0.5, 2)),
        *rng.uniform(0.035, 0.07, 2),
        rng.uniform(-0.5, 0.5),
    ]
    return np.array([body, *(limb(a) for a in around), *(detail() for _ in range(count - 1 - limbs))])
