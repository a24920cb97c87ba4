"""Scenes, captions and prompt files of the shapes world: exact inverses, clear layouts, files with honest errors."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade.core import Problem
from saccade.worlds.shapes import (
    HELD_OUT_WORDINGS,
    TAGS,
    TRAIN_WORDINGS,
    WORDINGS,
    Object,
    Scene,
    caption,
    depict,
    interpret,
    load_prompts,
    meanings_of,
    render,
    rewards,
    sample_problems,
    sample_scenes,
    score_pictures,
    split_of,
    style,
)  # fmt: skip
from saccade.worlds.shapes.captions import vocabulary
from saccade.worlds.shapes.judge import relations
from saccade.worlds.shapes.layout import GAP, REACH
from saccade.worlds.shapes.prompts import plain_prompt


@given(st.integers(0, 2**32 - 1), st.sampled_from(TAGS), st.sampled_from(WORDINGS))
@settings(max_examples=300, deadline=None)
def test_captions_can_be_interpreted(seed: int, tag: str, wording: int) -> None:
    meaning = meanings_of(1, np.random.default_rng(seed), [tag], most=6)[0]
    assert interpret(caption(meaning, wording)) == meaning


@given(st.text(max_size=60))
@settings(max_examples=100, deadline=None)
def test_other_texts_have_no_meaning(text: str) -> None:
    assert interpret("surely " + text) is None


def test_wordings_differ_and_are_split() -> None:
    for meaning in meanings_of(200, np.random.default_rng(0)):
        assert len({caption(meaning, wording) for wording in WORDINGS}) == len(WORDINGS) == 12
    for part, least in ((TRAIN_WORDINGS, 4), (HELD_OUT_WORDINGS, 2)):
        styles = [style(wording) for wording in part]
        assert styles.count("terse") >= least and styles.count("descriptive") >= least
    assert len(vocabulary()) < 150
    words = " ".join(caption(m, w) for m in meanings_of(300, np.random.default_rng(1), most=6) for w in WORDINGS)
    assert set(re.findall(r"[a-z]+|\d", re.sub(r'"\w+"', "", words))) <= set(vocabulary())


def test_scenes_satisfy_their_meaning_with_room() -> None:
    scenes, meanings = sample_scenes(500, np.random.default_rng(2), most=6)
    for scene, meaning in zip(scenes, meanings):
        asked = [item["class"] for item in meaning["include"] for _ in range(item["count"])]
        assert [thing.shape for thing in scene.objects] == asked
        assert (scene.text.string if scene.text else None) == meaning.get("text")
        for i, thing in enumerate(scene.objects):
            assert REACH * thing.radius <= min(thing.x, thing.y) and max(thing.x, thing.y) <= 1 - REACH * thing.radius
            for other in scene.objects[:i]:
                apart = np.hypot(thing.x - other.x, thing.y - other.y)
                assert apart >= REACH * (thing.radius + other.radius) + GAP - 0.002
        for item in meaning["include"]:
            if "position" in item:
                assert item["position"][0] in relations(scene.objects[1], scene.objects[0])


def test_same_seed_same_scenes_and_split_is_kept() -> None:
    assert sample_scenes(20, np.random.default_rng(3)) == sample_scenes(20, np.random.default_rng(3))
    for split in ("train", "held_out"):
        for tag in TAGS:
            assert {split_of(m) for m in meanings_of(20, np.random.default_rng(4), [tag], split)} == {split}
    near = {"class": "ring", "count": 1}, {"class": "star", "count": 1, "position": ["above", 0]}
    far = {"class": "star", "count": 1}, {"class": "ring", "count": 1, "position": ["below", 0]}
    twins = [{"tag": "position", "include": list(pair)} for pair in (near, far)]
    assert split_of(twins[0]) == split_of(twins[1])


def test_problems_are_reproducible_and_carry_their_meaning() -> None:
    drawn = sample_problems(50, 7, split="held_out", wordings=HELD_OUT_WORDINGS)
    assert drawn == sample_problems(50, 7, split="held_out", wordings=HELD_OUT_WORDINGS)
    for problem in drawn:
        meaning = {k: v for k, v in problem.answer.items() if k != "wording"}
        assert interpret(problem.inputs) == meaning and problem.source == f"shapes/{meaning['tag']}"
        assert problem.answer["wording"] in HELD_OUT_WORDINGS


@pytest.mark.parametrize(
    "call, why",
    [
        (lambda: sample_problems(1, 0, tags=["colour"]), "unknown tag 'colour'; nearest: colors"),
        (lambda: sample_problems(1, 0, split="hold_out"), "unknown split 'hold_out'; nearest: held_out"),
        (lambda: sample_problems(1, 0, wordings=[12]), "unknown wording 12"),
        (lambda: sample_problems(1, 0, wordings=[]), "wordings is empty"),
        (lambda: sample_problems(1, 0, tags=[]), "tags is empty"),
        (lambda: sample_problems(1, 0, most=9), "most is 9"),
        (lambda: render([Scene((Object("sqare", "red", 0.5, 0.5, 0.1),))]), "unknown shape 'sqare'; nearest: square"),
    ],
)
def test_unknown_options_are_named(call, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        call()


def test_files_come_in(tmp_path: Path) -> None:
    entry = {
        "tag": "position",
        "include": [{"class": "zebra", "count": 1}, {"class": "car", "count": 1, "position": ["above", 0]}],
        "prompt": "a photo of a car above a zebra",
    }
    (tmp_path / "geneval.jsonl").write_text(json.dumps(entry) + "\n\n")
    (problem,) = load_prompts(tmp_path / "geneval.jsonl")
    assert problem.inputs == entry["prompt"] and problem.source == "geneval/position"
    assert problem.answer == {"tag": "position", "include": entry["include"]}
    (tmp_path / "prompts.txt").write_text(
        'three rings\nA cafe called "Blue Door" at night\n\na horse\n', encoding="utf-8"
    )
    rings, cafe, horse = load_prompts(tmp_path / "prompts.txt")
    assert rings.answer == interpret("three rings") and horse.answer is None
    assert cafe.answer == {"tag": "text", "include": [], "text": "Blue Door"}


@pytest.mark.parametrize(
    "line, why",
    [
        ("{", "not JSON"),
        ("[1]", "not an object"),
        ('{"tag": "colors", "prompt": ""}', "prompt '' must be a text"),
        ('{"tag": "colors", "prompt": "x"}', "include must name at least one thing"),
        ('{"tag": "colors", "prompt": "x", "include": {}}', "include"),
        ('{"tag": "colors", "prompt": "x", "include": [{"class": "dog", "count": 0}]}', "count 0"),
        (
            '{"tag": "colors", "prompt": "x", "include": [{"class": "dog", "count": 1, "position": ["above", 0]}]}',
            "position",
        ),
        ('{"tag": "text", "prompt": "x"}', "text None"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, why: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"tag": "text", "prompt": "x", "text": "CAT"}\n' + line)
    with pytest.raises(ValueError, match=re.escape(f"{path}:2: ") + ".*" + re.escape(why)):
        load_prompts(path)


def test_files_that_are_no_prompts(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    for name in ("empty.txt", "binary.txt", "missing.txt"):
        with pytest.raises(ValueError, match=name):
            load_prompts(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "include"),
    [
        ("a red ring above a blue square", [("blue", "square", 1, None), ("red", "ring", 1, "above")]),
        ("A photo of a red circle.", [("red", "circle", 1, None)]),
        ("two stars on the left of a cross", [(None, "cross", 1, None), (None, "star", 2, "left of")]),
        ("a red circle and a blue circle", [("red", "circle", 1, None), ("blue", "circle", 1, None)]),
        ("a red cube", None),
        ("a circle and a circle", None),
    ],
)
def test_plain_english_is_understood_and_what_is_not_has_a_reason(text: str, include: list | None) -> None:
    prompt, meaning = plain_prompt(text)
    reason = rewards.why_not(Problem(0, prompt, meaning))
    if include is None:
        assert meaning is None and f"does not understand the prompt '{text}'" in reason and "circle, square" in reason
        return
    things = [(t.get("color"), t["class"], t["count"], t.get("position", [None])[0]) for t in meaning["include"]]
    assert things == include and reason == ""
    gold = render(depict([meaning], np.random.default_rng(0)), 64)
    assert score_pictures(gold, [meaning])["correct"] == 1
