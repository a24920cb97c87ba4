"""Facts: questions that a scene answers, in all of the world's wordings, with what is made wrong on purpose.

The world asks one question a picture. Encoding a picture costs more than reading ten questions, so a lesson asks
whatever the scene can answer: what generalises is for those to show who train on some of the wordings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from saccade.worlds.questions import WORDINGS, box_text, detection_text
from saccade.worlds.questions.answers import listing
from saccade.worlds.questions.layouts import COLOR_NAMES
from saccade.worlds.shapes import SHAPES
from saccade.worlds.shapes.captions import plural
from saccade.worlds.splits import CELLS

_SIDES = {"left": "left of", "right": "right of", "above": "above", "below": "below"}

_OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}

Key = Callable[["Thing"], str]
"""A word for a thing."""

Ask = Callable[[list["Thing"], "Teller"], "Fact | None"]
"""A question that a scene can answer, None where it cannot."""


@dataclass(frozen=True)
class Thing:
    """One object: its words, its place in the 3 x 3 grid and its box in pixels."""

    shape: str
    color: str
    cell: int
    box: tuple[float, ...]

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape}"


@dataclass(frozen=True)
class Fact:
    """A question and its answer. ``thought`` is what may be thought before."""

    skill: str
    text: str
    answer: str
    thought: str = ""


@dataclass(frozen=True)
class Manner:
    """How questions are put, and what is made wrong on purpose: of how many wordings each, a share of wrong answers,
    most pixels by which edges of boxes lie too far out, a share of answers that lack a tag; and the share of first
    glances whose box holds what is asked for.
    """

    wordings: int = 6
    wrong: float = 0.0
    loose: int = 0
    untagged: float = 0.0
    sufficient: float = 1.0


@dataclass(frozen=True)
class Teller:
    """What is told in a manner, as chance has it."""

    manner: Manner
    rng: np.random.Generator

    def one(self, values: Sequence):
        """One of some, each as likely."""
        return values[int(self.rng.integers(len(values)))]

    def fact(self, skill: str, answer: str, thought: str = "", **slots: str) -> Fact:
        """A question in one of the wordings, and its answer."""
        return Fact(
            skill, str(self.rng.choice(WORDINGS[skill][: self.manner.wordings])).format(**slots), answer, thought
        )

    def maybe(self, answer: str, others: Sequence[str]) -> str:
        """The answer, or a wrong one."""
        return str(self.one(others)) if self.rng.random() < self.manner.wrong else answer

    def verdict(self, true: bool) -> str:
        """Yes or no."""
        return self.maybe("yes" if true else "no", ("yes", "no"))

    def off(self, box: Sequence[float]) -> list[float]:
        """A box whose edges lie up to ``loose`` pixels too far out."""
        out = self.rng.integers(min(self.manner.loose, 1), self.manner.loose + 1, 4)
        x1, y1, x2, y2 = (np.rint(box) + out * (-1, -1, 1, 1)).tolist()
        return [max(x1, 0.0), max(y1, 0.0), x2, y2]


def _alone(things: list[Thing], key: Key) -> list[Thing]:
    """The things that share a word with no other."""
    number = Counter(map(key, things))
    return [thing for thing in things if number[key(thing)] == 1]


def _about_one(skill: str, told_by: Key | None, answer: Key, others: Sequence[str], **slots: Key) -> Ask:
    """Asks for a word of a thing, of one that no other shares ``told_by`` with."""

    def ask(things: list[Thing], tell: Teller) -> Fact | None:
        found = _alone(things, told_by) if told_by else things
        if not found:
            return None
        thing = tell.one(found)
        return tell.fact(skill, tell.maybe(answer(thing), others), **{slot: key(thing) for slot, key in slots.items()})

    return ask


def _about_two(ask: Callable[[list[Thing], Teller, Thing, Thing, str], Fact | None]) -> Ask:
    """Asks about two things in one row or column, and where the first is from the second."""

    def asked(things: list[Thing], tell: Teller) -> Fact | None:
        found = _alone(things, _name)
        for one in tell.rng.permutation(len(found)):
            for other in tell.rng.permutation(len(found)):
                if side := _side(found[one].cell, found[other].cell):
                    return ask(things, tell, found[one], found[other], side)
        return None

    return asked


def _side(a: int, b: int) -> str:
    """Where a cell lies from another in its row or column, nowhere if it is in neither."""
    if a // 3 == b // 3 and a != b:
        return "left" if a < b else "right"
    if a % 3 == b % 3 and a != b:
        return "above" if a < b else "below"
    return ""


def _count(things: list[Thing], tell: Teller) -> Fact:
    """How many there are of a kind, mostly one that is there."""
    shown = tell.one(things)
    shape, color = shown.shape, shown.color
    if tell.rng.random() < 0.25:
        shape, color = str(tell.one(SHAPES)), str(tell.one(COLOR_NAMES))
    form = int(tell.rng.integers(3))
    words = (plural(shape), f"{color} objects", f"{color} {plural(shape)}")[form]
    found = [t for t in things if (form == 1 or t.shape == shape) and (form == 0 or t.color == color)]
    return tell.fact("count", tell.maybe(str(len(found)), "01234"), kind=words)


def _relation(things: list[Thing], tell: Teller, one: Thing, other: Thing, side: str) -> Fact:
    return tell.fact("relation", tell.maybe(side, tuple(_SIDES)), one=one.name, other=other.name)


def _verdict_relation(things: list[Thing], tell: Teller, one: Thing, other: Thing, side: str) -> Fact:
    true = tell.rng.random() < 0.5
    said = _SIDES[side if true else _OPPOSITE[side]]
    return tell.fact("verdict_relation", tell.verdict(true), one=one.name, other=other.name, relation=said)


def _verdict(things: list[Thing], tell: Teller) -> Fact:
    shown, true = tell.one(things), tell.rng.random() < 0.5
    name = shown.name
    while not true and name in {t.name for t in things}:
        half = tell.rng.random() < 0.5
        name = f"{shown.color} {tell.one(SHAPES)}" if half else f"{tell.one(COLOR_NAMES)} {shown.shape}"
    return tell.fact("verdict", tell.verdict(true), a_thing=_article(name))


def _caption(things: list[Thing], tell: Teller) -> Fact:
    return tell.fact("caption", listing([_article(t.name) for t in things]))


def _grounding(things: list[Thing], tell: Teller) -> Fact | None:
    key = tell.one((_name, _shape, lambda t: f"{t.color} object"))
    found = _alone(things, key)
    if not found:
        return None
    thing = tell.one(found)
    return tell.fact("grounding", box_text(tell.off(thing.box)), thing.name, thing=key(thing))


def _grounding_relation(things: list[Thing], tell: Teller, one: Thing, other: Thing, side: str) -> Fact | None:
    """The one thing of its shape on a side of another thing, in its row or column."""
    rivals = [
        t for t in things if t.shape == one.shape and t is not one and (t is other or _on(side, t.cell, other.cell))
    ]
    if rivals:
        return None
    meant = f"{one.shape} {_SIDES[side]} the {other.name}"
    return tell.fact("grounding_relation", box_text(tell.off(one.box)), one.name, thing=meant)


def _on(side: str, cell: int, other: int) -> bool:
    """Whether a cell lies on that side of another, in whatever row or column."""
    across, down = cell % 3 - other % 3, cell // 3 - other // 3
    return {"left": across < 0, "right": across > 0, "above": down < 0, "below": down > 0}[side]


def _detection(things: list[Thing], tell: Teller) -> Fact:
    shape = tell.one(things).shape if tell.rng.random() < 0.75 else str(tell.one(SHAPES))
    found = [t for t in things if t.shape == shape][:4]
    answer = detection_text([tell.off(t.box) for t in found], [shape] * len(found))
    return tell.fact("detection", answer, f"{len(found)}", kind=plural(shape))


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


_name, _shape, _color = attrgetter("name"), attrgetter("shape"), attrgetter("color")

_place: Key = lambda thing: CELLS[thing.cell]

ASK: dict[str, Ask] = {
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
