"""The world of edits: exact results score 1, sources have no success but all kept, answers are true, bad files fail."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from saccade.core import Problem, Rollout
from saccade.models.loading import MINIATURES
from saccade.worlds.edits import (
    INSTRUCTIONS,
    KINDS,
    PHOTOGRAPH_INSTRUCTIONS,
    SCORES,
    load_edits,
    photographs,
    sample_problems,
    score_edits,
)
from saccade.worlds.edits.rewards import exact_rewards
from saccade.worlds.shapes import COLORS, SHAPES, Object, Scene, interpret, render, score_pictures
from saccade.worlds.shapes.captions import plural
from saccade.worlds.shapes.judge import relations
from saccade.worlds.splits import CELLS


def sources(made: list[Problem]) -> np.ndarray:
    return np.stack([p.inputs.pictures[0] for p in made])


def targets(made: list[Problem]) -> np.ndarray:
    return np.stack([p.answer["picture"] for p in made])


def of_kind(kind: str, count: int = 30) -> list[Problem]:
    return sample_problems(count, 5, (kind,), split=None)


def true(question: str, scene: Scene) -> bool:
    """Whether a question of the world is to be answered with yes, read off its words."""
    quoted = re.search(r'"([A-Z]+)"', question)
    if quoted:
        return scene.text is not None and scene.text.string == quoted[1]
    things = [(o.color, o.shape) for o in scene.objects]
    said = re.findall(rf"({'|'.join(COLORS)}) ({'|'.join(map(plural, SHAPES))}|{'|'.join(SHAPES)})\b", question)
    number = re.search(r"\d", question)
    if number:
        return sum(plural(shape) == said[0][1] and color == said[0][0] for color, shape in things) == int(number[0])
    if len(said) == 2:
        one, other = (scene.objects[things.index(name)] for name in said)
        return re.search("left of|right of|above|below", question)[0] in relations(one, other)
    return said[0] in things


# -- problems -------------------------------------------------------------------------------------------------------


def test_the_first_problems_are_the_same_whatever_the_count():
    few, many = sample_problems(9, 3), sample_problems(40, 3)
    for one, other in zip(few, many):
        assert one.inputs.text == other.inputs.text and one.answer["questions"] == other.answer["questions"]
        assert (
            np.array_equal(one.answer["picture"], other.answer["picture"])
            and one.answer["after"] == other.answer["after"]
        )
    assert sample_problems(9, 4)[0].answer["before"] != few[0].answer["before"] and [p.source for p in few[:7]] == list(
        KINDS
    )


def test_what_is_held_out_is_never_trained_on():
    train = {p.inputs.text for p in sample_problems(1050, 0, words="train")}
    held = {p.inputs.text for p in sample_problems(490, 0, split="held_out", words="train")}
    assert len(held) > 200 and not train & held
    wordings = [word for known in (INSTRUCTIONS, PHOTOGRAPH_INSTRUCTIONS) for word in known.values()]
    assert all(len(set(known)) >= 6 for known in wordings)
    seen = " ".join(train)
    assert "Erase" in seen and not any(word in seen for word in ("Insert", "Get rid of", "another", "Bring", "instead"))


def test_wordings_do_not_change_the_edits():
    one, other = (sample_problems(28, 1, split="held_out", words=words) for words in ("train", "held_out"))
    assert all(
        a.answer["before"] == b.answer["before"] and a.answer["questions"] == b.answer["questions"]
        for a, b in zip(one, other)
    )
    assert all(a.inputs.text != b.inputs.text for a, b in zip(one, other))


@pytest.mark.parametrize("kind", KINDS)
def test_captions_describe_the_pictures_and_answers_are_true(kind):
    for problem in of_kind(kind, 40):
        answer = problem.answer
        for when in ("before", "after"):
            picture, meaning = render([answer[when]], 48), interpret(answer[f"caption_{when}"])
            assert score_pictures(picture, [meaning])["correct"] == 1, answer[f"caption_{when}"]
        assert {about for *_, about in answer["questions"]} == {"edit", "keep"}
        assert all(true(q, answer["after"]) == (said == "yes") for q, said, _ in answer["questions"]), answer[
            "questions"
        ]
        assert not all(
            true(q, answer["before"]) == (said == "yes") for q, said, about in answer["questions"] if about == "edit"
        )
        assert all(
            true(q, answer["before"]) == (said == "yes") for q, said, about in answer["questions"] if about == "keep"
        )


def test_instructions_name_what_changes():
    for problem in sample_problems(70, 2, split=None):
        before, after = problem.answer["before"], problem.answer["after"]
        gone, new = (set(a.objects) - set(b.objects) for a, b in ((before, after), (after, before)))
        if problem.source in ("recolor", "move", "remove", "replace"):
            (thing,) = gone
            assert f"{thing.color} {thing.shape}" in problem.inputs.text
        if problem.source in ("move", "add"):
            (thing,) = new
            assert CELLS[3 * int(thing.y * 3) + int(thing.x * 3)] in problem.inputs.text


@pytest.mark.skipif(not (MINIATURES / "sd3-shapes").is_dir(), reason="sd3-shapes is not built here")
def test_instructions_fit_the_miniature_that_draws():
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(MINIATURES / "sd3-shapes" / "tokenizer")
    texts = [p.inputs.text for p in sample_problems(1000, 0, split=None)]
    assert max(len(ids) for ids in words(texts)["input_ids"]) <= words.model_max_length


@pytest.mark.parametrize(
    ("named", "why"),
    [
        (dict(kinds=("recolour",)), "nearest: recolor"),
        (dict(split="test"), "unknown split"),
        (dict(words="all"), "unknown words"),
        (dict(kinds=()), "no kind of edit is chosen"),
        (dict(size=20), "need 25"),
    ],
)
def test_unknown_choices_are_refused(named, why):
    with pytest.raises(ValueError, match=why):
        sample_problems(4, 0, **named)


# -- scores --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 48])
def test_exact_results_score_1_and_sources_are_kept_without_success(size):
    made = sample_problems(140, 11, split=None, size=size)
    gold, idle = score_edits(targets(made), made), score_edits(sources(made), made)
    assert (gold["keep"] == 1).all() and (idle["keep"] == 1).all() and (idle["success"] == 0).all()
    assert gold["success"].mean() >= 0.99 and gold["quality"].mean() >= 0.99 and gold["overall"].mean() >= 0.99
    words = np.array([p.source == "text" for p in made])
    assert (gold["overall"][~words] == 1).all() and (idle["overall"] == 0).all()


def test_exact_results_at_another_size_are_judged_too():
    made = sample_problems(21, 1, split=None, size=32)
    larger = render([p.answer["after"] for p in made], 64)
    assert (score_edits(larger, made)["overall"] == 1).all()


def test_near_misses_fail():
    for problem in of_kind("recolor"):
        shown = [o.color for o in problem.answer["after"].objects]
        wrong = problem.answer["after"].objects[0]
        color = next(c for c in COLORS if c not in shown and c != problem.answer["before"].objects[0].color)
        scene = Scene(
            (
                Object(wrong.shape, color, wrong.x, wrong.y, wrong.radius, wrong.angle),
                *problem.answer["after"].objects[1:],
            )
        )
        assert score_edits(render([scene], 32), [problem])["success"] == 0
    for problem in of_kind("remove"):  # painted over with another colour is not removed
        gone, stays = problem.answer["before"].objects
        scene = Scene(
            (Object(gone.shape, "cyan" if gone.color != "cyan" else "red", gone.x, gone.y, gone.radius), stays)
        )
        assert score_edits(render([scene], 32), [problem])["success"] == 0
    for problem in of_kind("add"):  # the thing that was there is lost: carried out, but not kept
        found = score_edits(render([Scene(problem.answer["after"].objects[:1])], 32), [problem])
        assert found["success"] == 1 and 0 < found["keep"] < 0.97 and found["quality"] == 1
        assert found["overall"] == pytest.approx(np.cbrt(found["keep"]))


def test_an_added_thing_may_stand_anywhere():
    for problem in of_kind("count"):
        old = problem.answer["before"].objects
        kind, radius = problem.answer["after"].objects[-1], old[0].radius
        grid = (0.17, 0.5, 0.83) if radius < 0.13 else (0.25, 0.75)
        free = [(x, y) for x in grid for y in grid if all(np.hypot(x - o.x, y - o.y) > 2.4 * radius for o in old)]
        scenes = [Scene((*old, Object(kind.shape, kind.color, x, y, radius))) for x, y in free]
        found = score_edits(render(scenes, 32), [problem] * len(scenes))
        assert len(free) > 1 and (found["success"] == 1).all() and (found["keep"] == 1).all()


def test_blur_noise_and_garbage_score_less_without_errors():
    made, rng = sample_problems(42, 7, split=None), np.random.default_rng(0)
    gold = targets(made).astype(np.float32)
    mean = lambda pictures: score_edits(np.clip(pictures, 0, 255).astype(np.uint8), made)["overall"].mean()
    soft, grainy = mean(gaussian_filter(gold, (0, 1, 1, 0))), mean(gold + rng.normal(0, 10, gold.shape))
    assert 0.1 < grainy < soft < 0.95
    for garbage in (
        rng.integers(0, 256, gold.shape),
        np.zeros_like(gold),
        np.full_like(gold, 255),
        np.full_like(gold, 230),
    ):
        found = score_edits(garbage.astype(np.uint8), made)
        assert all(np.isfinite(value).all() and (0 <= value).all() and (value <= 1).all() for value in found.values())
        assert found["overall"].mean() < 0.2
    with pytest.raises(ValueError, match="square pictures"):
        score_edits(gold.astype(np.uint8)[:3], made)


def test_rewards_are_nan_where_nothing_can_be_scored():
    made = sample_problems(7, 0)
    pictures = torch.tensor(targets(made)).permute(0, 3, 1, 2) / 255
    pictures[2, 0, 3, 3] = float("nan")
    made[4] = Problem(4, made[4].inputs, None)
    nothing = torch.zeros(7, 0)
    rewards = exact_rewards(Rollout(made, {}, pictures.requires_grad_(), nothing, nothing, torch.arange(7)))
    assert tuple(rewards) == SCORES
    for value_B in rewards.values():
        assert (
            value_B.isnan().nonzero().flatten().tolist() == [2, 4]
            and (value_B.nan_to_num(1) == 1).all()
            and not value_B.requires_grad
        )


# -- photographs ----------------------------------------------------------------------------------------------------


def test_photographs_are_scored_by_their_distance_to_the_target():
    made = photographs.sample_problems(20, 1, size=48)
    gold, idle = score_edits(targets(made), made), score_edits(sources(made), made)
    assert (gold["overall"] == 1).all() and (idle["overall"] == 0).all() and np.isnan(gold["keep"]).all()
    half = np.rint((targets(made).astype(float) + sources(made)) / 2).astype(np.uint8)
    assert score_edits(half, made)["success"] == pytest.approx(np.full(20, 0.5), abs=0.02)
    assert score_edits(255 - sources(made), made)["success"].max() <= 0.6


def test_photographs_are_changed_as_instructed():
    for p in photographs.sample_problems(60, 3, split=None, size=40):
        source, target, text = p.inputs.pictures[0].astype(float), p.answer["picture"].astype(float), p.inputs.text
        if p.source == "brightness":
            percent = int(re.search(r"\d+", text)[0]) * (1 if re.search("lighter|up", text) else -1)
            assert np.abs(target - np.clip(source * (1 + percent / 100), 0, 255)).max() <= 0.51
        elif p.source == "greyscale":
            assert (target.max(-1) == target.min(-1)).all() and np.abs(
                target[..., 0] - source @ [0.299, 0.587, 0.114]
            ).max() < 0.52
        elif p.source == "crop":
            part = source[:20] if "top" in text else source[20:]
            part = part[:, :20] if "left" in text else part[:, 20:]
            assert np.abs(target.mean((0, 1)) - part.mean((0, 1))).max() < 4
        else:
            less = p.source == "blur" or re.search("less|down", text)
            assert (target.std() < source.std()) == bool(less)
    few, many = photographs.sample_problems(5, 2), photographs.sample_problems(12, 2)
    assert all(
        np.array_equal(a.answer["picture"], b.answer["picture"]) and a.inputs.text == b.inputs.text
        for a, b in zip(few, many)
    )
    assert not set(photographs.TRAINED) & set(photographs.HELD_OUT)


# -- files ----------------------------------------------------------------------------------------------------------


def written(folder, *entries) -> str:
    for name, shade in (("a.png", 40), ("b.png", 200)):
        Image.fromarray(np.full((20, 30, 3), shade, np.uint8)).save(folder / name)
    file = folder / "edits.jsonl"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in entries))
    return file


def test_a_file_of_edits(tmp_path):
    whole = {
        "image": "a.png",
        "instruction": " Make it light. ",
        "edit_type": "tone",
        "target": "b.png",
        "caption_after": "light",
        "questions": [
            {"text": "Is it light?", "answer": "Yes"},
            {"text": "Is it flat?", "answer": "yes", "about": "keep"},
        ],
    }
    made = load_edits(written(tmp_path, whole, "", {"image": "b.png", "instruction": "Make it dark."}))
    first, second = made[0], made[1]
    assert (
        len(made) == 2 and first.inputs.text == "Make it light." and first.source == "tone" and second.source == "edits"
    )
    assert first.answer["questions"] == (("Is it light?", "yes", "edit"), ("Is it flat?", "yes", "keep"))
    assert (
        first.answer["caption_after"] == "light"
        and first.answer["caption_before"] is None
        and second.answer["picture"] is None
    )
    found = score_edits(np.full((2, 32, 32, 3), 120, np.uint8), [first, second])
    assert found["overall"][0] == pytest.approx(0.5) and np.isnan(found["overall"][1]) and np.isnan(found["keep"]).all()
    (tmp_path / "a.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"edits.jsonl:1: .*cannot be read as a picture"):
        made[0]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "not JSON"),
        ([1], "is not an object"),
        ({"image": "a.png"}, "instruction None must be a text"),
        ({"instruction": "x"}, "image None must be a path"),
        ({"instruction": "x", "image": "none.png"}, "does not exist"),
        ({"instruction": "x", "image": "a.png", "target": "none.png"}, "target '.*' does not exist"),
        ({"instruction": "x", "image": "a.png", "edit_type": 3}, "edit_type 3 must be a text"),
        ({"instruction": "x", "image": "a.png", "questions": {}}, "must be a list of objects"),
        ({"instruction": "x", "image": "a.png", "questions": [{"text": "q", "answer": "maybe"}]}, "must be yes or no"),
        ({"instruction": "x", "image": "a.png", "questions": [{"text": "q", "answer": True}]}, "must be yes or no"),
        ({"instruction": "x", "image": "a.png", "questions": [{"answer": "no"}]}, "text None must be a text"),
        (
            {"instruction": "x", "image": "a.png", "questions": [{"text": "q", "answer": "no", "about": "all"}]},
            "edit or keep",
        ),
    ],
)
def test_a_line_that_does_not_fit_is_named(tmp_path, line, why):
    good = {"image": "a.png", "instruction": "Make it light."}
    with pytest.raises(ValueError, match=rf"edits.jsonl:2: .*{why}") as caught:
        load_edits(written(tmp_path, good, line))
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    for name, why in (("none.jsonl", "cannot be read"), ("empty.jsonl", "no edits in this file")):
        if name == "empty.jsonl":
            (tmp_path / name).write_text("\n\n")
        with pytest.raises(ValueError, match=why):
            load_edits(tmp_path / name)
