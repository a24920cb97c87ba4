"""Lessons: pictures of the world of questions, each with several questions that its scene answers.

The world asks one question a picture. Encoding a picture costs more than reading ten questions, so a lesson asks whatever
the scene can answer, in all of the world's wordings: what generalises is for those to show who train on some of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from saccade.recipes.miniatures._vl_views import Views, views_of, views_of_lines
from saccade.worlds.draws import CELLS
from saccade.worlds.questions import HELD_OUT_SKILLS, SKILLS, WORDINGS, box_text, detection_text
from saccade.worlds.questions.answers import listing
from saccade.worlds.questions.layouts import COLOR_NAMES, Crowd, settle
from saccade.worlds.questions.skills import NEEDS
from saccade.worlds.questions.styles import draw
from saccade.worlds.shapes import SHAPES
from saccade.worlds.shapes.captions import plural

_SIDES = {"left": "left of", "right": "right of", "above": "above", "below": "below"}
_BINDING = (*("count", "relation", "relation", "verdict_relation", "grounding_relation") * 3, "verdict", "grounding")
_STAGED = (*SKILLS, "count", "count", "relation", "grounding_relation")
"""For which skills pictures are staged: only there are many numbers and all sides as likely."""
_OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}


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
    """How questions are put, and what is made wrong on purpose: of how many wordings each, a share of wrong answers, most
    pixels by which edges of boxes lie too far out, a share of answers that lack a tag; and the share of first glances whose
    box holds what is asked for."""

    wordings: int = 6
    wrong: float = 0.0
    loose: int = 0
    untagged: float = 0.0
    sufficient: float = 1.0


def lessons(
    count: int, size: int, most: int, asked: int, manner: Manner, rng: np.random.Generator
) -> tuple[Views, list[list[Fact]]]:
    """``count`` pictures of one size and style, of at most so many objects, staged for one skill, with ``asked`` questions each."""
    skill = str(rng.choice([name for name in _STAGED if NEEDS.get(name, 1) <= most]))
    what = {**SKILLS, **HELD_OUT_SKILLS}[skill](count, (1, most), rng)
    places, unit = settle(what.crowd, (0.095, 0.13), rng)
    style = "gravity" if rng.random() < 0.4 else "plain"
    pictures = draw(what.crowd, places, what.lines or [None] * count, size, style)
    if what.lines:
        return views_of_lines(what.lines, pictures), [[_fact("text", manner, rng, answer)] for answer in what.answers]
    views = views_of(what.crowd, unit, pictures)
    told = [_some(_things(views, what.crowd, i), asked, manner, rng) for i in range(count)]
    if what.answers is not None:
        for i, facts in enumerate(told):
            facts[0] = _fact(skill, manner, rng, what.answers[i], **what.slots[i])
    return views, told


def _things(views: Views, seen: Crowd, row: int) -> list[Thing]:
    rows = zip(seen.shape[row].tolist(), seen.color[row].tolist(), seen.cell[row].tolist(), views.boxes[row].tolist())
    listed = [Thing(SHAPES[s], COLOR_NAMES[c], k, tuple(b)) for (s, c, k, b), here in zip(rows, seen.here[row]) if here]
    return sorted(listed, key=lambda thing: thing.cell)


def _some(things: list[Thing], asked: int, manner: Manner, rng: np.random.Generator) -> list[Fact]:
    """Questions of different skills, as far as the scene allows them; those that bind words to several things more often."""
    names = rng.permutation([*ASK, *_BINDING])
    facts: list[Fact] = []
    for name in names:
        fact = ASK[str(name)](things, manner, rng)
        if fact is not None:
            facts.append(fact)
        if len(facts) == asked:
            break
    return facts


def _fact(skill: str, manner: Manner, rng: np.random.Generator, answer: str, thought: str = "", **slots: str) -> Fact:
    return Fact(skill, str(rng.choice(WORDINGS[skill][: manner.wordings])).format(**slots), answer, thought)


def _pick(values: Sequence, rng: np.random.Generator):
    return values[int(rng.integers(len(values)))]


def _maybe(answer: str, others: Sequence[str], manner: Manner, rng: np.random.Generator) -> str:
    return str(_pick(others, rng)) if rng.random() < manner.wrong else answer


def _alone(things: list[Thing], key: Callable[[Thing], str]) -> list[Thing]:
    """The things that share a word with no other."""
    number = Counter(map(key, things))
    return [thing for thing in things if number[key(thing)] == 1]


def _kind(things: list[Thing], rng: np.random.Generator) -> tuple[str, list[Thing]]:
    """A kind of things in the plural, mostly one that is there, and the things of that kind."""
    shown = _pick(things, rng)
    shape, color = shown.shape, shown.color
    if rng.random() < 0.25:
        shape, color = str(_pick(SHAPES, rng)), str(_pick(COLOR_NAMES, rng))
    form = int(rng.integers(3))
    words = (plural(shape), f"{color} objects", f"{color} {plural(shape)}")[form]
    return words, [t for t in things if (form == 1 or t.shape == shape) and (form == 0 or t.color == color)]


def _count(things: list[Thing], manner: Manner, rng: np.random.Generator) -> Fact:
    words, found = _kind(things, rng)
    return _fact("count", manner, rng, _maybe(str(len(found)), "01234", manner, rng), kind=words)


def _color(things: list[Thing], manner: Manner, rng: np.random.Generator) -> Fact | None:
    found = _alone(things, lambda t: t.shape)
    if not found:
        return None
    thing = _pick(found, rng)
    return _fact("color", manner, rng, _maybe(thing.color, COLOR_NAMES, manner, rng), shape=thing.shape)


def _shape(things: list[Thing], manner: Manner, rng: np.random.Generator) -> Fact | None:
    found = _alone(things, lambda t: t.color)
    if not found:
        return None
    thing = _pick(found, rng)
    return _fact("shape", manner, rng, _maybe(thing.shape, SHAPES, manner, rng), color=thing.color)


def _color_at(things: list[Thing], manner: Manner, rng: np.random.Generator) -> Fact:
    thing = _pick(things, rng)
    return _fact("color_at", manner, rng, _maybe(thing.color, COLOR_NAMES, manner, rng), cell=CELLS[thing.cell])


def _shape_at(things: list[Thing], manner: Manner, rng: np.random.Generator) -> Fact:
    thing = _pick(things, rng)
    return _fact("shape_at", manner, rng, _maybe(thing.shape, SHAPES, manner, rng), cell=CELLS[thing.cell])


def _position(things: list[Thing], manner: Manner, rng: np.random.Generator) -> Fact | None:
    found = _alone(things, lambda t: t.name)
    if not found:
        return None
    thing = _pick(found, rng)
    return _fact("position", manner, rng, _maybe(CELLS[thing.cell], CELLS, manner, rng), thing=thing.name)


def _pair(things: list[Thing], rng: np.random.Generator) -> tuple[Thing, Thing, str] | None:
    """Two things in one row or column, and where the first is from the second."""
    found = _alone(things, lambda t: t.name)
    for one in rng.permutation(len(found)):
        for other in rng.permutation(len(found)):
            a, b = found[one].cell, found[other].cell
            if a // 3 == b // 3 and a != b:
                return found[one], found[other], "left" if a < b else "right"
            if a % 3 == b % 3 and a != b:
                return found[one], found[other], "above" if a < b else "below"
    return None


def _relation(things: list[Thing], manner: Manner, rng: np.random.Generator) -> Fact | None:
    pair = _pair(things, rng)
    if pair is None:
        return None
    one, other, side = pair
    return _fact("relation", manner, rng, _maybe(side, tuple(_SIDES), manner, rng), one=one.name, other=other.name)


def _verdict_relation(things: list[Thing], manner: Manner, rng: np.random.Generator) -> Fact | None:
    pair = _pair(things, rng)
    if pair is None:
        return None
    one, other, side = pair
    true = rng.random() < 0.5
    said = _SIDES[side if true else _OPPOSITE[side]]
    answer = _maybe("yes" if true else "no", ("yes", "no"), manner, rng)
    return _fact("verdict_relation", manner, rng, answer, one=one.name, other=other.name, relation=said)


def _verdict(things: list[Thing], manner: Manner, rng: np.random.Generator) -> Fact:
    shown, true = _pick(things, rng), rng.random() < 0.5
    name = shown.name
    while not true and name in {t.name for t in things}:
        half = rng.random() < 0.5
        name = f"{shown.color} {_pick(SHAPES, rng)}" if half else f"{_pick(COLOR_NAMES, rng)} {shown.shape}"
    answer = _maybe("yes" if true else "no", ("yes", "no"), manner, rng)
    return _fact("verdict", manner, rng, answer, a_thing=_article(name))


def _caption(things: list[Thing], manner: Manner, rng: np.random.Generator) -> Fact:
    return _fact("caption", manner, rng, listing([_article(t.name) for t in things]))


def _grounding(things: list[Thing], manner: Manner, rng: np.random.Generator) -> Fact | None:
    form = int(rng.integers(3))
    key = (lambda t: t.name, lambda t: t.shape, lambda t: f"{t.color} object")[form]
    found = _alone(things, key)
    if not found:
        return None
    thing = _pick(found, rng)
    return _fact("grounding", manner, rng, box_text(_off(thing.box, manner, rng)), f"{thing.name}", thing=key(thing))


def _grounding_relation(things: list[Thing], manner: Manner, rng: np.random.Generator) -> Fact | None:
    """The one thing of its shape on a side of another thing, in its row or column."""
    pair = _pair(things, rng)
    if pair is None:
        return None
    one, other, side = pair
    rivals = [t for t in things if t.shape == one.shape and t is not one and (t is other or _on(side, t.cell, other.cell))]
    if rivals:
        return None
    meant = f"{one.shape} {_SIDES[side]} the {other.name}"
    return _fact("grounding_relation", manner, rng, box_text(_off(one.box, manner, rng)), one.name, thing=meant)


def _on(side: str, cell: int, other: int) -> bool:
    """Whether a cell lies on that side of another, in whatever row or column."""
    across, down = cell % 3 - other % 3, cell // 3 - other // 3
    return {"left": across < 0, "right": across > 0, "above": down < 0, "below": down > 0}[side]


def _detection(things: list[Thing], manner: Manner, rng: np.random.Generator) -> Fact:
    shape = _pick(things, rng).shape if rng.random() < 0.75 else str(_pick(SHAPES, rng))
    found = [t for t in things if t.shape == shape][:4]
    answer = detection_text([_off(t.box, manner, rng) for t in found], [shape] * len(found))
    return _fact("detection", manner, rng, answer, f"{len(found)}", kind=plural(shape))


def _off(box: Sequence[float], manner: Manner, rng: np.random.Generator) -> list[float]:
    """A box whose edges lie up to ``loose`` pixels too far out."""
    out = rng.integers(min(manner.loose, 1), manner.loose + 1, 4)
    x1, y1, x2, y2 = (np.rint(box) + out * (-1, -1, 1, 1)).tolist()
    return [max(x1, 0.0), max(y1, 0.0), x2, y2]


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


ASK: dict[str, Callable[[list[Thing], Manner, np.random.Generator], Fact | None]] = {
    "count": _count, "color": _color, "color_at": _color_at, "shape": _shape, "shape_at": _shape_at,
    "relation": _relation, "position": _position, "verdict": _verdict, "verdict_relation": _verdict_relation,
    "caption": _caption, "grounding": _grounding,
    "grounding_relation": _grounding_relation, "detection": _detection,
}  # fmt: skip
