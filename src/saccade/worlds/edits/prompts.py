"""Problems of this world: an instruction, the picture to edit, and the exact result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from saccade.core import Problem, Question
from saccade.naming import require
from saccade.worlds.edits.kinds import KINDS, Edit, split_of
from saccade.worlds.edits.scenes import choose
from saccade.worlds.edits.vqa import VQAQuestion, vqa_questions
from saccade.worlds.edits.wordings import INSTRUCTIONS
from saccade.worlds.shapes import SIZES, TRAIN_WORDINGS, caption, render, style
from saccade.worlds.splits import split_rng, wordings_of

Words = Literal["split", "train", "held_out"]
_CAPTIONS = [wording for wording in TRAIN_WORDINGS if style(wording) == "descriptive"]
_LEAST_PIXELS = 3
"""Least radius of an object in pixels, below which shapes cannot be distinguished."""


def sample_problems(
    count: int,
    seed: int,
    kinds: Sequence[str] = tuple(KINDS),
    split: str | None = "train",
    size: int = 32,
    words: Words = "split",
) -> list[Problem]:
    """``count`` problems, kinds in turn, about pictures uint8 [size, size, 3].

    ``inputs`` is a Question with one picture, ``source`` the kind. ``answer``: "kind"; "before" and "after", the
    scenes; "picture", the second scene rendered; "caption_before" and "caption_after", both in one wording of the world
    of shapes; "questions", each (text, "yes" or "no", "edit" or "keep"). ``split`` is "train", "held_out" or None for
    all edits. ``words`` is the split of the instructions' wordings, which changes nothing else; "split" takes that of
    the edits. The first problems are the same for every count. ValueError for an unknown kind, split or words, and for
    pictures that are too small.
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
    rng = split_rng(seed, split)
    rows = [_row(kinds[i % len(kinds)], split, split if words == "split" else words, rng) for i in range(count)]
    sources, targets = (render([getattr(edit, when) for edit, *_ in rows], size) for when in ("before", "after"))
    return [Problem(i, *_problem_parts(*row, *pair)) for i, (row, *pair) in enumerate(zip(rows, sources, targets))]


def _row(
    kind: str, split: str | None, words: str | None, rng: np.random.Generator
) -> tuple[Edit, str, int, tuple[VQAQuestion, ...]]:
    """A random edit, its instruction, the wording of its captions and its questions."""
    edit = KINDS[kind](rng)
    while split not in (None, split_of(edit)):
        edit = KINDS[kind](rng)
    instruction = choose(wordings_of(INSTRUCTIONS[kind], words), rng).format(**edit.slots)
    return edit, instruction, choose(_CAPTIONS, rng), vqa_questions(edit, rng)


def _problem_parts(
    edit: Edit,
    instruction: str,
    wording: int,
    questions: tuple[VQAQuestion, ...],
    source: np.ndarray,
    target: np.ndarray,
) -> tuple[Question, dict, str]:
    """Inputs, answer and source of a problem."""
    captions = {
        f"caption_{when}": caption(meaning, wording) for when, meaning in zip(("before", "after"), edit.meanings)
    }
    answer = {"kind": edit.kind, "before": edit.before, "after": edit.after, "picture": target, "questions": questions}
    return Question(instruction, (source,)), answer | captions, edit.kind
