"""MGPO: what is shown after a box, that choices stay hidden, who is rewarded and how much, resuming, the real
preset.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny_vision
import torch
from PIL import Image
from settings import changed

from saccade import catalog
from saccade.core import Problem, Question, mean_scores
from saccade.evaluation.transcripts import transcripts
from saccade.math.frames import Frame
from saccade.naming import STANDARD_ERROR
from saccade.policies import zoom
from saccade.policies.multi_turn import Conversation, Turn
from saccade.policies.zoom import ZoomEnvironment, crop_box, try_crop, view
from saccade.random import seeds
from saccade.training import checkpoint
from saccade.training.groups import sample_groups
from saccade.training.run import Run
from saccade.worlds import canvases, questions
from saccade.worlds.canvases import split_choices
from saccade.worlds.canvases.task import VisualSearchTask, accuracy_from_crops, base_sampler

RECIPE = catalog.load("mgpo")
TASK = VisualSearchTask(train_size=8, held_out_size=6)
PROBLEMS = canvases.sample_problems(4, 0, choices=4)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tiny_vision.saved("qwen25", tmp_path_factory.mktemp("vl"))


@pytest.fixture
def pointing(monkeypatch):
    """Random models write no boxes: here the letters that they wrote make one, or none, and are right or not."""

    def made_of_letters(text: str, original: np.ndarray, shown: Frame):
        side = 2 + sum(text.encode()) % 12
        return None if side % 4 == 0 else crop_box(f"[0, 0, {side}, {side / 2}]", original, shown)

    monkeypatch.setattr(zoom, "try_crop", made_of_letters)
    odd = lambda rollout: torch.tensor([float(sum(text.encode()) % 2) for text in rollout.outputs])
    monkeypatch.setattr(VisualSearchTask, "accuracy", property(lambda self: odd))


def settings(folder, preset: str = "tiny", **changes):
    cfg = RECIPE.PRESETS[preset]
    small = dict(
        model=replace(cfg.model, name=str(folder), max_new_tokens=5, max_pixels=576), task=TASK, prompts_per_step=2
    )
    small |= dict(group_size=4, view_pixels=16 * 16, steps=1, lr=1e-3, warmup=1, evaluate_every=1, save_every=1)
    return changed(cfg, **small | changes)


def run_recipe(cfg, place, steps: int = 1) -> dict:
    run = Run.resume(place, display=False) if place.exists() else Run.start(place, {"recipe": "mgpo"}, display=False)
    with run:
        return RECIPE.train(changed(cfg, steps=steps), run)


def weights(place) -> dict[str, torch.Tensor]:
    return checkpoint.read(checkpoint.latest(place / "checkpoints"))[1]["policy"]


def words(message) -> str:
    return next(part["text"] for part in message["content"] if part["type"] == "text")


def pixels(message) -> np.ndarray:
    return next(part["image"] for part in message["content"] if part["type"] == "image")


def test_a_view_is_small_and_its_boxes_map_back_to_the_original():
    picture = tiny_vision.picture(90, 120)
    part = view(picture, 1200)
    assert (
        part["image"].shape == (30, 40, 3)
        and view(picture)["image"] is picture
        and view(picture, 10**6)["image"] is picture
    )
    shown = part["frame"].displayed(48, 32)  # a processor rounds width and height apart
    cut = try_crop("[6, 4, 24, 16]", picture, shown)
    assert cut.frame.window == (15, 11, 60, 45) and np.array_equal(cut.pixels, picture[11:45, 15:60])
    for text in ("none", "[6, 4, 49, 16]", "[6, 4, 6, 16]", "[24, 16, 6, 4]"):
        assert try_crop(text, picture, shown) is None
    assert try_crop("[0, 0, 300, 1]", tiny_vision.picture(2, 300), Frame(300, 2, "x")) is None  # processors refuse it


@pytest.mark.parametrize("turns", [2, 3])
def test_a_conversation_hides_the_choices_and_shows_the_crop(turns):
    script, problem = ZoomEnvironment(split_choices, turns, 32 * 32), PROBLEMS[0]
    (first,) = script.prompt(problem)
    question, lines = split_choices(problem.inputs.text)
    assert pixels(first).shape == (32, 32, 3) and words(first) == question + script.box_prompt and "A." in lines
    frame, conversation = first["content"][0]["frame"], Conversation(turns=[Turn("")])
    for text, shown in (("[8, 8, 16, 16]", (24, 24, 3)), ("nothing", (32, 32, 3)), ("[0, 0, 33, 2]", (32, 32, 3))):
        conversation.frames = (frame,)
        (reply,) = script.reply(problem, conversation, text)
        asked = problem.inputs.text if turns == 2 else question + script.box_prompt
        assert pixels(reply).shape == shown and words(reply) == (asked if shown[0] == 24 else script.notice + asked)
        whole = replace(script, full_view=True).reply(problem, conversation, text)[0]
        assert pixels(whole).shape == (32, 32, 3) and words(whole) == asked
    if turns == 3:
        inner = conversation.env_state["crops"][0].frame.displayed(48, 48)
        conversation = Conversation(turns=[Turn(""), Turn("")], frames=(frame, inner))
        (last,) = script.reply(problem, conversation, "[24, 0, 48, 24]")
        assert words(last) == problem.inputs.text and np.array_equal(
            pixels(last), problem.inputs.pictures[0][24:36, 36:48]
        )


def test_invalid_conversations_are_refused():
    with pytest.raises(ValueError, match="turns 1 < 2"):
        ZoomEnvironment(split_choices, 1)
    with pytest.raises(ValueError, match="one picture, this one has 0"):
        ZoomEnvironment(split_choices).prompt(Problem(0, Question("what?")))
    with pytest.raises(ValueError, match="2 turns, not of 3"):
        ZoomEnvironment(split_choices, 3).swapped_sampler(None)


def test_both_turns_share_the_advantage_of_the_answer_and_replies_are_not_trained(folder, pointing):
    cfg = settings(folder)
    policy = RECIPE.policies(cfg)["policy"]
    rollout = sample_groups(RECIPE.conversation_sampler(cfg, policy), PROBLEMS, seeds(0, 4, "test"), 4)
    rewards = cfg.task.judge(rollout)
    assert rollout.extras["turns_B"].tolist() == [2] * 16 and rollout.extras["failures_B"].sum() == 0
    assert (policy.likelihood(rollout).logp_BT - rollout.logp_BT).abs().max() < 1e-4
    written = rollout.decisions["ids_BL"].gather(1, rollout.decisions["column_BT"])
    for row, conversation in enumerate(rollout.extras["conversation_B"].values):
        own = written[row][rollout.mask_BT[row] > 0]
        texts = [own[rollout.extras["turn_BT"][row][: len(own)] == turn] for turn in (0, 1)]
        assert [policy.language.decode(x.tolist()) for x in texts] == [turn.text for turn in conversation.turns]
    valid = rollout.rewards["valid box"]
    assert 0 < valid.mean() < 1 and torch.equal(rollout.rewards["box area"].isnan(), valid == 0)
    assert (rollout.rewards["sufficient box"] <= valid).all() and rewards.shape == (16,)


def test_a_gold_answer_scores_1_and_another_or_none_0():
    from toy import Toy

    for task in (TASK, replace(TASK, choices=0)):
        problems = task.training(0)[:2]
        rollout = Toy.new().rollout(problems, seeds(0, 2, "test"))
        for outputs, right in (
            ([p.answer["text"] for p in problems], 1),
            (["Z", ""], 0),
            (["<answer>", "[1, 2, 3, 4]"], 0),
        ):
            rollout.outputs = outputs
            assert task.accuracy(rollout).tolist() == [right] * 2


def test_the_control_shows_crops_of_another_question(folder, pointing):
    cfg = settings(folder, second_view="swapped")
    rollout = sample_groups(
        RECIPE.conversation_sampler(cfg, RECIPE.policies(cfg)["policy"]), PROBLEMS, seeds(0, 4, "test"), 4
    )
    conversations, found = rollout.extras["conversation_B"].values, zoom.last_crops(rollout)
    plain = sample_groups(
        RECIPE.conversation_sampler(settings(folder), RECIPE.policies(cfg)["policy"]), PROBLEMS, seeds(0, 4, "test"), 4
    )
    assert [t.turns[0].text for t in conversations] == [t.turns[0].text for t in plain.extras["conversation_B"].values]
    for row, conversation in enumerate(conversations):
        other = found[(row + 4) % 16]
        reply = conversation.turns[0].reply[0]
        assert words(reply).endswith(rollout.problems[row].inputs.text)
        assert (
            pixels(reply).shape == (16, 16, 3)
            if other is None
            else np.array_equal(pixels(reply), zoom.view(other.pixels, cfg.view_pixels)["image"])
        )
    with pytest.raises(ValueError, match="only one"):
        RECIPE.conversation_sampler(cfg, RECIPE.policies(cfg)["policy"])(PROBLEMS[:1] * 2, seeds(0, 2, "test"))


def test_a_frozen_base_answers_from_crops_alone(folder, pointing):
    cfg = settings(folder, answer_prompt=" Now.")
    policy = RECIPE.policies(cfg)["policy"]
    base = base_sampler(policy, cfg.answer_prompt)
    rollout = RECIPE.conversation_sampler(cfg, policy)(PROBLEMS, seeds(1, 4, "test"))
    accuracy_from_crops(cfg.task.accuracy, base, rollout)
    first = base(PROBLEMS, seeds(0, 4, "test")).outputs
    with torch.no_grad():
        for p in policy.trained:
            p.mul_(1.5)
    assert base(PROBLEMS, seeds(0, 4, "test")).outputs == first, "it learned what the policy did"
    assert replace(policy, temperature=0.0).rollout(PROBLEMS, seeds(0, 4, "test")).outputs != first
    (asked, *_) = base(PROBLEMS, seeds(0, 4, "test")).extras["prompt_B"].values
    assert words(asked[0]) == PROBLEMS[0].inputs.text + " Now."
    for conversation in rollout.extras["conversation_B"].values:
        conversation.env_state["crops"] = [None]
    assert accuracy_from_crops(cfg.task.accuracy, base, rollout).tolist() == [0] * 4


def test_what_is_shown_is_what_the_model_saw(folder, pointing):
    cfg = settings(folder)
    policy = RECIPE.policies(cfg)["policy"]
    rollout = RECIPE.conversation_sampler(cfg, policy)(PROBLEMS, seeds(0, 4, "test"))
    conversation = rollout.extras["conversation_B"].values[0]
    conversation.turns[0] = replace(conversation.turns[0], text='{"bbox_2d": [2, 4, 6, 8], "label": "it"}')
    item = transcripts(rollout, torch.ones(4))[0]
    first, texts, reply, last = item["turns"]
    assert [t["trained"] for t in item["turns"]] == [False, True, False, True] and last["text"] == item["text"]
    assert "A." not in first["text"] and "A." in reply["text"] and first["pictures"][0]["image"].shape == (3, 16, 16)
    true, predicted = first["pictures"][0]["boxes"]
    assert (
        predicted == {"corners": [2, 4, 6, 8], "label": "it", "kind": "predicted"}
        and texts["text"] == conversation.turns[0].text
    )
    np.testing.assert_allclose(true["corners"], np.array(PROBLEMS[0].answer["boxes"][0]) / 6, atol=0.01)


@pytest.mark.parametrize("second_view", ["crop", "swapped"])
def test_two_steps_equal_one_and_one(folder, pointing, tmp_path, second_view):
    cfg = settings(folder, second_view=second_view, grpo__std="none")
    whole = run_recipe(cfg, tmp_path / "whole", 2)
    run_recipe(cfg, tmp_path / "halves", 1)
    halves = run_recipe(cfg, tmp_path / "halves", 2)
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "halves")
    assert whole == halves and all(torch.equal(one[k], two[k]) for k in one)
    start = RECIPE.policies(cfg)["policy"].state_dict()
    assert max(float((one[k] - v).abs().max()) for k, v in start.items()) > 1e-3
    line = json.loads((tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()[1])
    assert {
        "reward/total",
        "reward/valid box",
        "reward/box area",
        "reward/sufficient box",
        "health/zero_variance_groups",
    } <= line.keys()
    assert line["health/words_ratio"] == pytest.approx(1, abs=1e-3)
    assert "turns" in json.loads((tmp_path / "whole" / "samples.jsonl").read_text().splitlines()[0])["items"][0]


def test_more_turns_at_test_time_and_samples_of_ones_own(folder, pointing, tmp_path):
    cfg = settings(folder, eval_turns=3)
    policies = RECIPE.policies(cfg)
    assert 0 <= mean_scores(RECIPE.evaluate(cfg, policies))["accuracy"] <= 1
    Image.fromarray(PROBLEMS[0].inputs.pictures[0]).save(tmp_path / "a.png")
    (item,) = RECIPE.sample(cfg, policies, [f"{tmp_path / 'a.png'} Which digit?"], seeds(0, 1, "test"))
    assert isinstance(item["text"], str)


def test_the_real_preset_takes_a_step_on_a_file(folder, pointing, tmp_path):
    records = [("a.png", "B", ["(A) red", "(B) blue"]), ("b.png", "(A)", {"A": "one", "B": "two", "C": "three"})] * 2
    for i, name in enumerate(("a.png", "b.png")):
        Image.fromarray(tiny_vision.picture(40 + i, 70, i)).save(tmp_path / name)
    lines = [{"image": n, "question": "What is\nit?", "answer": a, "choices": c} for n, a, c in records]
    lines.append(
        {"image": "a.png", "text": "Which?\n(A) up\n(B) down\nAnswer with a letter.", "label": "A", "category": "v"}
    )
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, lines)))
    task = VisualSearchTask(str(tmp_path / "q.jsonl"), str(tmp_path / "q.jsonl"))
    cfg = settings(folder, "qwen25-vl-7b", task=task, minibatches=4, view_pixels=None)
    result = run_recipe(cfg, tmp_path / "run")
    assert cfg.model.train_vision and {"accuracy", "valid box", "q", "v"} <= result["after"].keys()
    assert all(v.isfinite().all() for v in weights(tmp_path / "run").values())
    problems = questions.load_questions(tmp_path / "q.jsonl")
    assert problems[0].inputs.text == "What is it?\nA. red\nB. blue" and problems[1].answer["text"] == "A"
    assert problems[4].inputs.text == "Which?\nA. up\nB. down" and problems[4].source == "v"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (
            {"image": "a.png", "question": "q", "answer": "C", "choices": ["x", "y"]},
            "1: answer 'C' must be a letter from A to B",
        ),
        ({"image": "a.png", "question": "q", "answer": "A"}, "1: the question has no lettered choices"),
        ({"image": "a.png", "question": "q", "answer": "A", "choices": ["x"]}, "must be 2 to 26 texts"),
        ({"image": "a.png", "answer": "A", "choices": ["x", "y"]}, "question None must be a text"),
        ({"image": "b.png", "question": "q", "answer": "A", "choices": ["x", "y"]}, "b.png' does not exist"),
        (
            {"images": ["a.png", "a.png"], "question": "q", "answer": "A", "choices": ["x", "y"]},
            "one picture, this one has 2",
        ),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, why):
    Image.fromarray(tiny_vision.picture(4, 4)).save(tmp_path / "a.png")
    (tmp_path / "q.jsonl").write_text(json.dumps(line))
    with pytest.raises(ValueError, match=why):
        VisualSearchTask(str(tmp_path / "q.jsonl")).training(0)


def test_claims_read_scores_that_exist(folder, pointing):
    cfg = settings(folder)
    found = mean_scores(RECIPE.evaluate(cfg, RECIPE.policies(cfg)))
    scores = {name: value for name, value in found.items() if not name.endswith(STANDARD_ERROR)}
    assert set(scores) == {
        "accuracy",
        "accuracy, greedy",
        "valid box",
        "box area",
        "sufficient box",
        "answer from the crop alone",
    }
    seed = {arm: scores | {f"{k}@0": v for k, v in scores.items()} for arm in RECIPE.ARMS}
    assert [claim.margin(seed) for claim in RECIPE.CLAIMS] == pytest.approx([0, 0, 0.07, 0, 0])
    good = {
        "mgpo": (0.8, 0.7),
        "grpo": (0.3, 0.2),
        "swapped": (0.2, 0.2),
        "mgpo, wide view": (0.8, 0.7),
        "grpo, wide view": (0.6, 0.2),
    }
    before = {"accuracy@0": 0.2, "sufficient box@0": 0.2}
    seed = {arm: before | {"accuracy": a, "sufficient box": s} for arm, (a, s) in good.items()}
    assert all(claim.margin(seed) >= claim.least for claim in RECIPE.CLAIMS)


def test_the_recipe_stands_in_the_catalog_with_its_head():
    head = catalog.head(catalog.find("mgpo"))
    assert all(head.values()) and "2507.05920" in head["paper"]


def test_plain_answers_are_conversations_of_two_turns_with_their_boxes(folder):
    from saccade.policies.tokens import TokenModel, build_token_policy

    policy = build_token_policy(TokenModel(str(folder), max_new_tokens=4))
    problem = Problem(
        0, Question("where?", (tiny_vision.picture(40, 60),)), {"text": "", "boxes": [[5.0, 5.0, 55.0, 35.0]]}
    )
    rollout = policy.rollout([problem], seeds(0, 1, "test"))
    rollout.outputs = ["<answer>[0, 0, 12, 8], [90, 1, 2, 3]</answer>"]  # in the 24 x 16 pixels that were shown
    (item,) = transcripts(rollout, torch.tensor([0.5]))
    asked, texts = item["turns"]
    assert asked["text"] == "where?" and texts == {
        "who": "model",
        "text": rollout.outputs[0],
        "pictures": [],
        "trained": True,
    }
    assert [(box["kind"], box["corners"]) for box in asked["pictures"][0]["boxes"]] == [
        ("true", [5, 5, 55, 35]),
        ("predicted", [0, 0, 30, 20]),
    ]
