"""One function a kind of edit: a scene before and after, drawn so that one caption tells each, and what the edit means.

Scenes are those that captions can tell: one thing, two that differ in shape and colour, several alike, or a word. New
things are of the size of those that are there, upright, and exactly on a point of the grid.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import numpy as np

from saccade.worlds.edits.staging import (
    MOVES,
    alike,
    apart,
    article,
    changed,
    name,
    one_or_two,
    pair,
    pick,
    point,
    related,
    spread,
    told,
    upright,
)  # fmt: skip
from saccade.worlds.shapes import COLORS, RELATIONS, SHAPES, Meaning, Scene, Text, depict, fonts, meanings_of
from saccade.worlds.shapes.captions import NUMBERS, plural
from saccade.worlds.shapes.judge import relations
from saccade.worlds.shapes.layout import GRID
from saccade.worlds.splits import CELLS

_MOST = 4
"""Most things alike that an edit asks for."""
_WIDEST, _LEGIBLE = 0.88, 0.18
"""Greatest width of a line, and least cap height that it must allow; smaller letters are misread in pictures of 32
px.
"""
_SALT = 1


@dataclass(frozen=True)
class Edit:
    """One edit: ``before`` and ``after`` are scenes, ``meanings`` what captions say of them, ``slots`` fill the
    wordings.

    ``fact`` is what is asked for apart from the scene around it: the same facts are held out everywhere.
    """

    kind: str
    before: Scene
    after: Scene
    meanings: tuple[Meaning, Meaning]
    slots: dict[str, str]
    fact: tuple[Any, ...]


def split_of(edit: Edit) -> str:
    """ "held_out" for a fixed fifth of all that can be asked for, by a hash, else "train"."""
    key = json.dumps([_SALT, edit.kind, *edit.fact]).encode()
    return "held_out" if int.from_bytes(blake2b(key, digest_size=4).digest(), "big") % 5 == 0 else "train"


def recolor(rng: np.random.Generator) -> Edit:
    """One of one or two things gets a colour that none has."""
    things, scene = one_or_two(rng)
    shape, old = things[0]
    new = pick([c for c in COLORS if all(c != color for _, color in things)], rng)
    after = changed(scene, replace(scene.objects[0], color=new))
    slots = {"thing": name(things[0]), "color": new}
    return Edit("recolor", scene, after, (told(things), told([(shape, new), *things[1:]])), slots, (shape, old, new))


def swap(rng: np.random.Generator) -> Edit:
    """One of one or two things becomes another shape of its colour."""
    things, scene = one_or_two(rng)
    old, color = things[0]
    new = pick([s for s in SHAPES if all(s != shape for shape, _ in things)], rng)
    after = changed(scene, replace(scene.objects[0], shape=new))
    slots = {"thing": name(things[0]), "a_new": article((new, color))}
    return Edit("replace", scene, after, (told(things), told([(new, color), *things[1:]])), slots, (old, color, new))


def remove(rng: np.random.Generator) -> Edit:
    """One of two things goes."""
    things = pair(rng)
    scene = spread(things, apart(rng), rng)
    after = Scene(scene.objects[1:])
    return Edit("remove", scene, after, (told(things), told(things[1:])), {"thing": name(things[0])}, things[0])


def add(rng: np.random.Generator) -> Edit:
    """A thing comes to another, at a place of the grid."""
    new, old = pair(rng)
    here, there = apart(rng)
    scene = spread([old], [there], rng)
    after = Scene((upright(new, here, scene.objects[0].radius), *scene.objects))
    slots = {"a_thing": article(new), "cell": CELLS[here]}
    return Edit("add", scene, after, (told([old]), told([new, old])), slots, (*new, CELLS[here]))


def move(rng: np.random.Generator) -> Edit:
    """One of two things goes to a place in a row or column with the other, so that they stand in another relation."""
    things = pair(rng)
    start, anchor, goal, relation = pick(MOVES, rng)
    scene = spread(things, [start, anchor], rng)
    moved, other = scene.objects
    x, y = point(goal, GRID)
    former = next(way for way in RELATIONS if way in relations(moved, other))
    meanings = related(things, former), related(things, relation)
    slots = {"thing": name(things[0]), "cell": CELLS[goal]}
    return Edit("move", scene, changed(scene, replace(moved, x=x, y=y)), meanings, slots, (*things[0], CELLS[goal]))


def count(rng: np.random.Generator) -> Edit:
    """One thing more of those that are there, at any free place."""
    shape, color = thing = pair(rng)[0]
    many = 1 + int(rng.random() * (_MOST - 1))
    cells = apart(rng) if many == 1 else np.argsort(rng.random(len(CELLS))).tolist()
    scene = spread([thing] * many, cells[1 : many + 1], rng, crowded=many > 1)
    new = upright(thing, cells[0], scene.objects[0].radius, crowded=many > 1)
    slots = {"thing": name(thing), "kind": f"{color} {plural(shape)}", "number": NUMBERS[many + 1]}
    meanings = alike(thing, many), alike(thing, many + 1)
    return Edit("count", scene, Scene((*scene.objects, new)), meanings, slots, thing)


def text(rng: np.random.Generator) -> Edit:
    """Another word in the same letters, as high as the first if it fits."""
    first, second, line = _words(rng)
    word = second["text"]
    wide = fonts.width(word, line.font)
    height = min(line.height, _WIDEST / wide)
    edge = min(wide * height / 2 + 0.04, 0.5)
    other = replace(line, string=word, height=height, x=min(max(line.x, edge), 1 - edge))
    return Edit("text", Scene((), line), Scene((), other), (first, second), {"word": word, "old": line.string}, (word,))


def _words(rng: np.random.Generator) -> tuple[Meaning, Meaning, Text]:
    """Two different words, and the first as a line; in its font both can be written high enough to be read."""
    while True:
        first, second = meanings_of(2, rng, ["text"])
        line = depict([first], rng)[0].text
        width = max(fonts.width(meaning["text"], line.font) for meaning in (first, second))
        if first["text"] != second["text"] and _WIDEST / width >= _LEGIBLE:
            return first, second, line


KINDS: dict[str, Callable[[np.random.Generator], Edit]] = {
    "recolor": recolor, "move": move, "add": add, "remove": remove, "replace": swap, "count": count, "text": text,
}  # fmt: skip
