"""The world of canvases: digits are where and what the answer says, and neither blur nor letters nor habits give
them away.
"""

import re
from collections import Counter

import numpy as np
import pytest

from saccade.core import Problem
from saccade.worlds.canvases import DIGITS, SKILLS, WORDINGS, sample_problems, split_choices, sufficient
from saccade.worlds.canvases.canvas import COLOR_NAMES
from saccade.worlds.shapes import COLORS
from saccade.worlds.splits import QUARTERS, wordings_of

BARS = {
    "0": "###### ##  ## ##  ## ##  ## ######",
    "2": "######     ## ###### ##     ######",
    "3": "######     ## ######     ## ######",
    "5": "###### ##     ######     ## ######",
    "6": "###### ##     ###### ##  ## ######",
    "9": "###### ##  ## ######     ## ######",
}
"""Each digit's lines 0, 2 (or 3), 4, 6 (or 7) and 8, as they must look."""


def picture(problem: Problem) -> np.ndarray:
    return problem.inputs.pictures[0].astype(float)


def plate(problem: Problem) -> tuple[int, int]:
    """Upper left corner of the plate of the colour that is asked for, found in the picture."""
    (color,) = [word for word in re.findall(r"\w+", split_choices(problem.inputs.text)[0]) if word in COLORS]
    ys, xs = np.nonzero(np.abs(picture(problem) - COLORS[color]).max(-1) < 1)
    assert (xs.max() - xs.min(), ys.max() - ys.min()) == (19, 19)
    return int(xs.min()), int(ys.min())


def glyph(problem: Problem) -> tuple[list[float], str]:
    """Box and name of the dark figure on that plate."""
    x, y = plate(problem)
    ground = picture(problem)[y : y + 20, x : x + 20]
    ink = np.abs(ground - ground[0, 0]).sum(-1) > 60
    ys, xs = np.nonzero(ink)
    box = [x + xs.min(), y + ys.min(), x + xs.max() + 1, y + ys.max() + 1]
    lines = ink[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    drawn = " ".join("".join("#" if dot else " " for dot in lines[row]) for row in (0, 2, 4, 6, 8))
    (name,) = [digit for digit, bars in BARS.items() if bars == drawn]
    return [float(edge) for edge in box], name


@pytest.mark.parametrize("size, plates", [(96, 4), (48, 2), (200, 8)])
def test_the_answer_is_in_the_picture(size: int, plates: int) -> None:
    for problem in sample_problems(200, 1, SKILLS, size=size, plates=plates):
        box, name = glyph(problem)
        x, y = plate(problem)
        assert problem.answer["boxes"] == [box] and problem.answer["labels"] == [name]
        quarter = QUARTERS[2 * (y + 10 > size // 24 * 12) + (x + 10 > size // 24 * 12)]
        assert problem.answer["text"] == {"digit": name, "quarter": quarter}[problem.source]
        assert problem.answer["kind"] == {"digit": "number", "quarter": "word"}[problem.source]


def test_choices_can_be_taken_off_and_mean_the_answer() -> None:
    drawn = sample_problems(400, 2, SKILLS, choices=4)
    for problem in drawn:
        question, lines = split_choices(problem.inputs.text)
        assert "\n" not in question and not re.search(r"\b[A-D]\.|\d", question)
        listed = dict(line.split(". ") for line in lines.split("\n"))
        assert list(listed) == list("ABCD") and list(listed.values()) == problem.answer["choices"]
        assert len(set(listed.values())) == 4 and problem.answer["kind"] == "choice"
        truth = glyph(problem)[1] if problem.source == "digit" else listed[problem.answer["text"]]
        assert listed[problem.answer["text"]] == truth
    assert split_choices(sample_problems(1, 0)[0].inputs.text)[1] == ""
    assert Counter(problem.answer["text"] for problem in drawn) == dict.fromkeys("ABCD", 100)


def test_no_answer_is_more_frequent_and_no_other_plate_shows_it() -> None:
    drawn = sample_problems(600, 3)
    assert Counter(problem.answer["text"] for problem in drawn) == dict.fromkeys(DIGITS, 100)
    assert Counter(problem.answer["text"] for problem in sample_problems(400, 3, ["quarter"])) == dict.fromkeys(
        QUARTERS, 100
    )
    colors = Counter(word for problem in drawn for word in problem.inputs.text.split() if word in COLOR_NAMES)
    assert set(colors) == set(COLOR_NAMES[:4]) and max(colors.values()) < 1.3 * min(colors.values())
    for choice in (2, 6):
        told = Counter(problem.answer["text"] for problem in sample_problems(600, 4, choices=choice))
        assert set(told.values()) == {600 // choice}


def test_a_blurred_plate_does_not_name_its_digit() -> None:
    """A plate's mean darkness, which blurring keeps, cut into classes that fit it best, is hardly over chance (1/6)."""
    drawn = sample_problems(1200, 5)
    dark = np.empty(1200)
    for i, problem in enumerate(drawn):
        x, y = plate(problem)
        dark[i] = 1 - picture(problem)[y : y + 20, x : x + 20].sum() / (400 * picture(problem)[y, x].sum())
    truth = np.array([DIGITS.index(problem.answer["text"]) for problem in drawn])
    classes = np.digitize(dark, np.quantile(dark, np.linspace(0, 1, 13)[1:-1]))
    right = sum(np.bincount(truth[classes == k]).max() for k in range(12))
    assert right / 1200 < 0.33


def test_a_sufficient_crop_holds_the_digit_and_is_small() -> None:
    for problem in sample_problems(50, 6):
        x1, y1, x2, y2 = problem.answer["boxes"][0]
        assert sufficient((x1, y1, x2, y2), problem) and sufficient((x2 - 48, y2 - 48, x2, y2), problem)
        assert not sufficient((x2 - 49, y2 - 48, x2, y2), problem) and sufficient(
            (x2 - 49, y2 - 48, x2, y2), problem, 49
        )
        assert not sufficient((x1 + 1, y1, x2, y2), problem) and not sufficient((x1, y1, x2, y2 - 0.5), problem)
        assert not sufficient((0, 0, 96, 96), problem) and not sufficient((x2, y2, x1, y1), problem)
        for garbage in (None, (), (1, 2, 3), (x1, y1, x2, float("nan")), (x1, y1, x2, float("inf"))):
            assert not sufficient(garbage, problem)


def test_splits_and_seeds() -> None:
    for wordings in WORDINGS.values():
        assert len(wordings) == 6 and not set(wordings_of(wordings, "train")) & set(wordings_of(wordings, "held_out"))
    told = lambda drawn: [(p.inputs.text, p.answer, picture(p).tobytes()) for p in drawn]
    train, held_out = (sample_problems(60, 7, SKILLS, split, choices=3) for split in ("train", "held_out"))
    assert (
        told(train)
        == told(sample_problems(60, 7, SKILLS, "train", choices=3))
        != told(sample_problems(60, 8, SKILLS, "train", choices=3))
    )
    for part in (
        lambda p: picture(p).tobytes(),
        lambda p: re.sub(r"\w+ plate", "plate", split_choices(p.inputs.text)[0]),
    ):
        assert not {part(p) for p in train} & {part(p) for p in held_out}


def test_a_large_canvas_keeps_its_small_digits() -> None:
    (problem,) = sample_problems(1, 9, size=512, plates=8)
    assert picture(problem).shape == (512, 512, 3) and glyph(problem)[1] == problem.answer["text"]


@pytest.mark.parametrize(
    "settings, why",
    [
        ({"size": 40}, "size is 40; a canvas needs 48 pixels or more"),
        ({"plates": 0}, "plates is 0; a canvas of 96 px holds 1 to 8"),
        ({"size": 48, "plates": 5}, "plates is 5; a canvas of 48 px holds 1 to 4"),
        ({"choices": 1}, "choices is 1; it must be 0 (none) or 2 to 6"),
        ({"choices": 5, "skills": SKILLS}, "choices is 5; it must be 0 (none) or 2 to 4"),
        ({"skills": ["digits"]}, "unknown skill 'digits'; nearest: digit"),
        ({"split": "dev"}, "unknown split 'dev'"),
    ],
)
def test_what_the_world_does_not_know_is_named(settings: dict, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        sample_problems(4, 0, **settings)
