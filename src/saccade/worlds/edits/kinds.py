"""One function for each kind of edit: random scenes before and after it, and the meanings that captions express.

A caption can express every scene: one thing, two of different shape and colour, several equal ones, or a word. New
things have the size of the present ones, are not rotated, and stand exactly on a point of the grid.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import numpy as np

from saccade.worlds.edits.scenes import (
    MOVES,
    attribute_meaning,
    cell_point,
    choose,
    counting_meaning,
    distant_cells,
    one_or_two_things,
    place_things,
    relation_meaning,
    thing_name,
    two_things,
    upright_object,
    with_article,
    with_first,
)
from saccade.worlds.shapes import COLORS, RELATIONS, SHAPES, Meaning, Scene, Text, depict, fonts, meanings_of
from saccade.worlds.shapes.captions import NUMBERS, plural
from saccade.worlds.shapes.judge import relations
from saccade.worlds.shapes.layout import GRID
from saccade.worlds.splits import CELLS

_MOST = 4
"""Largest number of equal things that an edit asks for."""
_WIDEST, _LEGIBLE = 0.88, 0.18
"""Greatest width of a line, and least cap height that it must allow: smaller letters are misread at 32 pixels."""
_SALT = 1
"""Part of the hash that decides which facts are held out."""


@dataclass(frozen=True)
class Edit:
    """An edit of a scene of shapes."""

    kind: str
    before: Scene
    after: Scene
    meanings: tuple[Meaning, Meaning]
    """What captions of the scenes before and after express."""
    slots: dict[str, str]
    """What fills the wordings of the instruction."""
    fact: tuple[Any, ...]
    """What is asked for, without the scene around it: an edit is held out if its fact is."""


def split_of(edit: Edit) -> str:
    """The split of an edit: "held_out" for a fixed fifth of all facts, by a hash, else "train"."""
    key = json.dumps([_SALT, edit.kind, *edit.fact]).encode()
    return "held_out" if int.from_bytes(blake2b(key, digest_size=4).digest(), "big") % 5 == 0 else "train"


def recolor(rng: np.random.Generator) -> Edit:
    """One of one or two things gets a colour that no thing has."""
    things, scene = one_or_two_things(rng)
    shape, old = things[0]
    new = choose([c for c in COLORS if all(c != color for _, color in things)], rng)
    after = with_first(scene, replace(scene.objects[0], color=new))
    slots = {"thing": thing_name(things[0]), "color": new}
    return Edit(
        "recolor",
        scene,
        after,
        (attribute_meaning(things), attribute_meaning([(shape, new), *things[1:]])),
        slots,
        (shape, old, new),
    )


def replace_thing(rng: np.random.Generator) -> Edit:
    """One of one or two things is replaced by another shape of its colour."""
    things, scene = one_or_two_things(rng)
    old, color = things[0]
    new = choose([s for s in SHAPES if all(s != shape for shape, _ in things)], rng)
    after = with_first(scene, replace(scene.objects[0], shape=new))
    slots = {"thing": thing_name(things[0]), "a_new": with_article((new, color))}
    return Edit(
        "replace",
        scene,
        after,
        (attribute_meaning(things), attribute_meaning([(new, color), *things[1:]])),
        slots,
        (old, color, new),
    )


def remove(rng: np.random.Generator) -> Edit:
    """One of two things is removed."""
    things = two_things(rng)
    scene = place_things(things, distant_cells(rng), rng)
    after = Scene(scene.objects[1:])
    return Edit(
        "remove",
        scene,
        after,
        (attribute_meaning(things), attribute_meaning(things[1:])),
        {"thing": thing_name(things[0])},
        things[0],
    )


def add(rng: np.random.Generator) -> Edit:
    """A thing is added beside another one, at a place of the grid."""
    new, old = two_things(rng)
    goal, anchor = distant_cells(rng)
    scene = place_things([old], [anchor], rng)
    after = Scene((upright_object(new, goal, scene.objects[0].radius), *scene.objects))
    slots = {"a_thing": with_article(new), "cell": CELLS[goal]}
    return Edit(
        "add", scene, after, (attribute_meaning([old]), attribute_meaning([new, old])), slots, (*new, CELLS[goal])
    )


def move(rng: np.random.Generator) -> Edit:
    """One of two things moves into a row or column with the other one, so that their relation changes."""
    things = two_things(rng)
    start, anchor, goal, relation = choose(MOVES, rng)
    scene = place_things(things, [start, anchor], rng)
    moved, other = scene.objects
    x, y = cell_point(goal, GRID)
    former = next(known for known in RELATIONS if known in relations(moved, other))
    meanings = relation_meaning(things, former), relation_meaning(things, relation)
    slots = {"thing": thing_name(things[0]), "cell": CELLS[goal]}
    return Edit("move", scene, with_first(scene, replace(moved, x=x, y=y)), meanings, slots, (*things[0], CELLS[goal]))


def count(rng: np.random.Generator) -> Edit:
    """One more of the equal things that are present, at any free place."""
    shape, color = thing = two_things(rng)[0]
    number = 1 + int(rng.random() * (_MOST - 1))
    cells = distant_cells(rng) if number == 1 else np.argsort(rng.random(len(CELLS))).tolist()
    scene = place_things([thing] * number, cells[1 : number + 1], rng, crowded=number > 1)
    new = upright_object(thing, cells[0], scene.objects[0].radius, crowded=number > 1)
    slots = {"thing": thing_name(thing), "kind": f"{color} {plural(shape)}", "number": NUMBERS[number + 1]}
    meanings = counting_meaning(thing, number), counting_meaning(thing, number + 1)
    return Edit("count", scene, Scene((*scene.objects, new)), meanings, slots, thing)


def text(rng: np.random.Generator) -> Edit:
    """The word is replaced by another one in the same font, as high as the first if it fits."""
    first, second, line = _words(rng)
    word = second["text"]
    wide = fonts.width(word, line.font)
    height = min(line.height, _WIDEST / wide)
    edge = min(wide * height / 2 + 0.04, 0.5)
    other = replace(line, string=word, height=height, x=min(max(line.x, edge), 1 - edge))
    return Edit("text", Scene((), line), Scene((), other), (first, second), {"word": word, "old": line.string}, (word,))


def _words(rng: np.random.Generator) -> tuple[Meaning, Meaning, Text]:
    """Two different words and a line of the first, in a font in which both fit at a legible height."""
    while True:
        first, second = meanings_of(2, rng, ["text"])
        line = depict([first], rng)[0].text
        if line is None:
            raise ValueError(f"the scene of {first} has no line of text")
        width = max(fonts.width(meaning["text"], line.font) for meaning in (first, second))
        if first["text"] != second["text"] and _WIDEST / width >= _LEGIBLE:
            return first, second, line


KINDS: dict[str, Callable[[np.random.Generator], Edit]] = {
    "recolor": recolor,
    "move": move,
    "add": add,
    "remove": remove,
    "replace": replace_thing,
    "count": count,
    "text": text,
}
"""The function of each kind of edit."""
