"""One function for each skill: scenes in which its question has exactly one answer, and answers in equal parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from saccade.worlds.questions.answers import join_words
from saccade.worlds.questions.layouts import COLOR_NAMES, SceneBatch, different_values, fill_cells, sample_scenes
from saccade.worlds.questions.targets import (
    OFF_SIDE,
    counted_targets,
    first_slot,
    related_pair,
    unique_target,
    with_targets,
)
from saccade.worlds.shapes import RELATIONS, SHAPES, Text, depict, meanings_of
from saccade.worlds.shapes.captions import plural
from saccade.worlds.splits import CELLS, balanced

Slots = dict[str, str]
_C, _S = len(COLOR_NAMES), len(SHAPES)
_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
_SIDE = {"left of": "left", "right of": "right", "above": "above", "below": "below"}


@dataclass(frozen=True)
class QuestionBatch:
    """P questions about ``scenes``.

    ``slots`` fill the wording of each question, ``answers`` are texts (None where the answer is the boxes of the
    objects ``target`` ``[P, K]``), ``lines`` the texts in the pictures.
    """

    scenes: SceneBatch
    slots: list[Slots]
    answers: list[str] | None = None
    target: np.ndarray | None = None
    lines: list[Text] | None = None


Skill = Callable[[int, tuple[int, int], np.random.Generator], QuestionBatch]
"""Number of questions, least and greatest number of objects, random generator -> questions."""


def count(number: int, objects: tuple[int, int], rng: np.random.Generator) -> QuestionBatch:
    """Rings, red objects or red rings: from zero to five."""
    form = balanced(number, 3, rng)
    scenes, target, shape, color = counted_targets(number, objects, form != 1, form != 0, min(5, objects[1]), rng)
    noun = lambda f, s, c: (plural(s), f"{c} objects", f"{c} {plural(s)}")[f]
    slots = [{"kind": noun(f, SHAPES[s], COLOR_NAMES[c])} for f, s, c in zip(form, shape, color)]
    return QuestionBatch(scenes, slots, [str(n) for n in target.sum(1)])


def detection(number: int, objects: tuple[int, int], rng: np.random.Generator) -> QuestionBatch:
    """All objects of one shape: from zero to four."""
    always = np.ones(number, bool)
    scenes, target, shape, _ = counted_targets(number, objects, always, ~always, min(4, objects[1]), rng)
    return QuestionBatch(scenes, [{"kind": plural(SHAPES[s])} for s in shape], None, target)


def detection_classes(number: int, objects: tuple[int, int], rng: np.random.Generator) -> QuestionBatch:
    """All objects of two or three shapes, which the question lists."""
    scenes = sample_scenes(number, objects, rng)
    shapes = rng.random((number, _S)).argsort(1)
    listed = rng.integers(2, 4, number)
    named = [[SHAPES[s] for s in row[:n]] for row, n in zip(shapes, listed)]
    target = (scenes.shape[..., None] == np.where(np.arange(3) < listed[:, None], shapes[:, :3], -1)[:, None]).any(-1)
    return QuestionBatch(
        scenes, [{"kind": join_words([plural(s) for s in names])} for names in named], None, target & scenes.present
    )


def color(number: int, objects: tuple[int, int], rng: np.random.Generator) -> QuestionBatch:
    """The color of the only object of a shape."""
    always, value = np.ones(number, bool), balanced(number, _C, rng)
    scenes, shape, _ = unique_target(number, objects, always, ~always, rng)
    scenes.color[:, 0] = value
    return QuestionBatch(scenes, [{"shape": SHAPES[s]} for s in shape], [COLOR_NAMES[c] for c in value])


def shape(number: int, objects: tuple[int, int], rng: np.random.Generator) -> QuestionBatch:
    """The shape of the only object of a color."""
    always, value = np.ones(number, bool), balanced(number, _S, rng)
    scenes, _, color = unique_target(number, objects, ~always, always, rng)
    scenes.shape[:, 0] = value
    return QuestionBatch(scenes, [{"color": COLOR_NAMES[c]} for c in color], [SHAPES[s] for s in value])


def color_at(number: int, objects: tuple[int, int], rng: np.random.Generator) -> QuestionBatch:
    """The color of the object at a place."""
    scenes, value = sample_scenes(number, objects, rng), balanced(number, _C, rng)
    scenes.color[:, 0] = value
    return QuestionBatch(scenes, [{"cell": CELLS[c]} for c in scenes.cell[:, 0]], [COLOR_NAMES[c] for c in value])


def shape_at(number: int, objects: tuple[int, int], rng: np.random.Generator) -> QuestionBatch:
    """The shape of the object at a place."""
    scenes, value = sample_scenes(number, objects, rng), balanced(number, _S, rng)
    scenes.shape[:, 0] = value
    return QuestionBatch(scenes, [{"cell": CELLS[c]} for c in scenes.cell[:, 0]], [SHAPES[s] for s in value])


def position(number: int, objects: tuple[int, int], rng: np.random.Generator) -> QuestionBatch:
    """The place of the only object of a color and a shape."""
    always, value = np.ones(number, bool), balanced(number, 9, rng)
    scenes, _, _ = unique_target(number, objects, always, always, rng)
    scenes.cell[:] = fill_cells(value[:, None], objects[1], rng)
    return QuestionBatch(scenes, [{"thing": name} for name in _names(scenes, 0)], [CELLS[c] for c in value])


def relation(number: int, objects: tuple[int, int], rng: np.random.Generator) -> QuestionBatch:
    """Direction of one object from another in its row or column."""
    scenes, relation = related_pair(number, objects, rng)
    slots = [{"one": a, "other": b} for a, b in zip(_names(scenes, 0), _names(scenes, 1))]
    return QuestionBatch(scenes, slots, [_SIDE[RELATIONS[w]] for w in relation])


def verdict_relation(number: int, objects: tuple[int, int], rng: np.random.Generator) -> QuestionBatch:
    """Whether a relation holds: it or its opposite does."""
    scenes, relation = related_pair(number, objects, rng)
    true = balanced(number, 2, rng) == 1
    asked = [RELATIONS[w] if t else _OPPOSITE[RELATIONS[w]] for w, t in zip(relation, true)]
    pairs = zip(_names(scenes, 0), _names(scenes, 1), asked)
    return QuestionBatch(scenes, [{"one": a, "other": b, "relation": r} for a, b, r in pairs], _yes_no(true))


def verdict(number: int, objects: tuple[int, int], rng: np.random.Generator) -> QuestionBatch:
    """Whether there is an object of a color and a shape; others share one of the two, whatever the answer."""
    always, true = np.ones(number, bool), balanced(number, 2, rng) == 1
    scenes = sample_scenes(number, objects, rng)
    scenes, shape, color = with_targets(scenes, true[:, None] & (np.arange(objects[1]) == 0), always, always, rng)
    slots = [{"a_thing": _article(_name(s, c))} for s, c in zip(shape, color)]
    return QuestionBatch(scenes, slots, _yes_no(true))


def caption(number: int, objects: tuple[int, int], rng: np.random.Generator) -> QuestionBatch:
    """All objects, row by row."""
    scenes = sample_scenes(number, objects, rng)
    order = np.where(scenes.present, scenes.cell, 9).argsort(1)
    ordered = zip(
        *(np.take_along_axis(a, order, 1).tolist() for a in (scenes.shape, scenes.color)), scenes.present.sum(1)
    )
    names = [[_article(_name(s, c)) for s, c in zip(shapes[:n], colors)] for shapes, colors, n in ordered]
    return QuestionBatch(scenes, [{}] * number, [join_words(listed) for listed in names])


def text(number: int, objects: tuple[int, int], rng: np.random.Generator) -> QuestionBatch:
    """A line of one to four capital letters, in a picture without objects."""
    empty = np.zeros((number, objects[1]), int)
    meanings = meanings_of(number, rng, ["text"])
    lines = [scene.text for scene in depict(meanings, rng) if scene.text is not None]
    return QuestionBatch(
        SceneBatch(empty, empty, empty, empty > 0), [{}] * number, [line.string for line in lines], lines=lines
    )


def grounding(number: int, objects: tuple[int, int], rng: np.random.Generator) -> QuestionBatch:
    """The box of the only red ring, ring, or red object."""
    form = balanced(number, 3, rng)
    scenes, shape, color = unique_target(number, objects, form != 2, form != 1, rng)
    noun = lambda f, s, c: (f"{c} {s}", s, f"{c} object")[f]
    slots = [{"thing": noun(f, SHAPES[s], COLOR_NAMES[c])} for f, s, c in zip(form, shape, color)]
    return QuestionBatch(scenes, slots, None, first_slot(scenes))


def grounding_relation(number: int, objects: tuple[int, int], rng: np.random.Generator) -> QuestionBatch:
    """The box of the ring left of the blue square, while another ring stands elsewhere."""
    scenes, relation = related_pair(number, objects, rng, at_least=3)
    kind = scenes.shape[:, 0]
    scenes.shape[:, 1:] = different_values(kind, _S, rng, objects[1] - 1)
    scenes.shape[:, 2] = kind
    anchor = scenes.shape[:, 1:2], scenes.color[:, 1:2]
    same = (scenes.shape == anchor[0]) & (scenes.color == anchor[1])
    same[:, 1] = False
    scenes.color[same] = (scenes.color[same] + 1) % _C
    free = OFF_SIDE[relation, scenes.cell[:, 1]].copy()
    np.put_along_axis(free, scenes.cell[:, :2], False, 1)
    distractor = np.where(free, rng.random((number, 9)), -1).argmax(1)
    scenes.cell[:] = fill_cells(np.stack([*scenes.cell[:, :2].T, distractor], 1), objects[1], rng)
    named = zip(kind, relation, _names(scenes, 1))
    slots = [{"thing": f"{SHAPES[s]} {RELATIONS[r]} the {name}"} for s, r, name in named]
    return QuestionBatch(scenes, slots, None, first_slot(scenes))


def _name(shape: int, color: int) -> str:
    return f"{COLOR_NAMES[color]} {SHAPES[shape]}"


def _names(scenes: SceneBatch, slot: int) -> list[str]:
    return [_name(s, c) for s, c in zip(scenes.shape[:, slot].tolist(), scenes.color[:, slot].tolist())]


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _yes_no(true: np.ndarray) -> list[str]:
    return ["yes" if t else "no" for t in true]


SKILLS: dict[str, Skill] = {
    "count": count,
    "color": color,
    "color_at": color_at,
    "shape": shape,
    "shape_at": shape_at,
    "relation": relation,
    "position": position,
    "verdict": verdict,
    "verdict_relation": verdict_relation,
    "caption": caption,
    "text": text,
    "grounding": grounding,
    "detection": detection,
}
HELD_OUT_SKILLS: dict[str, Skill] = {"grounding_relation": grounding_relation, "detection_classes": detection_classes}
"""Skills that are only used by name: they measure what training on the others transfers to."""
MIN_OBJECTS = {"relation": 2, "verdict_relation": 2, "grounding_relation": 3}
"""Least number of objects in a scene of a skill; 1 where it is not listed."""
