"""Problems of this world: the digit on a plate, too small for a reduced view, or the quarter in which a plate lies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from saccade.core import Problem, Question
from saccade.worlds.canvases.canvas import CELL, COLOR_NAMES, Plates, digit_boxes, place_plates, render_canvases
from saccade.worlds.canvases.glyphs import DIGITS
from saccade.worlds.splits import QUARTERS, balanced, balanced_indices, sample_wordings, split_rng

SKILLS = ("digit", "quarter")
LETTERS = "ABCDEF"
WORDINGS = {
    "digit": (
        "Which digit is on the {color} plate?",
        "What digit does the {color} plate show?",
        "Read the digit on the {color} plate.",
        "The {color} plate has which digit?",
        "Tell me the digit on the {color} plate.",
        "Which digit do you see on the {color} plate?",
    ),
    "quarter": (
        "In which quarter of the picture is the {color} plate?",
        "Which quarter holds the {color} plate?",
        "Name the quarter of the {color} plate.",
        "The {color} plate is in which quarter?",
        "Tell me the quarter of the {color} plate.",
        "In which quarter do you see the {color} plate?",
    ),
}
_OPTIONS = {"digit": DIGITS, "quarter": QUARTERS}


def sample_problems(
    count: int,
    seed: int,
    skills: Sequence[str] = ("digit",),
    split: str | None = "train",
    size: int = 96,
    plates: int = 4,
    choices: int = 0,
) -> list[Problem]:
    """``count`` problems, skills ("digit", "quarter") in equal parts.

    ``inputs`` is a Question about one picture uint8 ``[size, size, 3]``, ``source`` the skill, ``answer`` {"text",
    "kind", "boxes": [box of the digit], "labels": [digit]}.

    Plates have 20 px, digits 6 x 10 px, whatever ``size`` is: a larger canvas has more cells of 24 px. With ``choices``
    0 the answer is the digit or quarter; with 2 to 6 (4 at most for quarters) it is a letter, the choices are lines
    below the question that `split_choices` separates, and the answer has their texts in "choices". ValueError for an
    unknown skill or split, and for numbers out of range.
    """
    side = _cells(size, plates)
    rng = split_rng(seed, split)
    skill_P = balanced_indices(count, skills, SKILLS, "skill", rng)
    _check_choices(choices, skills)
    names = [skills[k] for k in skill_P]
    batch, value = _plates(names, side, plates, rng)
    pictures, boxes = render_canvases(batch, size, rng), digit_boxes(batch, 0).tolist()
    slots = [{"color": COLOR_NAMES[c]} for c in batch.color[:, 0]]
    texts = np.empty(count, object)
    for skill in skills:
        rows = [i for i, name in enumerate(names) if name == skill]
        texts[rows] = sample_wordings(WORDINGS[skill], split, [slots[i] for i in rows], rng)
    answers = _answers(names, value, choices, rng)
    label = lambda i: [DIGITS[batch.digit[i, 0]]]
    return [
        Problem(i, Question(text + lines, (picture,)), {**answer, "boxes": [box], "labels": label(i)}, skill)
        for i, (text, (lines, answer), picture, box, skill) in enumerate(zip(texts, answers, pictures, boxes, names))
    ]


def split_choices(text: str) -> tuple[str, str]:
    """The question and the lines of its choices ("" without choices), for prompts that hide the choices."""
    question, _, lines = text.partition("\n")
    return question, lines


def sufficient(box: Sequence[float] | None, problem: Problem, side: float = 48.0) -> bool:
    """Whether a crop of ``box`` (x1, y1, x2, y2 in pixels of the canvas) is enough to answer.

    The digit lies inside, and no side is longer than ``side``. False for None and for a malformed box.
    """
    if box is None or len(box) != 4 or not np.isfinite(box).all():
        return False
    x1, y1, x2, y2 = box
    left, top, right, bottom = problem.answer["boxes"][0]
    inside = x1 <= left and y1 <= top and right <= x2 and bottom <= y2
    return bool(inside and x2 - x1 <= side and y2 - y1 <= side)


def _cells(size: int, plates: int) -> int:
    """Number of cells along a side. ValueError for a canvas that is too small or has too many plates."""
    side = size // CELL
    if side < 2:
        raise ValueError(f"size is {size}; a canvas needs {2 * CELL} pixels or more")
    most = min(len(COLOR_NAMES), side * side)
    if not 1 <= plates <= most:
        raise ValueError(f"plates is {plates}; a canvas of {size} px holds 1 to {most}")
    return side


def _check_choices(choices: int, skills: Sequence[str]) -> None:
    most = min(len(_OPTIONS[skill]) for skill in skills)
    if choices and not 2 <= choices <= most:
        raise ValueError(f"choices is {choices}; it must be 0 (none) or 2 to {most}")


def _plates(names: Sequence[str], side: int, number: int, rng: np.random.Generator) -> tuple[Plates, np.ndarray]:
    """Plates, and the index of the correct answer among the options of the question's skill ``[P]``.

    The question is about plate 0. No other plate has its digit, so that reading the wrong plate is never correct.
    """
    count = len(names)
    color = rng.random((count, number)).argsort(1)
    digit, quarter = balanced(count, len(DIGITS), rng), balanced(count, len(QUARTERS), rng)
    others = (digit[:, None] + rng.integers(1, len(DIGITS), (count, number - 1))) % len(DIGITS)
    half = side // 2
    within = rng.integers(half, size=(2, count)) + np.stack([quarter % 2, quarter // 2]) * (side - half)
    first = within[0] + within[1] * side
    keys = rng.random((count, side * side))
    keys[np.arange(count), first] = -1
    cell = keys.argsort(1)[:, :number]
    value = np.where([skill == "digit" for skill in names], digit, quarter)
    return place_plates(color, np.concatenate([digit[:, None], others], 1), cell, side, rng), value


def _answers(
    names: Sequence[str], value: np.ndarray, choices: int, rng: np.random.Generator
) -> list[tuple[str, dict[str, Any]]]:
    """The lines of choices and the answer of each problem."""
    if not choices:
        kind = {"digit": "number", "quarter": "word"}
        return [("", {"text": _OPTIONS[skill][v], "kind": kind[skill]}) for skill, v in zip(names, value)]
    answers = []
    for skill, correct, position in zip(names, value, balanced(len(names), choices, rng)):
        options = _OPTIONS[skill]
        wrong = rng.permutation(np.delete(np.arange(len(options)), correct))[:choices]
        listed = [options[k] for k in np.insert(wrong[: choices - 1], position, correct)]
        lines = "".join(f"\n{letter}. {option}" for letter, option in zip(LETTERS, listed))
        answers.append((lines, {"text": LETTERS[position], "kind": "choice", "choices": listed}))
    return answers
