"""The exact judge of shapes: gold pictures are right, near misses wrong, blur, noise and garbage harmless."""

import copy

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from saccade.core import Problem, Rollout
from saccade.worlds.shapes import (
    COLORS,
    SHAPES,
    TAGS,
    Scene,
    Text,
    depict,
    parse,
    read_text,
    render,
    rewards,
    sample_scenes,
    score_pictures,
    templates,
)
from saccade.worlds.shapes.fonts import LETTERS
from saccade.worlds.shapes.judge import relations
from saccade.worlds.shapes.scene import Object

OTHER_RELATION = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def pictures(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("tag", TAGS)
def test_gold_pictures_are_correct(tag: str, size: int) -> None:
    scenes, meanings = sample_scenes(400, np.random.default_rng(1), [tag], most=6 if size == 64 else 5)
    scores = score_pictures(render(scenes, size), meanings)
    assert scores["correct"].mean() >= 0.99
    assert np.array_equal(scores["correct"] == 1, scores["points"] == 1)


@pytest.mark.parametrize("tag", TAGS)
def test_blur_and_noise_are_survived(tag: str) -> None:
    rng = np.random.default_rng(2)
    scenes, meanings = sample_scenes(300, rng, [tag])
    blurred = gaussian_filter(render(scenes).astype(np.float32), (0, 0.6, 0.6, 0)) / 255
    noisy = np.clip(blurred + rng.normal(0, 0.03, blurred.shape), 0, 1).transpose(0, 3, 1, 2)
    assert score_pictures(torch.from_numpy(noisy).float(), meanings)["correct"].mean() >= 0.95


def test_relations_are_those_of_the_published_evaluation() -> None:
    """Boxes of .2 beside boxes of .2: the dead zone is .04, and what is left is divided by the whole offset."""
    published = {
        (0.3, 0.3): {"right of", "below"},
        (0.3, 0.0): {"right of"},
        (-0.12, 0.08): {"left of"},
        (0.06, 0.02): set(),  # .02 / .063, near each other
        (0.0, -0.07): set(),
        (0.0, -0.09): {"above"},
        (0.03, 0.03): set(),
    }
    for (x, y), expected in published.items():
        assert (
            relations(Object("star", "red", 0.5 + x, 0.5 + y, 0.1), Object("ring", "blue", 0.5, 0.5, 0.1)) == expected
        )


def near_miss(meaning: dict, rng: np.random.Generator) -> dict:
    """A meaning that differs in one fact: a colour, a number, a relation, an owner of a colour, a letter, a thing."""
    other = copy.deepcopy(meaning)
    first, last = other["include"][:1], other["include"][-1:]
    different = lambda known, *taken: str(rng.choice([k for k in known if k not in taken]))
    if meaning["tag"] == "text":
        at = int(rng.integers(len(meaning["text"])))
        letters = list(meaning["text"])
        letters[at] = different(LETTERS, letters[at])
        other["text"] = "".join(letters)
    elif meaning["tag"] == "counting":
        first[0]["count"] += -1 if first[0]["count"] == 6 else int(rng.choice([-1, 1]))
    elif meaning["tag"] == "position" and rng.random() < 0.5:
        last[0]["position"] = [OTHER_RELATION[last[0]["position"][0]], 0]
    elif meaning["tag"] == "color_attr" and rng.random() < 0.5:
        first[0]["color"], last[0]["color"] = last[0]["color"], first[0]["color"]
    elif "color" in last[0] and rng.random() < 0.5:
        last[0]["color"] = different(COLORS, last[0]["color"])
    elif len(other["include"]) > 1 and rng.random() < 0.5:
        other["include"] = first
    elif rng.random() < 0.5:
        extra = different(SHAPES)
        other["include"].append({"class": extra, "count": 1})
    else:
        last[0]["class"] = different(SHAPES, *(item["class"] for item in other["include"]))
    return other


@pytest.mark.parametrize("tag", TAGS)
def test_near_misses_are_wrong(tag: str) -> None:
    rng = np.random.default_rng(3)
    _, meanings = sample_scenes(400, rng, [tag])
    wrong = depict([near_miss(meaning, rng) for meaning in meanings], rng)
    scores = score_pictures(render(wrong), meanings)
    assert (scores["correct"] == 0).mean() >= 0.99
    assert (scores["points"] < 1).mean() >= 0.99
    assert scores["points"].mean() > 0.15


def test_parse_gives_the_objects_back() -> None:
    scenes, _ = sample_scenes(200, np.random.default_rng(4), [tag for tag in TAGS if tag != "text"])
    for scene, found in zip(scenes, parse(pictures(render(scenes)))):
        assert sorted((o.shape, o.color) for o in found) == sorted((o.shape, o.color) for o in scene.objects)
        for thing in found:
            near = min(scene.objects, key=lambda o: np.hypot(o.x - thing.x, o.y - thing.y))
            assert np.hypot(near.x - thing.x, near.y - thing.y) < 0.02
            assert abs(near.radius - thing.radius) < 0.02


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_in_two_paints_is_one_object_of_the_paint_that_prevails(shape: str) -> None:
    """Generated shapes have a part in a second paint."""
    red, blue = render([Scene((Object(shape, color, 0.5, 0.5, 0.2, 0.3),)) for color in ("red", "blue")])
    mixed = np.stack([np.where(np.arange(32)[None, :, None] < edge, red, blue) for edge in (18, 14)])
    found = [[(thing.shape, thing.color) for thing in picture] for picture in parse(mixed)]
    assert found == [[(shape, "red")], [(shape, "blue")]]


def test_shapes_that_touch_stay_apart() -> None:
    touching = Scene((Object("square", "red", 0.35, 0.5, 0.19), Object("square", "blue", 0.65, 0.5, 0.19)))
    assert sorted(thing.color for thing in parse(render([touching], 64))[0]) == ["blue", "red"]


def test_text_is_read_and_compared() -> None:
    line = lambda word, height: Scene((), Text(word, "roboto", 0.5, 0.5, height))
    images = render([line("CAT", 0.28), line("CAR", 0.28), line("CATS", 0.2), Scene()])
    assert read_text(images) == ["CAT", "CAR", "CATS", ""]
    meaning = {"tag": "text", "include": [], "text": "cat"}
    scores = score_pictures(images, [meaning] * 4)
    assert scores["ocr"] == pytest.approx([1, 2 / 3, 1, 0])
    assert scores["points"] == pytest.approx([1, 2 / 3, 2 / 3, 0])


def test_garbage_scores_zero_and_nan_cannot_be_judged() -> None:
    rng = np.random.default_rng(5)
    noise, black = torch.from_numpy(rng.random((1, 3, 32, 32))).float(), torch.zeros(1, 3, 32, 32)
    broken, blank = torch.full_like(black, float("nan")), pictures(render([Scene()]))
    garbage = torch.cat([noise, black, blank, broken])
    for tag in TAGS:
        _, meanings = sample_scenes(1, rng, [tag])
        scores = score_pictures(garbage, meanings * 4)
        assert scores["correct"][:3].tolist() == [0, 0, 0]
        assert scores["points"][0] < 0.1 and scores["points"][1:3].tolist() == [0, 0]
        assert np.isnan(scores["correct"][3]) and np.isnan(scores["points"][3])
    assert parse(garbage)[2:] == [[], []]
    assert parse(garbage[:0]) == [] and read_text(garbage[:0]) == []


def test_meanings_of_another_world_cannot_be_judged() -> None:
    images = render([Scene()] * 3)
    strange = [{"tag": "single_object", "include": [{"class": "zebra", "count": 1}]}, None, {"tag": "x", "include": []}]
    assert np.isnan(score_pictures(images, strange)["correct"]).all()


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"\[2, 32, 32, 3\]"):
        parse(torch.zeros(2, 32, 32, 3))
    with pytest.raises(ValueError, match="2 pictures but 1 meanings"):
        score_pictures(torch.zeros(2, 3, 32, 32), [None])


def test_rewards_of_a_rollout() -> None:
    scenes, meanings = sample_scenes(60, np.random.default_rng(6))
    problems = [Problem(i, "", meaning) for i, meaning in enumerate(meanings)]
    zeros = torch.zeros(60, 1)
    rollout = Rollout(problems, {}, pictures(render(scenes)), zeros, zeros, torch.arange(60))
    scores = rewards.judge(rollout)
    texts = torch.tensor([meaning["tag"] == "text" for meaning in meanings])
    assert torch.equal(scores["correct"], rewards.correct(rollout)) and scores["points"].shape == (60,)
    assert torch.equal(scores["ocr"].isnan(), ~texts)
    assert rewards.by_tag(scores["correct"], problems) == pytest.approx(dict.fromkeys(TAGS, 1.0))


def test_the_templates_on_disk_are_those_that_are_drawn():
    shapes, kinds, angles = templates.shape_templates()
    glyphs, letters = templates.glyph_templates()
    drawn = (*templates.draw_shapes(), *templates.draw_glyphs())
    for kept, again in zip((shapes, kinds, angles, glyphs, letters), drawn):
        np.testing.assert_allclose(kept, again, atol=1e-3)  # processors round resampling differently
