"""The world of puzzles: undoing what was done gives the picture back, one answer alone fits, and nothing else tells
it.
"""

import re
import socket
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saccade.core import Problem
from saccade.worlds.puzzles import (
    PHOTOGRAPHS,
    PUZZLES,
    UPRIGHT,
    Contrast,
    Jigsaw,
    Position,
    Rotation,
    load_folder,
    photographs,
    sample_problems,
    scenes,
)
from saccade.worlds.splits import QUARTERS, wordings_of

POOL = scenes(120, 0)
KNOWN = {picture.tobytes() for picture in POOL}


def shown(problem: Problem) -> tuple[np.ndarray, ...]:
    return problem.inputs.pictures


@pytest.mark.parametrize("angles", [2, 4])
def test_only_the_true_turn_undoes_a_rotation(angles: int) -> None:
    for problem in sample_problems(POOL, 100, 1, [Rotation(angles)]):
        first, second = shown(problem)
        assert first.shape == second.shape == (48, 48, 3) and first.tobytes() in KNOWN
        fits = [k * 90 for k in range(4) if (np.rot90(second, -k) == first).all()]
        assert problem.answer == {"text": str(*fits), "kind": "number"}
        assert all(f"{k * 360 // angles}" in problem.inputs.text for k in range(angles))


def test_a_mark_shows_the_turn_and_half_turns_keep_both_pictures_equal_in_form() -> None:
    for problem in sample_problems(POOL, 40, 2, [Rotation(2, marked=True)]):
        first, second = shown(problem)
        assert (first[:8, :8] == 255).all() and (second[-8:, -8:] == 255).all() == (problem.answer["text"] == "180")
    for problem in sample_problems(POOL, 40, 2, [Rotation(8)]):
        assert {picture.shape for picture in shown(problem)} == {(33, 33, 3)}
        assert all((picture.max(-1) > 0).all() for picture in shown(problem))


def places(part: np.ndarray, whole: np.ndarray) -> list[tuple[int, int]]:
    """Everywhere that a cut fits exactly: (top, left)."""
    windows = np.lib.stride_tricks.sliding_window_view(whole, part.shape)[:, :, 0]
    return [tuple(place) for place in np.argwhere((windows == part).all((2, 3, 4))).tolist()]


def test_a_cut_lies_in_its_quarter_alone() -> None:
    for problem in sample_problems(POOL, 80, 3, [Position((0.4, 0.9))]):
        whole, part = shown(problem)
        height, width = part.shape[:2]
        assert 0.4 * 24 - 1 <= min(height, width) and max(height, width) <= 0.9 * 24 + 1
        found = places(part, whole)
        assert found
        for top, left in found:
            assert top % 24 + height <= 24 and left % 24 + width <= 24
            assert QUARTERS[2 * (top // 24) + left // 24] == problem.answer["text"]
    first, second = shown(sample_problems(POOL, 1, 3, [Position(strength=1.0)])[0])
    assert not places(second, first)


@pytest.mark.parametrize("grid, gap", [(2, 0), (3, 0), (2, 3)])
def test_the_answer_puts_a_jigsaw_together(grid: int, gap: int) -> None:
    side = 48 // grid
    corners = [(y, x) for y in range(0, 48, side) for x in range(0, 48, side)]
    pieces = lambda p: [p[y + gap : y + side - gap, x + gap : x + side - gap] for y, x in corners]
    known = {np.stack(pieces(p)).tobytes() for p in POOL} if gap else KNOWN
    for problem in sample_problems(POOL, 60, 4, [Jigsaw(grid, gap)]):
        numbers = [int(number) for number in problem.answer["text"].split(",")]
        assert sorted(numbers) == list(range(1, grid**2 + 1)) and problem.answer["kind"] == "list"
        pieces = [shown(problem)[number - 1] for number in numbers]
        rows = [np.concatenate(pieces[k : k + grid], 1) for k in range(0, grid**2, grid)]
        whole = np.stack(pieces) if gap else np.concatenate(rows)
        assert whole.tobytes() in known


def test_the_golden_jigsaw() -> None:
    assert Jigsaw().text((2, 0, 3, 1)) == "2,4,1,3"
    assert Jigsaw(3).text(tuple(range(9))) == "1,2,3,4,5,6,7,8,9"


def separation(drawn: list[Problem], statistic) -> float:
    """The chance that a statistic is more alike for two views of one picture than for views of two (0.5: tells
    nothing).
    """
    gaps = np.array([np.abs(np.subtract(*(statistic(view.astype(float)) for view in shown(p)))).sum() for p in drawn])
    same = np.array([p.answer["text"] == "same" for p in drawn])
    return float((gaps[same][:, None] < gaps[~same]).mean())


@pytest.mark.parametrize("source", ["scenes", "photographs"])
def test_color_statistics_do_not_tell_views_apart(source: str) -> None:
    pool, crop = (POOL, 1.0) if source == "scenes" else (photographs(PHOTOGRAPHS), 0.5)
    drawn = {
        strength: sample_problems(pool, 400, 5, [Contrast(strength)], size=48, crop=crop) for strength in (0.0, 1.0)
    }
    covariance = lambda view: np.cov(view.reshape(-1, 3).T)
    histogram = lambda view: np.stack([np.histogram(view[..., c], 12, (0, 256))[0] for c in range(3)])
    for statistic in (lambda v: v.mean((0, 1)), lambda v: v.std((0, 1)), covariance, histogram):
        assert separation(drawn[0.0], statistic) > 0.95
        assert 0.38 < separation(drawn[1.0], statistic) < 0.65
    assert {view.shape for problem in drawn[1.0] for view in shown(problem)} == {(48, 48, 3)}


def test_no_answer_is_more_frequent_than_another() -> None:
    told = {p: Counter(q.answer["text"] for q in sample_problems(POOL, 240, 6, [p])) for p in (*PUZZLES, Rotation(2))}
    for puzzle, answers in ((Rotation(), 4), (Rotation(2), 2), (Position(), 4), (Contrast(), 2)):
        assert len(told[puzzle]) == answers and set(told[puzzle].values()) == {240 // answers}
    assert len(told[Jigsaw()]) == 24 and max(told[Jigsaw()].values()) < 30
    assert Counter(problem.source for problem in sample_problems(POOL, 40, 6)) == dict.fromkeys(
        ("rotation", "position", "jigsaw", "contrast"), 10
    )


def test_splits_and_seeds() -> None:
    told = lambda drawn: [(p.inputs.text, p.answer, [v.tobytes() for v in shown(p)]) for p in drawn]
    assert (
        told(sample_problems(POOL, 24, 7)) == told(sample_problems(POOL, 24, 7)) != told(sample_problems(POOL, 24, 8))
    )
    train, held_out = (
        {p.inputs.text for p in sample_problems(POOL, 100, 7, split=split)} for split in ("train", "held_out")
    )
    assert not train & held_out
    for puzzle in PUZZLES:
        assert len(set(puzzle.wordings)) == 6 and len(wordings_of(puzzle.wordings, "train")) == 4
    assert not {p.tobytes() for p in scenes(60, 1)} & {p.tobytes() for p in scenes(60, 1, "held_out")}


def test_pictures_of_any_form_are_cut_square() -> None:
    rng = np.random.default_rng(0)
    pool = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((40, 90), (64, 33), (50, 50))]
    for problem in sample_problems(pool, 30, 9, [Rotation(), Contrast()], crop=0.8):
        first, second = shown(problem)
        assert first.shape[0] == first.shape[1] and first.shape == second.shape
    assert {v.shape for p in sample_problems(pool, 20, 9, [Jigsaw(3)], size=60) for v in shown(p)} == {(20, 20, 3)}


def test_ambiguous_pictures_are_replaced_or_named() -> None:
    blank, stripes = np.full((48, 48, 3), 90, np.uint8), np.zeros((48, 48, 3), np.uint8)
    stripes[::8] = 255
    for puzzle in PUZZLES:
        with pytest.raises(ValueError, match=f"{puzzle.name}: the answer is ambiguous in each of the 2 pictures"):
            sample_problems([blank, blank], 4, 0, [puzzle])
    for puzzle in (Position(), Jigsaw(2)):
        with pytest.raises(ValueError, match="the answer is ambiguous"):
            sample_problems([stripes], 1, 0, [puzzle])
    with pytest.raises(ValueError, match="contrast: the answer is ambiguous in each of the 1 pictures"):
        sample_problems(POOL[:1], 1, 0, [Contrast()])
    for problem in sample_problems([blank, POOL[0], POOL[1]], 12, 0, [Rotation(), Jigsaw()]):
        assert all((view != 90).any() for view in shown(problem))


@pytest.mark.parametrize(
    "call, why",
    [
        (lambda: sample_problems(POOL, 4, 0, [Jigsaw(6)], min_side=9), "jigsaw would show 8 px of picture"),
        (lambda: sample_problems(POOL, 4, 0, [Position()], min_side=28), "position would show 5 px of picture"),
        (lambda: sample_problems(POOL, 4, 0, [Jigsaw(3, gap=8)]), "jigsaw would show 0 px of picture"),
        (lambda: sample_problems(POOL[:, :2], 4, 0, [Rotation()]), "rotation would show 2 px of picture"),
        (lambda: sample_problems([], 4, 0), "there are no pictures"),
        (lambda: sample_problems(POOL, 4, 0, []), "no puzzle is chosen"),
        (lambda: sample_problems(POOL.astype(float), 4, 0), "is float64 [48, 48, 3]; uint8 [H, W, 3] is needed"),
        (lambda: sample_problems([POOL[0, :, :, 0]], 4, 0), "picture 0 is uint8 [48, 48]"),
        (lambda: sample_problems(POOL, 4, 0, crop=1.5), "crop is 1.5"),
        (lambda: sample_problems(POOL, 4, 0, size=0), "size is 0"),
        (lambda: sample_problems(POOL, 4, 0, split="dev"), "unknown split 'dev'"),
        (lambda: Rotation(3), "rotation has angles 3; it must be 2, 4 or 8"),
        (lambda: Jigsaw(1), "jigsaw has grid 1"),
        (lambda: Jigsaw(2, -1), "jigsaw has gap -1"),
        (lambda: Position((0.5, 1.2)), "position has share (0.5, 1.2)"),
        (lambda: Contrast(2.0), "contrast has strength 2.0"),
        (lambda: photographs(["chelsee"]), "unknown photograph 'chelsee'; nearest: chelsea"),
    ],
)
def test_what_makes_no_sense_is_named(call, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        call()


def test_photographs_need_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a photograph was downloaded"))
    every = photographs(PHOTOGRAPHS)
    assert set(UPRIGHT) < set(PHOTOGRAPHS) and len({picture.tobytes() for picture in every}) == len(PHOTOGRAPHS)
    for picture in every:
        assert (
            picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3 and min(picture.shape[:2]) >= 300
        )
    assert len(sample_problems(photographs(), 12, 0, size=96, crop=0.6, min_side=8)) == 12


def test_folders_come_in(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(POOL[0]).save(tmp_path / "b.png")
    Image.fromarray(POOL[1]).convert("L").save(tmp_path / "in" / "a.JPG")
    (tmp_path / "notes.txt").write_text("no picture")
    found = load_folder(tmp_path)
    assert len(found) == 2 and (found[0] == POOL[0]).all() and found[1].shape == (48, 48, 3)
    assert len(sample_problems(found, 4, 0, [Jigsaw()])) == 4
    (tmp_path / "c.png").write_bytes(b"torn")
    with pytest.raises(ValueError, match="c.png: cannot be read as a picture"):
        load_folder(tmp_path)[1]
    (tmp_path / "none").mkdir()
    for name, why in (("none", "has no pictures"), ("missing", "does not exist")):
        with pytest.raises(ValueError, match=f"{name}' {why}"):
            load_folder(tmp_path / name)
