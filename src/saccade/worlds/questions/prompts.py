"""Problems of this world: a question about a scene of shapes, its picture and its exact answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from saccade.core import Problem, Question
from saccade.worlds.questions.answers import NO_BOXES, box_text, detection_text
from saccade.worlds.questions.layouts import COLOR_NAMES, MAX_RADIUS, RADIUS, place_objects, sample_scenes
from saccade.worlds.questions.skills import HELD_OUT_SKILLS, MIN_OBJECTS, SKILLS, QuestionBatch
from saccade.worlds.questions.styles import render_scenes
from saccade.worlds.questions.wordings import WORDINGS
from saccade.worlds.shapes import RELATIONS, SHAPES
from saccade.worlds.shapes.captions import plural
from saccade.worlds.splits import CELLS, balanced_indices, sample_wordings, split_rng

_ALL = {**SKILLS, **HELD_OUT_SKILLS}
_MIN_PIXELS = 3
"""Least radius of an object in pixels: below it shapes are indistinguishable."""


@dataclass(frozen=True)
class SceneStyle:
    """Size and style of scenes. ValueError where objects are too small to be distinguished, or do not fit."""

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
        if not 0 < small <= large <= MAX_RADIUS:
            raise ValueError(f"radius is {self.radius}; the least and greatest lie between 0 and {MAX_RADIUS:.3f}")
        if small * self.size < _MIN_PIXELS:
            raise ValueError(f"size is {self.size}; objects of radius {small} need {np.ceil(_MIN_PIXELS / small):.0f}")
        if small * self.displayed < 1:
            raise ValueError(f"displayed is {self.displayed}; boxes of such objects need {np.ceil(1 / small):.0f}")


def sample_problems(
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
    """``count`` problems, skills in equal parts.

    ``inputs`` is a Question about one picture uint8 ``[size, size, 3]``, ``source`` the skill, ``answer`` {"text",
    "kind"} and, where the answer is boxes, "boxes" (pixels of the picture, x2 and y2 exclusive) and "labels".

    ``split`` selects wordings and pictures: "train", "held_out", or None for all wordings. ``objects`` are the least
    and greatest number of objects, ``radius`` their least and greatest radius as fractions of the side. ``displayed``
    is the side of the picture in whose pixels the text of a box is written, where that is not ``size``; the boxes
    themselves lie on its pixels too, so that this text is exact. ValueError for an unknown skill, split or style, and
    for numbers that do not fit.
    """
    scene_style, rng = (
        SceneStyle(size, style, objects, radius, size if displayed is None else displayed),
        split_rng(seed, split),
    )
    skill_P = balanced_indices(count, skills, tuple(_ALL), "skill", rng)
    rows: list[Any] = [None] * count
    for k, skill in enumerate(skills):
        if objects[1] < MIN_OBJECTS.get(skill, 1):
            raise ValueError(
                f"skill {skill!r} needs scenes of {MIN_OBJECTS[skill]} objects; at most {objects[1]} are allowed"
            )
        rows_of_skill = np.flatnonzero(skill_P == k)
        for i, row in zip(rows_of_skill.tolist(), _rows(skill, len(rows_of_skill), split, scene_style, rng)):
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
    """Scenes without a question, uint8 ``[count, size, size, 3]``: unlabelled pictures of the same world."""
    scene_style, rng = SceneStyle(size, style, objects, radius, size), split_rng(seed, split)
    scenes = sample_scenes(count, scene_style.objects, rng)
    places, _ = place_objects(scenes, scene_style.radius, rng)
    return render_scenes(scenes, places, [None] * count, size, style)


def vocabulary() -> list[str]:
    """All words of all questions and of all answers that are words, sorted, for a word-level tokenizer."""
    names = [*SHAPES, *map(plural, SHAPES), *COLOR_NAMES, *RELATIONS, *CELLS, "object", "objects", "a", "an", "and"]
    answers = ["yes", "no", "left", "right", NO_BOXES, *"012345"]
    fixed = " ".join(re.sub(r"\{\w+\}", " ", text) for group in WORDINGS.values() for text in group)
    return sorted(set(re.findall(r"\w+", " ".join([*names, *answers, fixed]))))


def _rows(
    skill: str, count: int, split: str | None, style: SceneStyle, rng: np.random.Generator
) -> list[tuple[Question, dict[str, Any], str]]:
    """Question, answer and skill of ``count`` problems of one skill."""
    batch = _ALL[skill](count, style.objects, rng)
    texts = sample_wordings(WORDINGS[skill], split, batch.slots, rng)
    places, unit_boxes = place_objects(batch.scenes, style.radius, rng)
    rendered = render_scenes(batch.scenes, places, batch.lines or [None] * count, style.size, style.style)
    if batch.target is not None:
        displayed = np.rint(unit_boxes * style.displayed)
        answers = _box_answers(batch, batch.target, displayed, style.size / style.displayed, "grounding" in skill)
    else:
        kind = "number" if skill == "count" else "word"
        answers = [{"text": text, "kind": kind} for text in batch.answers or ()]
    return [(Question(text, (picture,)), answer, skill) for text, picture, answer in zip(texts, rendered, answers)]


def _box_answers(
    batch: QuestionBatch, target: np.ndarray, displayed: np.ndarray, scale: float, single: bool
) -> list[dict[str, Any]]:
    """Answers that are the boxes of ``target`` ``[P, K]``, in the order of the grid's cells.

    ``displayed`` ``[P, K, 4]`` are all boxes in the displayed picture, ``scale`` maps them to pixels of the picture.
    """
    order = np.where(target, batch.scenes.cell, len(CELLS)).argsort(1)
    number = target.sum(1).tolist()
    answers = []
    for slots, n, boxes, shapes in zip(order, number, displayed, batch.scenes.shape):
        found = boxes[slots[:n]]
        labels = [SHAPES[s] for s in shapes[slots[:n]]]
        text = box_text(found[0]) if single else detection_text(found, labels)
        answers.append({"text": text, "kind": "boxes", "boxes": (found * scale).tolist(), "labels": labels})
    return answers
