"""What a judge that sees pictures can be asked of an edit: was it carried out, and is the rest as it was."""

from __future__ import annotations

import numpy as np

from saccade.worlds.edits.kinds import Edit
from saccade.worlds.edits.staging import Thing, article, name, pick
from saccade.worlds.edits.wordings import ASKED
from saccade.worlds.questions.wordings import WORDINGS
from saccade.worlds.shapes import COLORS, SHAPES, Scene
from saccade.worlds.shapes.captions import plural
from saccade.worlds.splits import wordings_of

Asked = tuple[str, str, str]
"""A question about the edited picture, its answer ("yes" or "no"), and what it is about ("edit" or "keep")."""


def questions(edit: Edit, rng: np.random.Generator) -> tuple[Asked, ...]:
    """Those about the edit, then those about all else: what stays is there, what never was is not."""
    before, after = _things(edit.before), _things(edit.after)
    carried = {"count": _counted, "text": _written, "move": _related}.get(edit.kind)
    changed = carried(edit, rng) if carried else [
        *((_there(thing, rng), "yes") for thing in after if thing not in before),
        *((_there(thing, rng), "no") for thing in before if thing not in after),
    ]  # fmt: skip
    kept = [(_there(thing, rng), "yes") for thing in after if thing in before]
    kept.append((_there(_absent({*before, *after}, rng), rng), "no"))
    return (*((*pair, "edit") for pair in changed), *((*pair, "keep") for pair in kept))


def _counted(edit: Edit, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Whether there are as many as were asked for, and not as many as before (or too many, where that was one)."""
    thing, many = edit.after.objects[0], len(edit.after.objects)
    kind = f"{thing.color} {plural(thing.shape)}"
    told = lambda number: ASKED["count"].format(number=number, kind=kind)
    return [(told(many), "yes"), (told(many - 1 if many > 2 else many + 1), "no")]


def _written(edit: Edit, rng: np.random.Generator) -> list[tuple[str, str]]:
    told = lambda scene: ASKED["text"].format(word=scene.text.string)
    return [(told(edit.after), "yes"), (told(edit.before), "no")]


def _related(edit: Edit, rng: np.random.Generator) -> list[tuple[str, str]]:
    """The relation that shall hold, and the one that captions name before the edit."""
    one, other = (name((thing.shape, thing.color)) for thing in edit.after.objects)
    known = wordings_of(WORDINGS["verdict_relation"], "train")
    ways = [meaning["include"][1]["position"][0] for meaning in reversed(edit.meanings)]
    return [
        (pick(known, rng).format(one=one, other=other, relation=way), said) for way, said in zip(ways, ("yes", "no"))
    ]


def _there(thing: Thing, rng: np.random.Generator) -> str:
    return pick(wordings_of(WORDINGS["verdict"], "train"), rng).format(a_thing=article(thing))


def _absent(present: set[Thing], rng: np.random.Generator) -> Thing:
    """A thing that is not there but, where anything is, has the shape or the colour of one that is."""
    shape, color = pick(sorted(present), rng) if present else (SHAPES[0], tuple(COLORS)[0])
    options = [(s, c) for s in SHAPES for c in COLORS if (s == shape or c == color or not present)]
    return pick([option for option in options if option not in present], rng)


def _things(scene: Scene) -> list[Thing]:
    """The different things of a scene."""
    return list(dict.fromkeys((thing.shape, thing.color) for thing in scene.objects))
