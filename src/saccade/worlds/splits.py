"""What worlds of questions share: a split's own random numbers, answers in equal parts, kept-back wordings, places."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from saccade.naming import require

SPLITS = ("train", "held_out")

CELLS = (
    "top left", "top center", "top right",
    "middle left", "center", "middle right",
    "bottom left", "bottom center", "bottom right",
)  # fmt: skip
"""Names of the places of a 3 x 3 grid, row by row."""

QUARTERS = ("top left", "top right", "bottom left", "bottom right")

_KEPT_BACK = 2
"""Wordings at the end of every list that training never shows."""


def stream(seed: int, split: str | None) -> np.random.Generator:
    """Random numbers that no other split shares. ValueError for an unknown split."""
    if split is not None:
        require("split", split, SPLITS)
    return np.random.default_rng([seed, 0 if split is None else 1 + SPLITS.index(split)])


def balanced(count: int, options: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` integers below ``options`` in random order, each as often as any other, or once more."""
    rest = rng.choice(options, count % options, replace=False)
    return rng.permutation(np.concatenate([np.tile(np.arange(options), count // options), rest]))


def wordings_of(wordings: Sequence[str], split: str | None) -> Sequence[str]:
    """The wordings of a split: "held_out" has the last two, "train" all before them, None has all."""
    return {None: wordings, "train": wordings[:-_KEPT_BACK], "held_out": wordings[-_KEPT_BACK:]}[split]


def worded(
    wordings: Sequence[str], split: str | None, slots: Sequence[dict[str, str]], rng: np.random.Generator
) -> list[str]:
    """A random wording of the split for each row, its slots filled."""
    known = wordings_of(wordings, split)
    return [known[k].format(**row) for k, row in zip(rng.integers(len(known), size=len(slots)).tolist(), slots)]


def shares(count: int, names: Sequence[str], known: Sequence[str], noun: str, rng: np.random.Generator) -> np.ndarray:
    """``count`` positions in ``names``, in equal parts and random order. ValueError where a name is not ``known``."""
    for name in names:
        require(noun, name, known)
    if not names:
        raise ValueError(f"no {noun} is chosen; known: {', '.join(known)}")
    return balanced(count, len(names), rng)
