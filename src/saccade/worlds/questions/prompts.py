"""Problems of this world: a question about a scene of shapes, its picture and its exact answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from saccade.core import Problem, Question
from saccade.worlds.questions.answers import NOTHING, box_text, detection_text
from saccade.worlds.questions.layouts import COLOR_NAMES, RADIUS, ROOM, crowd, settle
from saccade.worlds.questions.skills import HELD_OUT_SKILLS, NEEDS, SKILLS, Asked
from saccade.worlds.questions.styles import draw
from saccade.worlds.questions.wordings import WORDINGS
from saccade.worlds.shapes import RELATIONS, SHAPES
from saccade.worlds.shapes.captions import plural
from saccade.worlds.splits import CELLS, balanced_indices, stream, worded

_ALL = {**SKILLS, **HELD_OUT_SKILLS}
_LEAST_PIXELS = 3
"""Least radius of an object in pixels: below it shapes cannot be told apart."""


@dataclass(frozen=True)
class Look:
    """How scenes look. ValueError where objects cannot be told apart, or do not fit."""

    size: int
    style: str
    objects: tuple[int, int]
    radius: tuple[float, float]
    displayed: int

    def __post_init__(self) -> None:
        (low, most), (small, large) = self.objects, self.radius
        if not 1 <= low <= most <= len(CELLS):
            raise ValueError(
                f"objects are {self.objects}; the least and greatest number lie between 1 and {len(CELLS)}"
            )
        if not 0 < small <= large <= ROOM:
            raise ValueError(f"radius is {self.radius}; the least and greatest lie between 0 and {ROOM:.3f}")
        if small * self.size < _LEAST_PIXELS:
            raise ValueError(
                f"size is {self.size}; objects of radius {small} need {np.ceil(_LEAST_PIXELS / small):.0f}"
            )
        if small * self.displayed < 1:
            raise ValueError(f"displayed is {self.displayed}; boxes of such objects need {np.ceil(1 / small):.0f}")


def problems(
    count: int,
    seed: int,
    skills: Sequence[str] = tuple(SKILLS),
    split: str | None = "train",
    size: int = 64,
    objects: tuple[int, int] = (1, 6),
    style: str = "plain",
    displayed: int | None = None,
    radius: tuple[float, float] = RADIUS,
) -> list[Problem]:
    """``count`` problems, skills in equal parts: ``inputs`` a Question about one picture uint8 [size, size, 3],
    ``source`` the skill, ``answer`` {"text", "kind"} and, where boxes are asked, "boxes" (pixels of the picture, x2 and
    y2 exclusive) and "labels".

    ``split`` has wordings and pictures of its own: "train", "held_out", or None for all wordings. ``objects`` are the
    least and greatest number of objects, ``radius`` their least and greatest radius as balanced_indices of the side.
    ``displayed`` is the side of the picture in whose pixels the text of a box is written, where that is not ``size``;
    the boxes themselves lie on its pixels too, so that this text is exact. ValueError for anything this world does not
    know.
    """
    look, rng = Look(size, style, objects, radius, size if displayed is None else displayed), stream(seed, split)
    which = balanced_indices(count, skills, tuple(_ALL), "skill", rng)
    rows: list[Any] = [None] * count
    for k, skill in enumerate(skills):
        if objects[1] < NEEDS.get(skill, 1):
            raise ValueError(
                f"skill {skill!r} needs scenes of {NEEDS[skill]} objects; at most {objects[1]} are allowed"
            )
        mine = np.flatnonzero(which == k)
        for i, row in zip(mine.tolist(), _posed(skill, len(mine), split, look, rng)):
            rows[i] = row
    return [Problem(i, *row) for i, row in enumerate(rows)]


def pictures(
    count: int,
    seed: int,
    split: str | None = "train",
    size: int = 48,
    objects: tuple[int, int] = (1, 6),
    style: str = "gravity",
    radius: tuple[float, float] = RADIUS,
) -> np.ndarray:
    """Scenes without a question, uint8 [count, size, size, 3]: unlabelled pictures of the same world."""
    look, rng = Look(size, style, objects, radius, size), stream(seed, split)
    things = crowd(count, look.objects, rng)
    return draw(things, settle(things, look.radius, rng)[0], [None] * count, look.size, look.style)


def vocabulary() -> list[str]:
    """All words of all questions and of all answers that are words, sorted: what a word-level tokenizer must know."""
    names = [*SHAPES, *map(plural, SHAPES), *COLOR_NAMES, *RELATIONS, *CELLS, "object", "objects", "a", "an", "and"]
    answers = ["yes", "no", "left", "right", NOTHING, *"012345"]
    fixed = " ".join(re.sub(r"\{\w+\}", " ", text) for group in WORDINGS.values() for text in group)
    return sorted(set(re.findall(r"\w+", " ".join([*names, *answers, fixed]))))


def _posed(
    skill: str, count: int, split: str | None, look: Look, rng: np.random.Generator
) -> list[tuple[Question, dict[str, Any], str]]:
    """Question, answer and skill of ``count`` problems of one skill."""
    what = _ALL[skill](count, look.objects, rng)
    texts = worded(WORDINGS[skill], split, what.slots, rng)
    places, unit = settle(what.crowd, look.radius, rng)
    painted = draw(what.crowd, places, what.lines or [None] * count, look.size, look.style)
    kind = "number" if skill == "count" else "word"
    answers = (
        [{"text": text, "kind": kind} for text in what.answers]
        if what.answers is not None
        else _boxed(what, np.rint(unit * look.displayed), look.size / look.displayed, "grounding" in skill)
    )
    return [(Question(text, (picture,)), answer, skill) for text, picture, answer in zip(texts, painted, answers)]


def _boxed(what: Asked, shown: np.ndarray, scale: float, single: bool) -> list[dict[str, Any]]:
    """Answers of boxes ``shown`` [P, K, 4] in the displayed picture, targets row by row of the grid."""
    order = np.where(what.target, what.crowd.cell, len(CELLS)).argsort(1)
    number = what.target.sum(1).tolist()
    answers = []
    for listed, n, boxes, shapes in zip(order, number, shown, what.crowd.shape):
        mine = boxes[listed[:n]]
        labels = [SHAPES[s] for s in shapes[listed[:n]]]
        text = box_text(mine[0]) if single else detection_text(mine, labels)
        answers.append({"text": text, "kind": "boxes", "boxes": (mine * scale).tolist(), "labels": labels})
    return answers
