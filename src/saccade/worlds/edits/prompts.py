"""Problems of this world: an instruction, the picture it is about, and exactly what should come of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from saccade.core import Problem, Question
from saccade.naming import require
from saccade.worlds.edits.asking import Asked, questions
from saccade.worlds.edits.kinds import KINDS, Edit, split_of
from saccade.worlds.edits.staging import pick
from saccade.worlds.edits.wordings import INSTRUCTIONS
from saccade.worlds.shapes import SIZES, TRAIN_WORDINGS, caption, render, style
from saccade.worlds.splits import stream, wordings_of

Words = Literal["split", "train", "held_out"]
_CAPTIONS = [wording for wording in TRAIN_WORDINGS if style(wording) == "descriptive"]
_LEAST_PIXELS = 3
"""Least radius of an object in pixels: below it shapes cannot be told apart."""


def problems(
    count: int,
    seed: int,
    kinds: Sequence[str] = tuple(KINDS),
    split: str | None = "train",
    size: int = 32,
    words: Words = "split",
) -> list[Problem]:
    """``count`` problems, kinds in turn: ``inputs`` a Question with one picture uint8 [size, size, 3], ``source`` the
    kind.

    ``answer``: "kind"; "before" and "after", the scenes; "picture", the second of them as it is painted;
    "caption_before" and "caption_after", both in one wording of the world of shapes; "questions", (text, "yes" or "no",
    "edit" or "keep") each. ``split`` keeps only what is trained on ("train") or held out ("held_out"), or all (None).
    ``words`` are the instructions' wordings: those of the split, or another split's; all else stays the same then. The
    first problems are the same whatever the count. ValueError for an unknown kind, split or words, and for pictures too
    small.
    """
    for kind in kinds:
        require("kind of edit", kind, tuple(KINDS))
    require("words", words, ("split", "train", "held_out"))
    if not kinds:
        raise ValueError(f"no kind of edit is chosen; known: {', '.join(KINDS)}")
    if SIZES["tiny"] * size < _LEAST_PIXELS:
        raise ValueError(
            f"size is {size}; objects of radius {SIZES['tiny']} need {np.ceil(_LEAST_PIXELS / SIZES['tiny']):.0f}"
        )
    rng = stream(seed, split)
    rows = [_row(kinds[i % len(kinds)], split, split if words == "split" else words, rng) for i in range(count)]
    sources, targets = (render([getattr(edit, when) for edit, *_ in rows], size) for when in ("before", "after"))
    return [Problem(i, *_posed(*row, *pair)) for i, (row, *pair) in enumerate(zip(rows, sources, targets))]


def _row(
    kind: str, split: str | None, words: str | None, rng: np.random.Generator
) -> tuple[Edit, str, int, tuple[Asked, ...]]:
    """An edit, its instruction, the captions' wording and the questions; one problem draws after the other."""
    edit = KINDS[kind](rng)
    while split not in (None, split_of(edit)):
        edit = KINDS[kind](rng)
    instruction = pick(wordings_of(INSTRUCTIONS[kind], words), rng).format(**edit.slots)
    return edit, instruction, pick(_CAPTIONS, rng), questions(edit, rng)


def _posed(
    edit: Edit, instruction: str, wording: int, asked: tuple[Asked, ...], source: np.ndarray, target: np.ndarray
) -> tuple[Question, dict, str]:
    captions = {
        f"caption_{when}": caption(meaning, wording) for when, meaning in zip(("before", "after"), edit.meanings)
    }
    known = {"kind": edit.kind, "before": edit.before, "after": edit.after, "picture": target, "questions": asked}
    return Question(instruction, (source,)), known | captions, edit.kind
