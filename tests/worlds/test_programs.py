"""The world of programs: hidden shapes change no pixel, visible ones do, and no meaning is in both splits."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from saccade.core import Question
from saccade.tools.render import Request, render, render_batch
from saccade.worlds import programs
from saccade.worlds.programs import COLORS, KINDS, OOD, TRAIN, Scene, sample_scenes, vocabulary, write_svg
from saccade.worlds.programs.prompts import split_of
from saccade.worlds.programs.task import ProgramTask

DOT = '<svg viewBox="0 0 9 9"><rect width="5" height="5"/></svg>'


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(0)
    return sample_scenes(100, rng, TRAIN) + sample_scenes(60, rng, OOD)


def pictures_of(codes, size=32):
    return [one.picture for one in render_batch([Request(code, size=size) for code in codes])]


def shortest(scene: Scene) -> str:
    """The visible shapes alone, without redundant attributes and groups."""
    return write_svg(Scene(scene.visible), SimpleNamespace(random=np.ones))


def test_hidden_shapes_and_redundant_attributes_change_no_pixel(scenes):
    long = [write_svg(scene, np.random.default_rng(i)) for i, scene in enumerate(scenes)]
    short = [shortest(scene) for scene in scenes]
    for one, other in zip(pictures_of(long, 64), pictures_of(short, 64), strict=True):
        assert (one == other).all()
    assert np.mean([len(a) / len(b) for a, b in zip(long, short)]) > 1.15
    hidden = [len(scene.hidden) for scene in scenes]
    assert set(hidden) == {0, 1, 2} and np.mean(np.array(hidden) > 0) > 0.5


def test_every_visible_shape_matters(scenes):
    without = lambda scene, i: Scene(scene.visible[:i] + scene.visible[i + 1 :])
    pairs = [(scene, without(scene, i)) for scene in scenes for i in range(len(scene.visible))]
    whole, less = (pictures_of([shortest(pair[k]) for pair in pairs]) for k in (0, 1))
    changed = [int((a != b).any(-1).sum()) for a, b in zip(whole, less)]
    assert min(changed) >= 10


def test_scenes_have_the_requested_number_of_shapes(scenes):
    for scene in scenes:
        for one in scene.painted:
            assert one.kind in KINDS and one.color in COLORS and all(0 <= n <= 31 for n in one.numbers)
    counts = [len(scene.visible) for scene in scenes]
    assert set(counts[:90]) == {2, 3, 4, 5} and set(counts[-55:]) == {6, 7, 8}
    kinds = [one.kind for scene in scenes for one in scene.visible]
    assert min(kinds.count(kind) for kind in KINDS) > 0.15 * len(kinds)


def test_problems_follow_from_the_seed():
    first, again, other = (programs.sample_problems(n, seed, size=32) for n, seed in ((6, 3), (20, 3), (6, 4)))
    codes = lambda problems: [problem.answer["code"] for problem in problems]
    assert codes(first) == codes(again)[:6] and not set(codes(first)) & set(codes(other))
    assert [problem.id for problem in again] == list(range(20))
    for problem in first:
        (picture,) = problem.inputs.pictures
        assert isinstance(problem.inputs, Question) and problem.source == "programs"
        assert problem.answer["kind"] == "program"
        assert picture.shape == (32, 32, 3) and picture.dtype == np.uint8
        assert (picture == problem.answer["picture"]).all()
        assert (picture == render(problem.answer["code"], "svg", 32).picture).all()


def test_no_meaning_is_in_both_splits(scenes):
    share = np.mean([split_of(scene) == "held_out" for scene in sample_scenes(600, np.random.default_rng(1))])
    assert 0.12 < share < 0.28
    for scene in scenes:
        same = Scene(scene.visible[::-1])
        assert split_of(same) == split_of(scene), "neither order nor what is hidden is a meaning"
    train, held_out = (programs.sample_problems(60, 0, split=split, size=32) for split in ("train", "held_out"))
    assert not {p.answer["code"] for p in train} & {p.answer["code"] for p in held_out}


def test_all_programs_can_be_cut_into_the_vocabulary():
    pieces = sorted(vocabulary(), key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, pieces)))
    lengths = []
    for problem in programs.sample_problems(100, 0, size=32):
        cut = pattern.findall(problem.answer["code"])
        assert "".join(cut) == problem.answer["code"]
        lengths.append(len(cut))
    assert len(pieces) == len(set(pieces)) < 130 and max(lengths) < 110


def test_files_are_read(tmp_path):
    icon = (
        '<?xml version="1.0"?><!DOCTYPE svg><!-- an icon -->'
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 200 100">'
        '<!-- half --><rect width="100" height="100" fill="red"/></svg>'
    )
    broken = '<svg viewBox="0 0 9 9"><image href="/etc/passwd"/></svg>'
    Image.new("RGBA", (20, 10), (0, 0, 0, 0)).save(tmp_path / "seen.png")
    rows = [{"Svg": code, "Filename": name} for code, name in ((icon, "a.svg"), (broken, "b.svg"), (icon, "c.svg"))]
    rows[2]["image"] = "seen.png"
    (tmp_path / "icons.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.warns(UserWarning, match="1 of 3 programs cannot be drawn and are left out; b.svg: element 'image'"):
        one, two = programs.load_programs(tmp_path / "icons.jsonl", size=40)
    assert one.answer["box"] == (0, 0, 200, 100) and one.answer["code"].startswith("<svg") and one.source == "icons"
    assert (one.answer["picture"][10:30, :20] == (255, 0, 0)).all() and (one.answer["picture"][:10] == 255).all()
    assert two.inputs.pictures[0].shape == (10, 20, 3) and (two.inputs.pictures[0] == 255).all()
    assert (two.answer["picture"] == one.answer["picture"]).all()
    (tmp_path / "b.svg").write_text(icon)
    assert [p.answer["code"] for p in programs.load_programs(tmp_path, size=40)] == [one.answer["code"]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no programs in this file"),
        ("{", "a.jsonl:1: not JSON"),
        ('{"svg": ""}', "is not an object with a text 'Svg'"),
        ('{"Svg": "<svg/>", "image": 3}', "image 3 must be a path"),
        ('{"Svg": "<svg/>"}', "no program can be drawn"),
        (json.dumps({"Svg": DOT, "image": "none.png"}), "none.png: cannot be read"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, text, words):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(ValueError, match=words):
        programs.load_programs(tmp_path / "a.jsonl")


def test_what_makes_no_sense_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown split 'heldout'; nearest: held_out"):
        programs.sample_problems(1, 0, split="heldout")
    with pytest.raises(ValueError, match=r"primitives are \(5, 9\)"):
        programs.sample_problems(1, 0, primitives=(5, 9))
    with pytest.raises(ValueError, match=r"no \*.svg in this folder"):
        programs.load_programs(tmp_path)
    with pytest.raises(ValueError, match="cannot be read"):
        programs.load_programs(tmp_path / "none.jsonl")


def test_a_program_with_two_captions_is_two_problems(tmp_path):
    code = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="9" height="9"/></svg>'
    captions = ["a small black square", "a box in the corner"]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps({"Svg": code, "caption": c}) + "\n" for c in captions))
    problems = ProgramTask(programs=str(tmp_path / "s.jsonl"), condition="text").training(0)
    assert [p.answer["caption"] for p in problems] == captions
    assert [p.inputs.text.endswith(caption) for p, caption in zip(problems, captions)] == [True, True]
