"""SSL4RL: puzzles with their answers, photographs too, what is held out, the control, and claims that can fail."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_vision
import torch
from settings import changed

from saccade import catalog
from saccade.checks.verdicts import judge as judge_claim
from saccade.core import Problem, Question, Rollout, mean_scores
from saccade.evaluation.templates import SUFFIXES
from saccade.math.advantages import group_advantage, random_rewards
from saccade.random import seeds
from saccade.recipes.visual_reasoning.ssl4rl.transfer import TransferTask
from saccade.training import checkpoint
from saccade.training.feeds import OnPolicy
from saccade.training.groups import sample_groups
from saccade.training.run import Run
from saccade.worlds.puzzles.task import PUZZLE_NAMES, PuzzleTask

SSL = catalog.load("ssl4rl")
TASK = PuzzleTask(size=32, min_side=3, pool=12, train_size=16, held_out_size=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_vision.saved("qwen25", tmp_path_factory.mktemp("vl"))


def tiny(folder: Path, preset: str = "tiny", **changes):
    """A preset on a random tiny model of the real class."""
    cfg = SSL.PRESETS[preset]
    small = dict(
        task=TASK,
        transfer=TransferTask(size=10),
        prompts_per_step=4,
        evaluate_every=1,
        save_every=1,
        warmup=1,
    )
    return changed(cfg, model=replace(cfg.model, name=str(folder), max_new_tokens=4), **small | changes)


def run(cfg, place: Path) -> dict:
    opened = (
        Run.resume(place, display=False) if place.exists() else Run.start(place, {"recipe": "ssl4rl"}, display=False)
    )
    with opened:
        return SSL.train(cfg, opened)


def weights(place: Path) -> dict[str, torch.Tensor]:
    return checkpoint.read(checkpoint.latest(place / "checkpoints"))[1]["policy"]


def logged(place: Path) -> dict:
    return [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines() if "reward/total" in line][
        -1
    ]


def answered(pairs: list[tuple[str, str, str]]) -> Rollout:
    """A rollout of answers: kind, answer, what was written."""
    problems = [Problem(i, Question(""), {"text": answer, "kind": kind}) for i, (kind, answer, _) in enumerate(pairs)]
    zeros = torch.zeros(len(pairs), 1)
    return Rollout(problems, {}, [text for *_, text in pairs], zeros, zeros + 1, torch.arange(len(pairs)))


def test_two_steps_equal_one_and_one_and_puzzles_move_the_model(folder, tmp_path):
    # A random model never writes a answer by chance, so random rewards stand in for it.
    at = lambda steps: tiny(folder, steps=steps, random_rewards=True)
    whole = run(at(2), tmp_path / "whole")
    run(at(1), tmp_path / "halves")
    halves = run(at(2), tmp_path / "halves")
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "halves")
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    assert whole == halves and any(
        not torch.equal(one[k], v) for k, v in SSL.policies(at(0))["policy"].state_dict().items()
    )
    line = logged(tmp_path / "whole")
    assert {"reward/right", "loss/words", "health/zero_variance_groups", "health/words_kl"} <= line.keys() and 0 < line[
        "reward/total"
    ] < 1
    items = {
        e["set"]: e["items"] for e in map(json.loads, (tmp_path / "whole" / "samples.jsonl").read_text().splitlines())
    }
    assert items.keys() == {"puzzles", "test"} and all(len(item["turns"]) == 2 for item in items["test"])
    assert sorted({len(item["turns"][0]["pictures"]) for item in items["puzzles"]}) == [2, 4]
    assert {f"puzzle {kind}" for kind in PUZZLE_NAMES} | {
        "solved",
        "downstream",
        "downstream, validation",
        "count",
    } <= whole["after"].keys()


def test_an_answer_is_compared_exactly_and_a_jigsaw_place_by_place():
    pairs = [
        ("number", "90", "90"),
        ("number", "90", "90 degrees"),
        ("word", "top left", "top left"),
        ("word", "same", "Same"),
        ("list", "2,4,1,3", "2, 4,1,3"),
        ("list", "2,4,1,3", "2,4,3,1"),
        ("list", "2,4,1,3", "2,4,1,3,1"),
        ("list", "2,1", ""),
        ("choice", "B", "B. the red one"),
    ]
    answer = [1, 0, 1, 0, 1, 0.5, 0.8, 0, 1]
    assert SSL.correctness(SSL.Settings(), answered(pairs)).tolist() == pytest.approx(answer)
    thoughtful = replace(SSL.Settings(), template="think")
    tagged = [(kind, true, f"<think>so {true}</think><answer>{written}</answer>") for kind, true, written in pairs]
    assert SSL.correctness(thoughtful, answered(tagged)).tolist() == pytest.approx(answer)
    assert SSL.correctness(thoughtful, answered(pairs)).sum() == 0


def test_the_model_is_shown_every_picture_and_asked_in_its_template():
    problem = Problem(0, Question("Same?", (np.zeros((9, 9, 3), np.uint8),) * 4))
    (message,) = SSL.prompt_template("think")(problem)
    assert [part["type"] for part in message["content"]] == ["image"] * 4 + ["text"]
    assert message["content"][-1]["text"] == "Same?" + SUFFIXES["think"] and problem.inputs.text == "Same?"


def test_random_rewards_are_fair_and_follow_from_the_rollout_seeds():
    flips = random_rewards(seeds(0, 400, "test"), 5)
    assert flips.shape == (2000,) and set(flips.tolist()) == {0, 1} and abs(flips.mean() - 0.5) < 0.05
    assert torch.equal(random_rewards(seeds(0, 400, "test")[7:9], 5), flips[35:45])


def test_a_training_puzzle_follows_from_its_number_and_kinds_come_in_equal_parts():
    one, two = TASK.training(3), TASK.training(3)
    assert [p.source for p in one] == list(PUZZLE_NAMES) * 4 and [p.id for p in one] == list(range(16))
    assert all(np.array_equal(a, b) for a, b in zip(one[9].inputs.pictures, two[9].inputs.pictures, strict=True))
    assert one[9].answer == two[9].answer and not np.array_equal(
        one[0].inputs.pictures[0], TASK.training(4)[0].inputs.pictures[0]
    )
    with pytest.raises(IndexError):
        one[16]
    turned = replace(TASK, puzzles=("rotation",), train_size=64).training(0)
    assert {p.answer["text"] for p in turned} == {"0", "90", "180", "270"}


def test_settings_make_puzzles_harder_or_trivial():
    pieces = lambda **settings: replace(TASK, puzzles=("jigsaw",), **settings).training(0)[0].inputs.pictures
    assert [len(p) for p in (pieces(), pieces(grid=3), pieces(gap=2))] == [4, 9, 4]
    assert pieces(gap=2)[0].shape == (12, 12, 3)
    marked = replace(TASK, puzzles=("rotation",), angles=2, marked=True).training(0)
    for problem in (marked[i] for i in range(8)):
        before, after = problem.inputs.pictures
        corner = -1 if problem.answer["text"] == "180" else 0
        assert (before[0, 0] == 255).all() and (after[corner, corner] == 255).all()


def test_nothing_held_out_is_trained_on(tmp_path):
    sets = SSL.held_out_problems(replace(SSL.Settings(), task=TASK, transfer=TransferTask(size=50)))
    names = {"left or right", "above or below", "shape at a place", "color at a place", "count"}
    assert {p.source for p in sets["test"]} == {p.source for p in sets["validation"]} == names and len(
        sets["test"]
    ) == 50
    first_pictures = lambda problems: {p.inputs.pictures[0].tobytes() for p in problems}
    assert not first_pictures(sets["test"]) & first_pictures(sets["validation"])
    for task in (replace(TASK, size=48, pool=200), replace(TASK, images="photographs")):
        taken, kept = task.sources(0)
        apart = [{picture.tobytes() for picture in pictures} for pictures in (taken, kept)]
        assert not apart[0] & (apart[1] | first_pictures(sets["test"])) and len(kept) >= 2
    _pictures(tmp_path, 3)
    with pytest.raises(ValueError, match="has 3 pictures; 4 are needed"):
        replace(TASK, images=str(tmp_path)).training(0)


def test_mistakes_name_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="unknown puzzle 'jigsow'; nearest: jigsaw"):
        replace(TASK, puzzles=("jigsow",)).held_out_problems()
    with pytest.raises(ValueError, match="jigsaw would show 3 px"):
        replace(TASK, puzzles=("jigsaw",), grid=6, gap=1, min_side=4).held_out_problems()
    (tmp_path / "one.jsonl").write_text(_question(tmp_path, "a.png", "B"))
    with pytest.raises(ValueError, match="2 are needed"):
        TransferTask(str(tmp_path / "one.jsonl")).splits()


def test_photographs_train_a_step_towards_what_was_rewarded(folder, tmp_path):
    task = PuzzleTask(images="photographs", size=32, min_side=3, crop=0.6, train_size=64, held_out_size=4)
    cfg = tiny(folder, task=task, steps=1, random_rewards=True, grpo__beta=0.0, lr=1e-3)
    policy, own = SSL.policies(cfg)["policy"], seeds(cfg.seed, 4, "samples", 0)
    rollout = sample_groups(
        policy.rollout, OnPolicy(task.training(cfg.seed), None, 4, cfg.seed).draw(0), own, cfg.batch.group_size
    )
    advantage_B = group_advantage(random_rewards(own, cfg.batch.group_size), rollout.group_B)
    result = run(cfg, tmp_path / "run")
    policy.load_state_dict(weights(tmp_path / "run"))
    likelier_BT = (policy.likelihood(rollout).logp_BT - rollout.logp_BT) * rollout.mask_BT
    assert (advantage_B[:, None] * likelier_BT).mean() > 0.01
    assert {f"puzzle {kind}" for kind in PUZZLE_NAMES} <= result["after"].keys()
    assert logged(tmp_path / "run")["health/words_ratio"] == pytest.approx(1, abs=1e-3)


def test_the_real_preset_takes_a_step_at_reduced_depth(folder, tmp_path):
    _pictures(tmp_path / "pictures", 6)
    (tmp_path / "asked.jsonl").write_text("".join(_question(tmp_path, f"{k}.png", "AB"[k % 2]) for k in range(5)))
    task = replace(
        SSL.PRESETS["qwen25-vl-3b-mixed"].task,
        images=str(tmp_path / "pictures"),
        size=56,
        min_side=5,
        held_out_size=4,
    )
    cfg = tiny(folder, "qwen25-vl-3b-mixed", task=task, transfer=TransferTask(str(tmp_path / "asked.jsonl")), steps=1)
    assert (cfg.batch.minibatches, cfg.batch.group_size, cfg.grpo.beta, cfg.template) == (4, 5, 0.01, "think")
    result = run(cfg, tmp_path / "run")
    assert {"downstream", "downstream, validation", "asked"} <= result["after"].keys()
    assert all(v.isfinite().all() for v in weights(tmp_path / "run").values())
    both = SSL.policies(cfg)
    both["policy"].load_state_dict(weights(tmp_path / "run"))
    assert mean_scores(SSL.evaluate(cfg, both)) == result["after"]
    (item,) = SSL.sample(cfg, both, [f"{tmp_path / '0.png'} {tmp_path / '1.png'} Same?"], seeds(0, 1, "test"))
    assert item["prompt"].endswith("Same?") and isinstance(item["text"], str)


def test_the_best_task_is_chosen_on_validation_and_scored_on_test_questions():
    before = {"downstream@0": 0.50, "solved@0": 0.3, "solved": 0.5}
    scores = lambda chosen, judged: before | {"downstream, validation": chosen, "downstream": judged}
    arms = {name: scores(0.5, 0.5) for name in SSL.ARMS}
    arms |= {"position": scores(0.6, 0.55), "contrast": scores(0.55, 0.7), "mixed": scores(0.7, 0.555)}
    seeds = lambda: {arm: {0: found, 1: found} for arm, found in arms.items()}
    results = [judge_claim(claim, seeds()) for claim in SSL.CLAIMS]
    assert [v["mean"] for v in results] == pytest.approx([0.05, 0.05, 0.005, 0.0])
    assert [v["verdict"] for v in results] == ["holds"] * 4
    arms["mixed"]["downstream"] = 0.57
    assert judge_claim(SSL.CLAIMS[2], seeds())["verdict"] == "refuted"
    arms["position"]["solved"] = 0.35
    assert {judge_claim(claim, seeds())["verdict"] for claim in SSL.CLAIMS} == {"void"}, "no puzzle was learned"


def test_arms_differ_in_the_idea_alone():
    same = lambda cfg: replace(cfg, task=PuzzleTask(), random_rewards=False)
    assert len({same(cfg) for cfg in SSL.ARMS.values()}) == 1 and set(SSL.SINGLES) < set(SSL.ARMS)
    settings = [(a.task.puzzles, a.task.grid, a.task.angles, a.random_rewards) for a in SSL.ARMS.values()]
    assert len(set(settings)) == len(SSL.ARMS)


def _pictures(place: Path, count: int) -> None:
    from PIL import Image

    place.mkdir(exist_ok=True)
    for k in range(count):
        Image.fromarray(tiny_vision.picture(60, 70, k)).save(place / f"{k}.png")


def _question(place: Path, name: str, answer: str) -> str:
    from PIL import Image

    Image.fromarray(tiny_vision.picture(24, 24)).save(place / name)
    return json.dumps({"image": name, "question": "A or B?", "answer": answer, "kind": "choice"}) + "\n"
