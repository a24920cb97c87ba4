"""Edits of real photographs whose result can be computed: brightness, contrast, crop, blur, greyscale.

With v in [0, 1] and p the named share: brightness v (1 +- p); contrast m + (v - m) (1 +- p), m the mean of v; crop to a
quarter, enlarged (bicubic); blur by a Gaussian of 1/32 or 1/16 of the side; greyscale 0.299 R + 0.587 G + 0.114 B.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from scipy.ndimage import gaussian_filter

from saccade.core import Problem, Question
from saccade.naming import require
from saccade.worlds.edits.scenes import choose
from saccade.worlds.edits.wordings import PHOTOGRAPH_INSTRUCTIONS, QUESTIONS
from saccade.worlds.images import photographs
from saccade.worlds.splits import QUARTERS, split_rng, wordings_of

TRAINED = ("astronaut", "chelsea", "rocket", "hubble_deep_field", "immunohistochemistry", "stereo_motorcycle")
HELD_OUT = ("coffee", "retina")
"""Photographs that are never trained on."""
_PERCENT = (20, 30, 40, 50)
_BLURS = {"a little": 1 / 32, "strongly": 1 / 16}
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_LEAST = 0.02
"""Least mean absolute change of an edit, as a share of the range; else another part of a photograph is sampled."""
_STORED = 512
"""Shorter side in pixels to which photographs are reduced once, before parts are cut out."""

Slots = dict[str, str]
Change = Callable[[np.ndarray, np.random.Generator], tuple[np.ndarray, Slots]]
"""A picture float [S, S, 3] in [0, 1] -> the result, and the slots of the wordings."""


def brightness(v: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, Slots]:
    """Lighter or darker by a share."""
    percent, up = choose(_PERCENT, rng), choose((True, False), rng)
    slots = {"percent": str(percent), "lighter": "lighter" if up else "darker", "up": "up" if up else "down"}
    return v * (1 + percent / 100 if up else 1 - percent / 100), slots


def contrast(v: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, Slots]:
    """More or less difference from the mean by a share."""
    percent, up = choose(_PERCENT, rng), choose((True, False), rng)
    slots = {"percent": str(percent), "more": "more" if up else "less", "up": "up" if up else "down"}
    return v.mean() + (v - v.mean()) * (1 + percent / 100 if up else 1 - percent / 100), slots


def crop(v: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, Slots]:
    """One quarter, enlarged to the full size."""
    quarter, half = int(rng.random() * len(QUARTERS)), len(v) // 2
    top, left = (half if quarter // 2 else 0), (half if quarter % 2 else 0)
    return _resized_floats(v[top : top + half, left : left + half], len(v)), {"quarter": QUARTERS[quarter]}


def blur(v: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, Slots]:
    """Slightly or strongly out of focus."""
    much = choose(tuple(_BLURS), rng)
    sigma = _BLURS[much] * len(v)
    return gaussian_filter(v, (sigma, sigma, 0)), {"much": much}


def greyscale(v: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, Slots]:
    """The luminance in all three channels."""
    return np.repeat((v @ _LUMA)[..., None], 3, -1), {}


KINDS: dict[str, Change] = {
    "brightness": brightness,
    "contrast": contrast,
    "crop": crop,
    "blur": blur,
    "greyscale": greyscale,
}
"""The function of each kind of edit."""


def sample_problems(
    count: int, seed: int, kinds: Sequence[str] = tuple(KINDS), split: str | None = "train", size: int = 64
) -> list[Problem]:
    """``count`` problems, kinds in turn, each with a square part of a photograph, uint8 [size, size, 3].

    ``answer``: "kind"; "picture", the computed result; "questions" about both pictures, the source first; scenes and
    captions are None. Each ``split`` has its photographs and wordings: "train", "held_out", or None for all. The first
    problems are the same for every count. ValueError for an unknown kind or split.
    """
    for kind in kinds:
        require("kind of edit", kind, tuple(KINDS))
    if not kinds:
        raise ValueError(f"no kind of edit is chosen; known: {', '.join(KINDS)}")
    rng = split_rng(seed, split)
    names = {"train": TRAINED, "held_out": HELD_OUT, None: TRAINED + HELD_OUT}[split]
    return [_problem(i, kinds[i % len(kinds)], names, split, size, rng) for i in range(count)]


def _problem(
    number: int, kind: str, names: Sequence[str], split: str | None, size: int, rng: np.random.Generator
) -> Problem:
    source, target, slots = _changed_square(kind, names, size, rng)
    text = choose(wordings_of(PHOTOGRAPH_INSTRUCTIONS[kind], split), rng).format(**slots)
    questions = ((QUESTIONS[kind].format(**slots), "yes", "edit"), (QUESTIONS["same"], "yes", "keep"))
    unknown = dict.fromkeys(("before", "after", "caption_before", "caption_after"))
    answer = {"kind": kind, "picture": target, "questions": questions} | unknown
    return Problem(number, Question(text, (source,)), answer, kind)


def _changed_square(
    kind: str, names: Sequence[str], size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, Slots]:
    """A random part of a photograph, the same part edited, and the slots of the wordings."""
    while True:
        source = _random_square(_reduced(choose(names, rng)), size, rng)
        result, slots = KINDS[kind](source.astype(np.float32) / 255, rng)
        target = np.rint(np.clip(result, 0, 1) * 255).astype(np.uint8)
        if np.abs(target.astype(np.float32) - source).mean() / 255 >= _LEAST:
            return source, target, slots


def _random_square(photograph: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A random square of half to all of a photograph's shorter side, as [size, size, 3]."""
    height, width = photograph.shape[:2]
    side = int(min(height, width) * (0.5 + 0.5 * rng.random()))
    top, left = int(rng.random() * (height - side + 1)), int(rng.random() * (width - side + 1))
    return _resized_picture(photograph[top : top + side, left : left + side], size, size)


@cache
def _reduced(name: str) -> np.ndarray:
    """A photograph with a shorter side of at most `_STORED` pixels, so that parts are cut out quickly."""
    (photograph,) = photographs((name,))
    scale = min(_STORED / min(photograph.shape[:2]), 1.0)
    return _resized_picture(photograph, *(round(side * scale) for side in photograph.shape[:2]))


def _resized_picture(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), Image.Resampling.BICUBIC))


def _resized_floats(v: np.ndarray, size: int) -> np.ndarray:
    """Floats [s, s, 3] resized to [size, size, 3]."""
    from PIL import Image

    planes = [Image.fromarray(v[..., k]).resize((size, size), Image.Resampling.BICUBIC) for k in range(3)]
    return np.stack([np.asarray(plane) for plane in planes], -1)
