"""What worlds of questions share: random numbers of a split, balanced answers, held-out wordings, names of places."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from saccade.naming import require

SPLITS = ("train", "held_out")

_ROWS = (
    ("top left", "top center", "top right"),
    ("middle left", "center", "middle right"),
    ("bottom left", "bottom center", "bottom right"),
)
CELLS = tuple(cell for row in _ROWS for cell in row)
"""Names of the places of a 3 x 3 grid, row by row."""

QUARTERS = ("top left", "top right", "bottom left", "bottom right")
"""Names of the places of a 2 x 2 grid, row by row."""

_HELD_OUT = 2
"""Wordings at the end of every list that are not used in training."""


def split_rng(seed: int, split: str | None) -> np.random.Generator:
    """The generator of a split's problems, independent of those of other splits. ValueError for an unknown split.

    Problems are data: the same seed stands for the same problems in every version, so recorded scores stay comparable.
    """
    if split is not None:
        require("split", split, SPLITS)
    return np.random.default_rng([seed, 0 if split is None else 1 + SPLITS.index(split)])


def balanced(count: int, options: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` integers below ``options`` in random order, with frequencies that differ by one at most."""
    rest = rng.choice(options, count % options, replace=False)
    return rng.permutation(np.concatenate([np.tile(np.arange(options), count // options), rest]))


def wordings_of(wordings: Sequence[str], split: str | None) -> Sequence[str]:
    """The wordings of a split: "held_out" has the last two, "train" the others, None has all."""
    return {None: wordings, "train": wordings[:-_HELD_OUT], "held_out": wordings[-_HELD_OUT:]}[split]


def sample_wordings(
    wordings: Sequence[str], split: str | None, slots: Sequence[dict[str, str]], rng: np.random.Generator
) -> list[str]:
    """A random wording of the split for each row of ``slots``, with its slots filled in."""
    known = wordings_of(wordings, split)
    return [known[k].format(**row) for k, row in zip(rng.integers(len(known), size=len(slots)).tolist(), slots)]


def balanced_indices(
    count: int, names: Sequence[str], known: Sequence[str], noun: str, rng: np.random.Generator
) -> np.ndarray:
    """``count`` indices into ``names`` in random order, all equally often. ValueError for an unknown name."""
    for name in names:
        require(noun, name, known)
    if not names:
        raise ValueError(f"no {noun} is chosen; known: {', '.join(known)}")
    return balanced(count, len(names), rng)
