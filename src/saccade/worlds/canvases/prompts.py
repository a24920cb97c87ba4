"""Problems of this world: the digit on a plate, too small for a first view, or the quarter in which a plate lies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from saccade.core import Problem, Question
from saccade.worlds.canvases.canvas import CELL, PAINTS, Plates, boxes, draw, lay
from saccade.worlds.canvases.glyphs import DIGITS
from saccade.worlds.splits import QUARTERS, balanced, balanced_indices, stream, worded

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


def problems(
    count: int,
    seed: int,
    skills: Sequence[str] = ("digit",),
    split: str | None = "train",
    size: int = 96,
    plates: int = 4,
    choices: int = 0,
) -> list[Problem]:
    """``count`` problems, skills ("digit", "quarter") in equal parts: ``inputs`` a Question about one picture uint8
    [size, size, 3], ``source`` the skill, ``answer`` {"text", "kind", "boxes": [box of the digit], "labels": [digit]}.

    Plates have 20 px, digits 6 x 10 px, whatever ``size`` is: a larger canvas has more cells of 24 px. ``choices`` 0
    asks for the answer itself; 2 to 6 (4 at most for quarters) ask for a letter, in lines below the question that
    `parts` takes off, and put what the letters mean into "choices". ValueError for anything this world does not know.
    """
    side = _cells(size, plates)
    rng = stream(seed, split)
    which = balanced_indices(count, skills, SKILLS, "skill", rng)
    _check_choices(choices, skills)
    asked = [skills[k] for k in which]
    drawn, value = _plates(asked, side, plates, rng)
    pictures, found = draw(drawn, size, rng), boxes(drawn, 0).tolist()
    slots = [{"color": PAINTS[c]} for c in drawn.color[:, 0]]
    texts = np.empty(count, object)
    for skill in skills:
        mine = [i for i, name in enumerate(asked) if name == skill]
        texts[mine] = worded(WORDINGS[skill], split, [slots[i] for i in mine], rng)
    answers = _answers(asked, value, choices, rng)
    label = lambda i: [DIGITS[drawn.digit[i, 0]]]
    return [
        Problem(i, Question(text + lines, (picture,)), {**answer, "boxes": [box], "labels": label(i)}, skill)
        for i, (text, (lines, answer), picture, box, skill) in enumerate(zip(texts, answers, pictures, found, asked))
    ]


def parts(text: str) -> tuple[str, str]:
    """The question and, "" where there are none, the lines of its choices: a first turn may ask without showing
    them.
    """
    question, _, lines = text.partition("\n")
    return question, lines


def sufficient(box: Sequence[float] | None, problem: Problem, side: float = 48.0) -> bool:
    """Whether a crop to ``box`` (x1, y1, x2, y2 in pixels of the canvas) is enough to answer: the digit lies inside,
    and no side is longer than ``side``. False for None and for a box that is none.
    """
    if box is None or len(box) != 4 or not np.isfinite(box).all():
        return False
    x1, y1, x2, y2 = box
    left, top, right, bottom = problem.answer["boxes"][0]
    inside = x1 <= left and y1 <= top and right <= x2 and bottom <= y2
    return bool(inside and x2 - x1 <= side and y2 - y1 <= side)


def _cells(size: int, plates: int) -> int:
    """Cells along a side. ValueError where a canvas is too small or the plates too many."""
    side = size // CELL
    if side < 2:
        raise ValueError(f"size is {size}; a canvas needs {2 * CELL} pixels or more")
    most = min(len(PAINTS), side * side)
    if not 1 <= plates <= most:
        raise ValueError(f"plates is {plates}; a canvas of {size} px holds 1 to {most}")
    return side


def _check_choices(choices: int, skills: Sequence[str]) -> None:
    most = min(len(_OPTIONS[skill]) for skill in skills)
    if choices and not 2 <= choices <= most:
        raise ValueError(f"choices is {choices}; it must be 0 (none) or 2 to {most}")


def _plates(asked: Sequence[str], side: int, many: int, rng: np.random.Generator) -> tuple[Plates, np.ndarray]:
    """Plates of which number 0 is asked about, and the position of the right answer among its skill's options [P].

    No other plate has its digit, so that reading the wrong plate is never right.
    """
    count = len(asked)
    color = rng.random((count, many)).argsort(1)
    digit, quarter = balanced(count, len(DIGITS), rng), balanced(count, len(QUARTERS), rng)
    others = (digit[:, None] + rng.integers(1, len(DIGITS), (count, many - 1))) % len(DIGITS)
    half = side // 2
    within = rng.integers(half, size=(2, count)) + np.stack([quarter % 2, quarter // 2]) * (side - half)
    first = within[0] + within[1] * side
    keys = rng.random((count, side * side))
    keys[np.arange(count), first] = -1
    cell = keys.argsort(1)[:, :many]
    value = np.where([skill == "digit" for skill in asked], digit, quarter)
    return lay(color, np.concatenate([digit[:, None], others], 1), cell, side, rng), value


def _answers(
    asked: Sequence[str], value: np.ndarray, choices: int, rng: np.random.Generator
) -> list[tuple[str, dict[str, Any]]]:
    """The lines of choices and the answer of each problem."""
    if not choices:
        kind = {"digit": "number", "quarter": "word"}
        return [("", {"text": _OPTIONS[skill][v], "kind": kind[skill]}) for skill, v in zip(asked, value)]
    answers = []
    for skill, right, at in zip(asked, value, balanced(len(asked), choices, rng)):
        options = _OPTIONS[skill]
        wrong = rng.permutation(np.delete(np.arange(len(options)), right))[:choices]
        listed = [options[k] for k in np.insert(wrong[: choices - 1], at, right)]
        lines = "".join(f"\n{letter}. {option}" for letter, option in zip(LETTERS, listed))
        answers.append((lines, {"text": LETTERS[at], "kind": "choice", "choices": listed}))
    return answers
