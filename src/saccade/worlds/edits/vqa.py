"""Yes-or-no questions about the result of an edit, for a VQA judge: was it carried out, is all else unchanged."""

from __future__ import annotations

import numpy as np

from saccade.worlds.edits.kinds import Edit
from saccade.worlds.edits.scenes import Thing, choose, thing_name, with_article
from saccade.worlds.edits.wordings import QUESTIONS
from saccade.worlds.questions.wordings import WORDINGS
from saccade.worlds.shapes import COLORS, SHAPES, Scene
from saccade.worlds.shapes.captions import plural
from saccade.worlds.splits import wordings_of

VQAQuestion = tuple[str, str, str]
"""A question about the edited picture, its answer ("yes" or "no"), and its subject ("edit" or "keep")."""


def vqa_questions(edit: Edit, rng: np.random.Generator) -> tuple[VQAQuestion, ...]:
    """Questions about the edit, then about all else: one on each unchanged thing and one on an absent thing."""
    before, after = _things(edit.before), _things(edit.after)
    questions_of = {"count": _count_questions, "text": _text_questions, "move": _relation_questions}.get(edit.kind)
    if questions_of:
        changed = questions_of(edit, rng)
    else:
        changed = [(_presence(thing, rng), "yes") for thing in after if thing not in before]
        changed += [(_presence(thing, rng), "no") for thing in before if thing not in after]
    unchanged = [(_presence(thing, rng), "yes") for thing in after if thing in before]
    unchanged.append((_presence(_absent({*before, *after}, rng), rng), "no"))
    return (*((*pair, "edit") for pair in changed), *((*pair, "keep") for pair in unchanged))


def _count_questions(edit: Edit, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Whether the new number is there, and whether the old one is (a larger one, where the old number is one)."""
    thing, number = edit.after.objects[0], len(edit.after.objects)
    kind = f"{thing.color} {plural(thing.shape)}"
    question = lambda number: QUESTIONS["count"].format(number=number, kind=kind)
    return [(question(number), "yes"), (question(number - 1 if number > 2 else number + 1), "no")]


def _text_questions(edit: Edit, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Whether the new word is there, and whether the old one is."""
    words = [scene.text.string for scene in (edit.after, edit.before) if scene.text]
    return [(QUESTIONS["text"].format(word=word), answer) for word, answer in zip(words, ("yes", "no"))]


def _relation_questions(edit: Edit, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Whether the relation after the edit holds, and whether the one that captions name before it does."""
    one, other = (thing_name((thing.shape, thing.color)) for thing in edit.after.objects)
    wordings = wordings_of(WORDINGS["verdict_relation"], "train")
    relations = [meaning["include"][1]["position"][0] for meaning in reversed(edit.meanings)]
    return [
        (choose(wordings, rng).format(one=one, other=other, relation=relation), answer)
        for relation, answer in zip(relations, ("yes", "no"))
    ]


def _presence(thing: Thing, rng: np.random.Generator) -> str:
    """The question whether a thing is there."""
    return choose(wordings_of(WORDINGS["verdict"], "train"), rng).format(a_thing=with_article(thing))


def _absent(present: set[Thing], rng: np.random.Generator) -> Thing:
    """A thing that is absent but, where any thing is present, has the shape or the colour of a present one."""
    shape, color = choose(sorted(present), rng) if present else (SHAPES[0], next(iter(COLORS)))
    options = [(s, c) for s in SHAPES for c in COLORS if (s == shape or c == color or not present)]
    return choose([option for option in options if option not in present], rng)


def _things(scene: Scene) -> list[Thing]:
    """The different things of a scene."""
    return list(dict.fromkeys((thing.shape, thing.color) for thing in scene.objects))
