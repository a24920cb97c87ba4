"""The course: which lessons the miniature gets at each step, from all worlds, and every text that its tokenizer must
know.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from saccade.builders.parts.texts import answer_in_tags, rows_by_kind
from saccade.builders.qwen25_vl_shapes.facts import ASK, Fact, Manner, Teller, Thing
from saccade.builders.qwen25_vl_shapes.rows import Piece, about, turn
from saccade.builders.qwen25_vl_shapes.scenery import CANVAS, paintings, plates_near, style
from saccade.builders.qwen25_vl_shapes.shown import displayed, resized
from saccade.builders.qwen25_vl_shapes.views import Views, views_of, views_of_lines
from saccade.core import Problem
from saccade.evaluation.templates import ADDED
from saccade.worlds import canvases, programs, puzzles, questions
from saccade.worlds.programs.problems import TEXT
from saccade.worlds.questions import HELD_OUT_SKILLS, SKILLS
from saccade.worlds.questions.layouts import COLOR_NAMES, RADIUS, SceneBatch, place_objects
from saccade.worlds.questions.skills import NEEDS
from saccade.worlds.questions.styles import draw
from saccade.worlds.shapes import SHAPES
from saccade.worlds.splits import worded

SIZES = (48, 64)

GLANCES = (32, 48)

POINT = " Give the box of the place to look at."
"""What a first turn about a canvas adds: the answer is a box in the pixels of the glance."""

SVG = tuple(piece for piece in programs.vocabulary() if len(piece) > 2 and not piece.isalnum())

_BINDING = (*("count", "relation", "relation", "verdict_relation", "grounding_relation") * 3, "verdict", "grounding")

_STAGED = (*SKILLS, "count", "count", "relation", "grounding_relation")
"""For which skills pictures are staged: only there are many numbers and all sides as likely."""

_FORMS = ((0.6, "plain"), (0.8, "answer"), (1.0, "think"))


@dataclass(frozen=True)
class Lesson:
    """Rows to learn, and what their pictures show where each row has exactly one picture and all are of one size."""

    rows: list[list[Piece]]
    views: Views | None = None


def course(cfg: Any, rng: np.random.Generator) -> Iterator[Lesson]:
    """``cfg.steps`` lessons: scenes first, of two things and in one wording each, then more of both, canvases and
    programs.
    """
    pool = questions.pictures(400, int(rng.integers(2**31)))
    for step in range(cfg.steps):
        late = step / cfg.steps
        grown = min(late / cfg.growing, 1.0) if cfg.growing else 1.0
        manner = Manner(wordings=1 + int(5 * grown))
        if late >= 1 - cfg.spoilt:
            manner = replace(manner, wrong=cfg.wrong, loose=cfg.loose, untagged=cfg.untagged, sufficient=cfg.sufficient)
        kind = rng.random() ** (2 - grown)
        if kind < 0.64:
            yield scenes(cfg, 2 + int(4 * grown), manner, rng)
        elif kind < 0.69:
            yield closeups(cfg, rng)
        elif kind < 0.83:
            yield Lesson([zoom(manner, problem, rng) for problem in _canvases(cfg.batch * 2, rng)])
        elif kind < 0.97:
            yield drawings(cfg.batch, rng)
        else:
            yield Lesson(guesses(pool, cfg.batch // 2, rng))


def scenes(cfg: Any, most: int, manner: Manner, rng: np.random.Generator) -> Lesson:
    """Scenes of at most so many shapes, of one size and style, staged for one skill; several questions about each."""
    size = int(rng.choice(SIZES, p=[0.6, 0.4]))
    skill = str(rng.choice([name for name in _STAGED if NEEDS.get(name, 1) <= most]))
    what = {**SKILLS, **HELD_OUT_SKILLS}[skill](cfg.batch, (1, most), rng)
    places, unit = place_objects(batch.scenes, RADIUS, rng)
    pictures = draw(batch.scenes, places, what.lines or [None] * cfg.batch, size, style(0.4, rng))
    tell = Teller(manner, rng)
    if what.lines:
        views = views_of_lines(what.lines, pictures)
        told = [[tell.fact("text", answer)] for answer in what.answers]
    else:
        views = views_of(batch.scenes, unit, pictures)
        told = [_some(_things(views, batch.scenes, row), cfg.asked, tell) for row in range(cfg.batch)]
        for facts, answer, slots in zip(told, what.answers or (), what.slots):
            facts[0] = tell.fact(skill, answer, **slots)
    talks = [[_in_form(fact, tell) for fact in facts] for facts in told]
    return Lesson([about(picture, talk) for picture, talk in zip(views.pictures, talks)], views)


def _things(views: Views, seen: SceneBatch, row: int) -> list[Thing]:
    rows = zip(seen.shape[row].tolist(), seen.color[row].tolist(), seen.cell[row].tolist(), views.boxes[row].tolist())
    listed = [Thing(SHAPES[s], COLOR_NAMES[c], k, tuple(b)) for (s, c, k, b), here in zip(rows, seen.present[row]) if here]
    return sorted(listed, key=lambda thing: thing.cell)


def _some(things: list[Thing], asked: int, tell: Teller) -> list[Fact]:
    """Questions of different skills, as far as the scene allows them; those that bind words to several things more
    often.
    """
    told = (ASK[str(name)](things, tell) for name in tell.rng.permutation([*ASK, *_BINDING]))
    return list(islice((fact for fact in told if fact is not None), asked))


def _in_form(fact: Fact, tell: Teller) -> tuple[str, str]:
    """Question and answer: plain, in tags, or with a thought before, some with a tag missing."""
    chance = tell.rng.random()
    form = next(form for share, form in _FORMS if chance < share)
    if form == "plain":
        return fact.text, fact.answer
    thought = f"<think>{fact.thought or fact.skill}</think>" if form == "think" else ""
    return fact.text + ADDED[form], thought + answer_in_tags(fact.answer, tell.manner.untagged, tell.rng)


def closeups(cfg: Any, rng: np.random.Generator) -> Lesson:
    """Windows of canvases at which a digit can be read, and the question for it."""
    views, colors, digits = plates_near(cfg.batch * 2, int(rng.choice(GLANCES)), rng)
    asked = worded(canvases.WORDINGS["digit"], None, [{"color": color} for color in colors], rng)
    return Lesson([turn([picture], text, digit) for picture, text, digit in zip(views.pictures, asked, digits)], views)


def _canvases(count: int, rng: np.random.Generator) -> list[Problem]:
    choices = int(rng.choice([0, 0, 4]))
    return canvases.problems(count, int(rng.integers(2**31)), canvases.SKILLS, None, size=CANVAS, choices=choices)


def zoom(manner: Manner, problem: Problem, rng: np.random.Generator) -> list[Piece]:
    """A canvas: answered at a glance, or a box to look at, or the answer after the crop to a box that was given.

    Only a share of the boxes to be learnt holds the digit; the crops to be read mostly do. A crop has no more pixels
    than the glance.
    """
    full, pointed = problem.inputs.text, canvases.parts(problem.inputs.text)[0] + POINT
    picture, answer = problem.inputs.pictures[0], problem.answer["text"]
    side = int(rng.choice(GLANCES))
    glance = resized(picture, side, side)
    kind = rng.random()
    if kind < 0.2 or problem.source == "quarter":
        return turn([glance], full, answer)
    pointing = kind < 0.65
    good = rng.random() < (manner.sufficient if pointing else 0.8)
    window = _window(problem.answer["boxes"][0], good, rng)
    box = questions.box_text(window * side / CANVAS)
    if pointing:
        return turn([glance], pointed, box)
    x1, y1, x2, y2 = window.astype(int)
    second = turn([displayed(picture[y1:y2, x1:x2], side * side)], full, answer, first=False)
    return turn([glance], pointed, box, learnt=False) + second


def _window(box: Sequence[float], good: bool, rng: np.random.Generator) -> np.ndarray:
    """A window [4] of a canvas, 20 to 44 pixels wide, around the digit or anywhere."""
    side = rng.integers(20, 45)
    x1, y1, x2, y2 = box
    centre = np.array([x1 + x2, y1 + y2]) / 2
    low, high = (centre + (8 - side), centre - 8) if good else (np.zeros(2), np.full(2, CANVAS - side))
    corner = np.clip(np.rint(rng.uniform(low, high)), 0, CANVAS - side)
    return np.concatenate([corner, corner + side])


def drawings(count: int, rng: np.random.Generator) -> Lesson:
    """Pictures and the programs that draw them."""
    views, codes = paintings(count, rng)
    return Lesson([turn([picture], TEXT, code) for picture, code in zip(views.pictures, codes)], views)


def guesses(pool: np.ndarray, count: int, rng: np.random.Generator) -> list[list[Piece]]:
    """Puzzles with the answers of other puzzles of their kind: the form is learnt, the truth is not."""
    posed = puzzles.problems(pool, count, int(rng.integers(2**31)), (*puzzles.PUZZLES, puzzles.Jigsaw(3)))
    form = lambda problem: (problem.source, len(problem.inputs.pictures))
    kinds = rows_by_kind(map(form, posed))
    pick = lambda problem: posed[rng.choice(kinds[form(problem)])].answer["text"]
    return [
        turn([displayed(p) for p in problem.inputs.pictures], problem.inputs.text, pick(problem)) for problem in posed
    ]


def corpus(rng: np.random.Generator) -> list[str]:
    """What is asked and answered in all worlds, each word often enough to become a token."""
    made = questions.problems(1_300, int(rng.integers(2**31)), split=None, size=32)
    pool = questions.pictures(40, 0)
    made += puzzles.problems(pool, 80, 0, split=None)
    made += canvases.problems(120, 0, canvases.SKILLS, split=None, size=48, plates=2)
    texts = [problem.inputs.text for problem in made]
    answers = [p.answer["text"] for p in made if p.source not in ("text", "grounding", "detection")]
    words = " ".join(questions.vocabulary())
    return [*texts, *answers, *[words, *ADDED.values(), POINT, TEXT] * 4]
