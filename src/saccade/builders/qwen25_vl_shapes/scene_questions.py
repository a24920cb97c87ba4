"""Questions that a given scene can answer, in all wordings of the world, with deliberate noise in the answers.

The world has one question for each picture. Encoding a picture costs more than ten questions, so a training batch asks
whatever a scene can answer. Generalization to held-out wordings is measured by recipes, not here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TypeVar

import numpy as np

from saccade.worlds.questions import WORDINGS, box_text, detection_text
from saccade.worlds.questions.answers import join_words
from saccade.worlds.questions.layouts import COLOR_NAMES
from saccade.worlds.shapes import SHAPES
from saccade.worlds.shapes.captions import plural
from saccade.worlds.splits import CELLS

T = TypeVar("T")

_SIDES = {"left": "left of", "right": "right of", "above": "above", "below": "below"}

_OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}

Key = Callable[["SceneObject"], str]
"""A word for an object."""

Ask = Callable[[list["SceneObject"], "QuestionSampler"], "SceneQuestion | None"]
"""A question that a scene can answer, None where it cannot."""


@dataclass(frozen=True)
class SceneObject:
    """One object: shape and color in words, its cell of the 3 x 3 grid and its box in pixels."""

    shape: str
    color: str
    cell: int
    box: tuple[float, ...]

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape}"


@dataclass(frozen=True)
class SceneQuestion:
    """A question and its answer; ``thought`` is the text of thoughts, if the template asks for them."""

    skill: str
    text: str
    answer: str
    thought: str = ""


@dataclass(frozen=True)
class AnswerNoise:
    """Variety of questions, and deliberate noise in their answers."""

    wordings: int = 6
    """Number of wordings of each skill."""
    wrong_rate: float = 0.0
    """Share of answers that are wrong."""
    max_offset: int = 0
    """Most pixels by which an edge of a box lies too far out."""
    missing_tag_rate: float = 0.0
    """Share of tagged answers that lack a tag."""
    sufficient_rate: float = 1.0
    """Share of boxes in full views of canvases that contain the digit."""


@dataclass(frozen=True)
class QuestionSampler:
    """Samples questions and noisy answers."""

    noise: AnswerNoise
    rng: np.random.Generator

    def choice(self, values: Sequence[T]) -> T:
        """One of the values, uniformly."""
        return values[int(self.rng.integers(len(values)))]

    def question(self, skill: str, answer: str, thought: str = "", **slots: str) -> SceneQuestion:
        """A question in a random wording, and its answer."""
        wording = str(self.rng.choice(WORDINGS[skill][: self.noise.wordings]))
        return SceneQuestion(skill, wording.format(**slots), answer, thought)

    def noisy_answer(self, answer: str, others: Sequence[str]) -> str:
        """The answer, or with the rate of wrong answers one of ``others``."""
        return str(self.choice(others)) if self.rng.random() < self.noise.wrong_rate else answer

    def noisy_yes_no(self, true: bool) -> str:
        """Yes or no, sometimes wrong."""
        return self.noisy_answer("yes" if true else "no", ("yes", "no"))

    def noisy_box(self, box: Sequence[float]) -> list[float]:
        """The box with edges up to ``max_offset`` pixels too far out."""
        out = self.rng.integers(min(self.noise.max_offset, 1), self.noise.max_offset + 1, 4)
        x1, y1, x2, y2 = (np.rint(box) + out * (-1, -1, 1, 1)).tolist()
        return [max(x1, 0.0), max(y1, 0.0), x2, y2]


def _unique(objects: list[SceneObject], key: Key) -> list[SceneObject]:
    """The objects that share their word with no other."""
    number = Counter(map(key, objects))
    return [each for each in objects if number[key(each)] == 1]


def _about_one(skill: str, identified_by: Key | None, answer: Key, others: Sequence[str], **slots: Key) -> Ask:
    """Asks for a word of an object, of one that is unique in its word ``identified_by``."""

    def ask(objects: list[SceneObject], sampler: QuestionSampler) -> SceneQuestion | None:
        found = _unique(objects, identified_by) if identified_by else objects
        if not found:
            return None
        target = sampler.choice(found)
        words = {slot: key(target) for slot, key in slots.items()}
        return sampler.question(skill, sampler.noisy_answer(answer(target), others), **words)

    return ask


def _about_two(
    ask: Callable[[list[SceneObject], QuestionSampler, SceneObject, SceneObject, str], SceneQuestion | None],
) -> Ask:
    """Asks about two objects in one row or column and the direction of the first from the second."""

    def asked(objects: list[SceneObject], sampler: QuestionSampler) -> SceneQuestion | None:
        found = _unique(objects, _name)
        for one in sampler.rng.permutation(len(found)):
            for other in sampler.rng.permutation(len(found)):
                if side := _side(found[one].cell, found[other].cell):
                    return ask(objects, sampler, found[one], found[other], side)
        return None

    return asked


def _side(a: int, b: int) -> str:
    """Direction of a cell from another in its row or column, "" if it is in neither."""
    if a // 3 == b // 3 and a != b:
        return "left" if a < b else "right"
    if a % 3 == b % 3 and a != b:
        return "above" if a < b else "below"
    return ""


def _count(objects: list[SceneObject], sampler: QuestionSampler) -> SceneQuestion:
    """The number of objects of a kind, mostly one that is present."""
    example = sampler.choice(objects)
    shape, color = example.shape, example.color
    if sampler.rng.random() < 0.25:
        shape, color = str(sampler.choice(SHAPES)), str(sampler.choice(COLOR_NAMES))
    form = int(sampler.rng.integers(3))
    words = (plural(shape), f"{color} objects", f"{color} {plural(shape)}")[form]
    found = [t for t in objects if (form == 1 or t.shape == shape) and (form == 0 or t.color == color)]
    return sampler.question("count", sampler.noisy_answer(str(len(found)), "01234"), kind=words)


def _relation(
    objects: list[SceneObject], sampler: QuestionSampler, one: SceneObject, other: SceneObject, side: str
) -> SceneQuestion:
    return sampler.question("relation", sampler.noisy_answer(side, tuple(_SIDES)), one=one.name, other=other.name)


def _verdict_relation(
    objects: list[SceneObject], sampler: QuestionSampler, one: SceneObject, other: SceneObject, side: str
) -> SceneQuestion:
    true = sampler.rng.random() < 0.5
    relation = _SIDES[side if true else _OPPOSITE[side]]
    return sampler.question(
        "verdict_relation", sampler.noisy_yes_no(true), one=one.name, other=other.name, relation=relation
    )


def _verdict(objects: list[SceneObject], sampler: QuestionSampler) -> SceneQuestion:
    example, true = sampler.choice(objects), sampler.rng.random() < 0.5
    name = example.name
    while not true and name in {t.name for t in objects}:
        half = sampler.rng.random() < 0.5
        name = f"{example.color} {sampler.choice(SHAPES)}" if half else f"{sampler.choice(COLOR_NAMES)} {example.shape}"
    return sampler.question("verdict", sampler.noisy_yes_no(true), a_thing=_article(name))


def _caption(objects: list[SceneObject], sampler: QuestionSampler) -> SceneQuestion:
    return sampler.question("caption", join_words([_article(t.name) for t in objects]))


def _grounding(objects: list[SceneObject], sampler: QuestionSampler) -> SceneQuestion | None:
    key = sampler.choice((_name, _shape, lambda t: f"{t.color} object"))
    found = _unique(objects, key)
    if not found:
        return None
    target = sampler.choice(found)
    return sampler.question("grounding", box_text(sampler.noisy_box(target.box)), target.name, thing=key(target))


def _grounding_relation(
    objects: list[SceneObject], sampler: QuestionSampler, one: SceneObject, other: SceneObject, side: str
) -> SceneQuestion | None:
    """The only object of its shape on a side of another object, in its row or column."""
    distractors = [
        t for t in objects if t.shape == one.shape and t is not one and (t is other or _on(side, t.cell, other.cell))
    ]
    if distractors:
        return None
    meant = f"{one.shape} {_SIDES[side]} the {other.name}"
    return sampler.question("grounding_relation", box_text(sampler.noisy_box(one.box)), one.name, thing=meant)


def _on(side: str, cell: int, other: int) -> bool:
    """Whether a cell lies on that side of another, in any row or column."""
    across, down = cell % 3 - other % 3, cell // 3 - other // 3
    return {"left": across < 0, "right": across > 0, "above": down < 0, "below": down > 0}[side]


def _detection(objects: list[SceneObject], sampler: QuestionSampler) -> SceneQuestion:
    shape = sampler.choice(objects).shape if sampler.rng.random() < 0.75 else str(sampler.choice(SHAPES))
    found = [t for t in objects if t.shape == shape][:4]
    answer = detection_text([sampler.noisy_box(t.box) for t in found], [shape] * len(found))
    return sampler.question("detection", answer, f"{len(found)}", kind=plural(shape))


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


_name, _shape, _color = attrgetter("name"), attrgetter("shape"), attrgetter("color")

_place: Key = lambda each: CELLS[each.cell]

QUESTIONS: dict[str, Ask] = {
    "count": _count,
    "color": _about_one("color", _shape, _color, COLOR_NAMES, shape=_shape),
    "color_at": _about_one("color_at", None, _color, COLOR_NAMES, cell=_place),
    "shape": _about_one("shape", _color, _shape, SHAPES, color=_color),
    "shape_at": _about_one("shape_at", None, _shape, SHAPES, cell=_place),
    "relation": _about_two(_relation),
    "position": _about_one("position", _name, _place, CELLS, thing=_name),
    "verdict": _verdict,
    "verdict_relation": _about_two(_verdict_relation),
    "caption": _caption,
    "grounding": _grounding,
    "grounding_relation": _about_two(_grounding_relation),
    "detection": _detection,
}
