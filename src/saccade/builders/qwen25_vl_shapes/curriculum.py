"""The curriculum: the miniature's training batch at each step, and the texts that its tokenizer is trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from saccade.builders.parts.texts import answer_in_tags, rows_by_kind
from saccade.builders.qwen25_vl_shapes.annotations import AnnotatedPictures, annotate_lines, annotate_scenes
from saccade.builders.qwen25_vl_shapes.packing import Segment, questions_about, turn
from saccade.builders.qwen25_vl_shapes.preprocessing import displayed, resized
from saccade.builders.qwen25_vl_shapes.scene_questions import (
    QUESTIONS,
    AnswerNoise,
    QuestionSampler,
    SceneObject,
    SceneQuestion,
)
from saccade.builders.qwen25_vl_shapes.vision_data import CANVAS, legible_plates, program_pictures, random_style
from saccade.core import Problem
from saccade.evaluation.templates import SUFFIXES, Template
from saccade.worlds import canvases, programs, puzzles, questions
from saccade.worlds.programs.prompts import TEXT
from saccade.worlds.questions import HELD_OUT_SKILLS, SKILLS
from saccade.worlds.questions.layouts import COLOR_NAMES, RADIUS, SceneBatch, place_objects
from saccade.worlds.questions.skills import MIN_OBJECTS
from saccade.worlds.questions.styles import render_scenes
from saccade.worlds.shapes import SHAPES
from saccade.worlds.splits import sample_wordings

SIZES = (48, 64)
"""Sides of scenes in pixels."""

VIEW_SIDES = (32, 48)
"""Sides in pixels of the full view of a canvas."""

BOX_PROMPT = " Give the box of the place to look at."
"""Text after the question in a first turn about a canvas; the answer is a box in the pixels of the full view."""

SVG = tuple(piece for piece in programs.vocabulary() if len(piece) > 2 and not piece.isalnum())

_RELATIONAL = (*("count", "relation", "relation", "verdict_relation", "grounding_relation") * 3, "verdict", "grounding")
"""Skills that are asked more often, since they combine words with several objects."""

_SCENE_SKILLS = (*SKILLS, "count", "count", "relation", "grounding_relation")
"""Skills for which scenes are sampled: only then numbers and directions are balanced."""

_FORMS: tuple[tuple[float, Template], ...] = ((0.6, "plain"), (0.8, "answer"), (1.0, "think"))
"""Templates with their cumulative probabilities."""


@dataclass(frozen=True)
class TrainingBatch:
    """Conversations to train on; ``pictures`` where each has exactly one picture and all are of one size."""

    rows: list[list[Segment]]
    pictures: AnnotatedPictures | None = None


def curriculum(cfg: Any, rng: np.random.Generator) -> Iterator[TrainingBatch]:
    """``cfg.steps`` batches: first mostly scenes of two objects in one wording, later more of both, canvases, programs.

    ``cfg`` are the settings of the build.
    """
    pool = questions.pictures(400, int(rng.integers(2**31)))
    for step in range(cfg.steps):
        progress = step / cfg.steps
        grown = min(progress / cfg.curriculum_share, 1.0) if cfg.curriculum_share else 1.0
        noise = AnswerNoise(wordings=1 + int(5 * grown))
        if progress >= 1 - cfg.noisy_share:
            noise = replace(
                noise,
                wrong_rate=cfg.wrong_rate,
                max_offset=cfg.max_offset,
                missing_tag_rate=cfg.missing_tag_rate,
                sufficient_rate=cfg.sufficient_rate,
            )
        kind = rng.random() ** (2 - grown)
        if kind < 0.64:
            yield scene_batch(cfg, 2 + int(4 * grown), noise, rng)
        elif kind < 0.69:
            yield legible_plate_batch(cfg, rng)
        elif kind < 0.83:
            problems = _canvas_problems(cfg.batch * 2, rng)
            yield TrainingBatch([zoom_conversation(noise, problem, rng) for problem in problems])
        elif kind < 0.97:
            yield program_batch(cfg.batch, rng)
        else:
            yield TrainingBatch(puzzle_conversations(pool, cfg.batch // 2, rng))


def scene_batch(cfg: Any, most: int, noise: AnswerNoise, rng: np.random.Generator) -> TrainingBatch:
    """Scenes of at most ``most`` objects, of one size and style, sampled for one skill, with several questions each."""
    size = int(rng.choice(SIZES, p=[0.6, 0.4]))
    skill = str(rng.choice([name for name in _SCENE_SKILLS if MIN_OBJECTS.get(name, 1) <= most]))
    batch = {**SKILLS, **HELD_OUT_SKILLS}[skill](cfg.batch, (1, most), rng)
    places, unit = place_objects(batch.scenes, RADIUS, rng)
    lines = batch.lines or [None] * cfg.batch
    pictures = render_scenes(batch.scenes, places, lines, size, random_style(0.4, rng))
    sampler = QuestionSampler(noise, rng)
    if batch.lines:
        annotated = annotate_lines(batch.lines, pictures)
        asked = [[sampler.question("text", answer)] for answer in batch.answers or ()]
    else:
        annotated = annotate_scenes(batch.scenes, unit, pictures)
        objects = [_objects(annotated, batch.scenes, row) for row in range(cfg.batch)]
        asked = [_sample_questions(listed, cfg.questions_per_picture, sampler) for listed in objects]
        for row, answer, slots in zip(asked, batch.answers or (), batch.slots):
            row[0] = sampler.question(skill, answer, **slots)
    pairs = [[_formatted(question, sampler) for question in row] for row in asked]
    rows = [questions_about(picture, row) for picture, row in zip(annotated.pictures, pairs)]
    return TrainingBatch(rows, annotated)


def _objects(annotated: AnnotatedPictures, scenes: SceneBatch, row: int) -> list[SceneObject]:
    """The objects of one scene in the order of their cells."""
    arrays = scenes.shape[row], scenes.color[row], scenes.cell[row], annotated.boxes[row]
    slots = zip(*(array.tolist() for array in arrays), scenes.present[row])
    found = [SceneObject(SHAPES[s], COLOR_NAMES[c], cell, tuple(box)) for s, c, cell, box, present in slots if present]
    return sorted(found, key=lambda each: each.cell)


def _sample_questions(objects: list[SceneObject], count: int, sampler: QuestionSampler) -> list[SceneQuestion]:
    """Up to ``count`` questions of different skills that the scene can answer; relational ones more often."""
    found = (QUESTIONS[str(name)](objects, sampler) for name in sampler.rng.permutation([*QUESTIONS, *_RELATIONAL]))
    return list(islice((question for question in found if question is not None), count))


def _formatted(question: SceneQuestion, sampler: QuestionSampler) -> tuple[str, str]:
    """Question and answer in a random template, some with a tag missing."""
    chance = sampler.rng.random()
    template = next(template for share, template in _FORMS if chance < share)
    if template == "plain":
        return question.text, question.answer
    thought = f"<think>{question.thought or question.skill}</think>" if template == "think" else ""
    answer = answer_in_tags(question.answer, sampler.noise.missing_tag_rate, sampler.rng)
    return question.text + SUFFIXES[template], thought + answer


def legible_plate_batch(cfg: Any, rng: np.random.Generator) -> TrainingBatch:
    """Crops of canvases in which a digit is legible, and the question about it."""
    annotated, colors, digits = legible_plates(cfg.batch * 2, int(rng.choice(VIEW_SIDES)), rng)
    texts = sample_wordings(canvases.WORDINGS["digit"], None, [{"color": color} for color in colors], rng)
    rows = [turn([picture], text, digit) for picture, text, digit in zip(annotated.pictures, texts, digits)]
    return TrainingBatch(rows, annotated)


def _canvas_problems(count: int, rng: np.random.Generator) -> list[Problem]:
    choices = int(rng.choice([0, 0, 4]))
    return canvases.sample_problems(
        count, int(rng.integers(2**31)), canvases.SKILLS, None, size=CANVAS, choices=choices
    )


def zoom_conversation(noise: AnswerNoise, problem: Problem, rng: np.random.Generator) -> list[Segment]:
    """A canvas: answered from the full view, or a box, or the answer after the crop of a given box.

    Only a share of the boxes to be learned contain the digit; most of the crops do. A crop has no more pixels than the
    full view.
    """
    text, answer = problem.inputs.text, problem.answer["text"]
    box_question = canvases.split_choices(text)[0] + BOX_PROMPT
    picture = problem.inputs.pictures[0]
    side = int(rng.choice(VIEW_SIDES))
    full_view = resized(picture, side, side)
    kind = rng.random()
    if kind < 0.2 or problem.source == "quarter":
        return turn([full_view], text, answer)
    box_turn = kind < 0.65
    sufficient = rng.random() < (noise.sufficient_rate if box_turn else 0.8)
    window = _window(problem.answer["boxes"][0], sufficient, rng)
    box = questions.box_text(window * side / CANVAS)
    if box_turn:
        return turn([full_view], box_question, box)
    x1, y1, x2, y2 = window.astype(int)
    second = turn([displayed(picture[y1:y2, x1:x2], side * side)], text, answer, first=False)
    return turn([full_view], box_question, box, trained=False) + second


def _window(box: Sequence[float], sufficient: bool, rng: np.random.Generator) -> np.ndarray:
    """A window ``[4]`` of a canvas, 20 to 44 pixels wide, around the digit or anywhere."""
    side = rng.integers(20, 45)
    x1, y1, x2, y2 = box
    center = np.array([x1 + x2, y1 + y2]) / 2
    low, high = (center + (8 - side), center - 8) if sufficient else (np.zeros(2), np.full(2, CANVAS - side))
    corner = np.clip(np.rint(rng.uniform(low, high)), 0, CANVAS - side)
    return np.concatenate([corner, corner + side])


def program_batch(count: int, rng: np.random.Generator) -> TrainingBatch:
    """Pictures and the programs that draw them."""
    annotated, codes = program_pictures(count, rng)
    return TrainingBatch([turn([picture], TEXT, code) for picture, code in zip(annotated.pictures, codes)], annotated)


def puzzle_conversations(pool: np.ndarray, count: int, rng: np.random.Generator) -> list[list[Segment]]:
    """Puzzles with the answers of random puzzles of their type: they teach the form of an answer, not the answer."""
    problems = puzzles.sample_problems(pool, count, int(rng.integers(2**31)), (*puzzles.PUZZLES, puzzles.Jigsaw(3)))
    form = lambda problem: (problem.source, len(problem.inputs.pictures))
    same_form = rows_by_kind(map(form, problems))
    rows = []
    for problem in problems:
        answer = problems[rng.choice(same_form[form(problem)])].answer["text"]
        rows.append(turn([displayed(picture) for picture in problem.inputs.pictures], problem.inputs.text, answer))
    return rows


def corpus(rng: np.random.Generator) -> list[str]:
    """Questions and answers of all worlds, each word often enough to become a token."""
    problems = questions.sample_problems(1_300, int(rng.integers(2**31)), split=None, size=32)
    pool = questions.pictures(40, 0)
    problems += puzzles.sample_problems(pool, 80, 0, split=None)
    problems += canvases.sample_problems(120, 0, canvases.SKILLS, split=None, size=48, plates=2)
    texts = [problem.inputs.text for problem in problems]
    answers = [p.answer["text"] for p in problems if p.source not in ("text", "grounding", "detection")]
    words = " ".join(questions.vocabulary())
    return [*texts, *answers, *[words, *SUFFIXES.values(), BOX_PROMPT, TEXT] * 4]
