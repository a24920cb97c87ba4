"""Objects of a few parts in twelve fine-grained families, whose objects are similar to one another.

Coordinates are those of a unit canvas, y downwards. A part is an ellipse, box, arc or triangle at (x, y) with the half
sides ``w`` and ``h``, rotated by ``angle``. Objects of the first families differ mostly in their large parts, those of
the last families mostly in their small parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

KINDS = ("ellipse", "box", "arc", "triangle")
FAMILIES = 12
PARTS = 6
"""Largest number of parts of an object; the first one is its body."""
_DETAIL = 0.07
"""Largest half width of a detail."""


@dataclass(frozen=True)
class Objects:
    """N objects of P parts as arrays."""

    family_N: np.ndarray
    """Number of the family, from 0."""
    kind_NP: np.ndarray
    """Index in `KINDS`, -1 where there is no part."""
    shape_NPF: np.ndarray
    """(x, y, w, h, angle) of each part."""
    detail_NP: np.ndarray
    """Whether a part is a detail on the body."""
    hue_NP: np.ndarray
    """Hue in [0, 1), which is visible in photos alone."""

    def __len__(self) -> int:
        return len(self.family_N)


def random_objects(count: int, rng: np.random.Generator) -> Objects:
    """Random objects in equal numbers of each family, up to one."""
    family_N = rng.permutation(np.arange(count) % FAMILIES)
    kind_FP, template_FPF = templates()
    kind_NP, shape_NPF = kind_FP[family_N], template_FPF[family_N].copy()
    detail_NP = shape_NPF[:, :, 2] <= _DETAIL
    rank_N = family_N / (FAMILIES - 1)
    vary_NP = np.where(detail_NP, 0.25 + 0.75 * rank_N[:, None], 1.0 - 0.8 * rank_N[:, None])
    normal = lambda std, *shape: rng.normal(0, std, (count, PARTS, *shape))
    shift = np.where(detail_NP[..., None], normal(0.08, 2), normal(0.07, 2))
    shape_NPF[:, :, :2] += shift * vary_NP[..., None]
    shape_NPF[:, :, 2:4] *= np.exp(normal(0.28, 2) * vary_NP[..., None])
    shape_NPF[:, :, 4] += normal(0.4) * vary_NP
    shape_NPF[:, :, :2] = shape_NPF[:, :, :2].clip(0.12, 0.88)
    return Objects(family_N, kind_NP, shape_NPF, detail_NP, rng.random((count, PARTS)))


@cache
def templates() -> tuple[np.ndarray, np.ndarray]:
    """The fixed templates of the families: kinds ``[families, P]`` and shapes ``[families, P, 5]``."""
    rng = np.random.default_rng(12)
    kind_FP = np.full((FAMILIES, PARTS), -1)
    shape_FPF = np.zeros((FAMILIES, PARTS, 5))
    for family in range(FAMILIES):
        count = int(rng.integers(4, PARTS + 1))
        kind_FP[family, :count] = [rng.choice([0, 1, 3]), *rng.integers(len(KINDS), size=count - 1)]
        shape_FPF[family, :count] = _parts(count, rng)
    return kind_FP, shape_FPF


def _parts(count: int, rng: np.random.Generator) -> np.ndarray:
    """Shapes of a body, one or two limbs around it, and details on it: ``[count, 5]``."""
    limbs = int(rng.integers(1, 3))
    body = np.array([0.5, 0.5, *rng.uniform(0.2, 0.3, 2), rng.uniform(-0.3, 0.3)])
    angles = rng.uniform(0, 2 * np.pi) + np.arange(limbs) * rng.uniform(1.6, 3.1)
    radius = body[2:4] * 1.1
    limb = lambda a: [*(0.5 + radius * (np.cos(a), np.sin(a))), *rng.uniform(0.09, 0.15, 2), rng.uniform(-0.5, 0.5)]
    detail = lambda: [
        *(0.5 + body[2:4] * rng.uniform(-0.5, 0.5, 2)),
        *rng.uniform(0.035, 0.07, 2),
        rng.uniform(-0.5, 0.5),
    ]
    return np.array([body, *(limb(a) for a in angles), *(detail() for _ in range(count - 1 - limbs))])
