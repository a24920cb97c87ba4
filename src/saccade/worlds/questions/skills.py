"""One function a skill: P scenes drawn so that the question has exactly one answer, and the answers in equal parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from saccade.worlds.questions.answers import listing
from saccade.worlds.questions.layouts import COLOR_NAMES, Crowd, crowd, other, seats
from saccade.worlds.questions.staging import ELSEWHERE, first, one, pair, some, tell_apart
from saccade.worlds.shapes import RELATIONS, SHAPES, Text, depict, meanings_of
from saccade.worlds.shapes.captions import plural
from saccade.worlds.splits import CELLS, balanced

Slots = dict[str, str]
_C, _S = len(COLOR_NAMES), len(SHAPES)
_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
_SIDE = {"left of": "left", "right of": "right", "above": "above", "below": "below"}


@dataclass(frozen=True)
class Asked:
    """P questions: ``crowd`` what is seen, ``slots`` what fills the wording, ``answers`` their texts (None where the
    answer is the boxes of ``target`` [P, K]), ``lines`` what is written.
    """

    crowd: Crowd
    slots: list[Slots]
    answers: list[str] | None = None
    target: np.ndarray | None = None
    lines: list[Text] | None = None


Skill = Callable[[int, tuple[int, int], np.random.Generator], Asked]
"""How many questions, the least and greatest number of objects, random numbers."""


def count(number: int, objects: tuple[int, int], rng: np.random.Generator) -> Asked:
    """Rings, red objects or red rings: from none to five."""
    form = balanced(number, 3, rng)
    things, target, shape, color = some(number, objects, form != 1, form != 0, min(5, objects[1]), rng)
    noun = lambda f, s, c: (plural(s), f"{c} objects", f"{c} {plural(s)}")[f]
    slots = [{"kind": noun(f, SHAPES[s], COLOR_NAMES[c])} for f, s, c in zip(form, shape, color)]
    return Asked(things, slots, [str(n) for n in target.sum(1)])


def detection(number: int, objects: tuple[int, int], rng: np.random.Generator) -> Asked:
    """All objects of one shape: from none to four."""
    yes = np.ones(number, bool)
    things, target, shape, _ = some(number, objects, yes, ~yes, min(4, objects[1]), rng)
    return Asked(things, [{"kind": plural(SHAPES[s])} for s in shape], None, target)


def detection_classes(number: int, objects: tuple[int, int], rng: np.random.Generator) -> Asked:
    """All objects of two or three shapes, which are listed."""
    things = crowd(number, objects, rng)
    wanted = rng.random((number, _S)).argsort(1)
    listed = rng.integers(2, 4, number)
    named = [[SHAPES[s] for s in row[:n]] for row, n in zip(wanted, listed)]
    target = (things.shape[..., None] == np.where(np.arange(3) < listed[:, None], wanted[:, :3], -1)[:, None]).any(-1)
    return Asked(things, [{"kind": listing([plural(s) for s in names])} for names in named], None, target & things.here)


def color(number: int, objects: tuple[int, int], rng: np.random.Generator) -> Asked:
    """The colour of the only object of a shape."""
    yes, value = np.ones(number, bool), balanced(number, _C, rng)
    things, shape, _ = one(number, objects, yes, ~yes, rng)
    things.color[:, 0] = value
    return Asked(things, [{"shape": SHAPES[s]} for s in shape], [COLOR_NAMES[c] for c in value])


def shape(number: int, objects: tuple[int, int], rng: np.random.Generator) -> Asked:
    """The shape of the only object of a colour."""
    yes, value = np.ones(number, bool), balanced(number, _S, rng)
    things, _, color = one(number, objects, ~yes, yes, rng)
    things.shape[:, 0] = value
    return Asked(things, [{"color": COLOR_NAMES[c]} for c in color], [SHAPES[s] for s in value])


def color_at(number: int, objects: tuple[int, int], rng: np.random.Generator) -> Asked:
    """The colour of the object at a place."""
    things, value = crowd(number, objects, rng), balanced(number, _C, rng)
    things.color[:, 0] = value
    return Asked(things, [{"cell": CELLS[c]} for c in things.cell[:, 0]], [COLOR_NAMES[c] for c in value])


def shape_at(number: int, objects: tuple[int, int], rng: np.random.Generator) -> Asked:
    """The shape of the object at a place."""
    things, value = crowd(number, objects, rng), balanced(number, _S, rng)
    things.shape[:, 0] = value
    return Asked(things, [{"cell": CELLS[c]} for c in things.cell[:, 0]], [SHAPES[s] for s in value])


def position(number: int, objects: tuple[int, int], rng: np.random.Generator) -> Asked:
    """The place of the only object of a colour and a shape."""
    yes, value = np.ones(number, bool), balanced(number, 9, rng)
    things, _, _ = one(number, objects, yes, yes, rng)
    things.cell[:] = seats(value[:, None], objects[1], rng)
    return Asked(things, [{"thing": name} for name in _names(things, 0)], [CELLS[c] for c in value])


def relation(number: int, objects: tuple[int, int], rng: np.random.Generator) -> Asked:
    """Where one object is as seen from another in its row or column."""
    things, way = pair(number, objects, rng)
    slots = [{"one": a, "other": b} for a, b in zip(_names(things, 0), _names(things, 1))]
    return Asked(things, slots, [_SIDE[RELATIONS[w]] for w in way])


def verdict_relation(number: int, objects: tuple[int, int], rng: np.random.Generator) -> Asked:
    """Whether a relation holds: it or its opposite does."""
    things, way = pair(number, objects, rng)
    true = balanced(number, 2, rng) == 1
    said = [RELATIONS[w] if t else _OPPOSITE[RELATIONS[w]] for w, t in zip(way, true)]
    pairs = zip(_names(things, 0), _names(things, 1), said)
    return Asked(things, [{"one": a, "other": b, "relation": r} for a, b, r in pairs], _yes_no(true))


def verdict(number: int, objects: tuple[int, int], rng: np.random.Generator) -> Asked:
    """Whether there is an object of a colour and a shape; others share one of the two, whatever the answer."""
    yes, true = np.ones(number, bool), balanced(number, 2, rng) == 1
    drawn = crowd(number, objects, rng)
    things, shape, color = tell_apart(drawn, true[:, None] & (np.arange(objects[1]) == 0), yes, yes, rng)
    slots = [{"a_thing": _article(_name(s, c))} for s, c in zip(shape, color)]
    return Asked(things, slots, _yes_no(true))


def caption(number: int, objects: tuple[int, int], rng: np.random.Generator) -> Asked:
    """All objects, row by row."""
    things = crowd(number, objects, rng)
    order = np.where(things.here, things.cell, 9).argsort(1)
    inorder = zip(*(np.take_along_axis(a, order, 1).tolist() for a in (things.shape, things.color)), things.here.sum(1))
    names = [[_article(_name(s, c)) for s, c in zip(shapes[:n], colors)] for shapes, colors, n in inorder]
    return Asked(things, [{}] * number, [listing(listed) for listed in names])


def text(number: int, objects: tuple[int, int], rng: np.random.Generator) -> Asked:
    """A line of one to four capital letters, and nothing else."""
    empty = np.zeros((number, objects[1]), int)
    meanings = meanings_of(number, rng, ["text"])
    lines = [scene.text for scene in depict(meanings, rng)]
    return Asked(Crowd(empty, empty, empty, empty > 0), [{}] * number, [line.string for line in lines], lines=lines)


def grounding(number: int, objects: tuple[int, int], rng: np.random.Generator) -> Asked:
    """The box of the only red ring, ring, or red object."""
    form = balanced(number, 3, rng)
    things, shape, color = one(number, objects, form != 2, form != 1, rng)
    noun = lambda f, s, c: (f"{c} {s}", s, f"{c} object")[f]
    slots = [{"thing": noun(f, SHAPES[s], COLOR_NAMES[c])} for f, s, c in zip(form, shape, color)]
    return Asked(things, slots, None, first(things))


def grounding_relation(number: int, objects: tuple[int, int], rng: np.random.Generator) -> Asked:
    """The box of the ring left of the blue square, while another ring stands elsewhere."""
    things, way = pair(number, objects, rng, least=3)
    kind = things.shape[:, 0]
    things.shape[:, 1:] = other(kind, _S, rng, objects[1] - 1)
    things.shape[:, 2] = kind
    anchor = things.shape[:, 1:2], things.color[:, 1:2]
    twin = (things.shape == anchor[0]) & (things.color == anchor[1])
    twin[:, 1] = False
    things.color[twin] = (things.color[twin] + 1) % _C
    elsewhere = ELSEWHERE[way, things.cell[:, 1]].copy()
    np.put_along_axis(elsewhere, things.cell[:, :2], False, 1)
    rival = np.where(elsewhere, rng.random((number, 9)), -1).argmax(1)
    things.cell[:] = seats(np.stack([*things.cell[:, :2].T, rival], 1), objects[1], rng)
    said = zip(kind, way, _names(things, 1))
    return Asked(
        things, [{"thing": f"{SHAPES[s]} {RELATIONS[w]} the {name}"} for s, w, name in said], None, first(things)
    )


def _name(shape: int, color: int) -> str:
    return f"{COLOR_NAMES[color]} {SHAPES[shape]}"


def _names(things: Crowd, slot: int) -> list[str]:
    return [_name(s, c) for s, c in zip(things.shape[:, slot].tolist(), things.color[:, slot].tolist())]


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _yes_no(true: np.ndarray) -> list[str]:
    return ["yes" if t else "no" for t in true]


SKILLS: dict[str, Skill] = {
    "count": count, "color": color, "color_at": color_at, "shape": shape, "shape_at": shape_at, "relation": relation,
    "position": position, "verdict": verdict, "verdict_relation": verdict_relation, "caption": caption, "text": text,
    "grounding": grounding, "detection": detection,
}  # fmt: skip
HELD_OUT_SKILLS: dict[str, Skill] = {"grounding_relation": grounding_relation, "detection_classes": detection_classes}
"""Asked only by name: what a model that was trained on the others has to do without having been shown."""
NEEDS = {"relation": 2, "verdict_relation": 2, "grounding_relation": 3}
"""Objects without which a skill cannot be asked (one, where it is not listed)."""
