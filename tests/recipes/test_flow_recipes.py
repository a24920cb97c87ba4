"""Every recipe trains, resumes bit for bit and takes a step with its real presets on tiny models of the real
classes.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from running import brightness, run_recipe, weights

from saccade import catalog
from saccade.core import seeds
from saccade.policies.flow import FlowModel
from saccade.rewards.registry import reward
from saccade.worlds.shapes.task import DrawingTask

TASK = DrawingTask(train_size=16, held_out_size=4)
SMALL = dict(task=TASK, prompts_per_step=2, group=4, evaluate_every=1, save_every=1, warmup=1)


def tiny(name: str, sd3_folder: Path, lm_folder: Path, **changes):
    """A recipe's default settings on random tiny models."""
    settings = next(iter(catalog.load(name).PRESETS.values()))
    small = dict(flow=replace(settings.flow, name=str(sd3_folder), size=16, sampling_steps=4), **SMALL)
    if hasattr(settings, "writer"):
        small["writer"] = replace(settings.writer, rewriter=str(lm_folder), max_new_tokens=8)
        small["retained"] = 1
    return replace(settings, **small | changes)


@pytest.mark.parametrize("name", ["flow_grpo", "diffusion_nft", "promptrl"])
def test_two_steps_equal_one_and_one(name, sd3_folder, lm_folder, tmp_path):
    extra = {"beta": 0.1} if name == "flow_grpo" else {}
    whole = run_recipe(name, tiny(name, sd3_folder, lm_folder, steps=2, **extra), tmp_path / "whole")
    run_recipe(name, tiny(name, sd3_folder, lm_folder, steps=1, **extra), tmp_path / "halves")
    halves = run_recipe(name, tiny(name, sd3_folder, lm_folder, steps=2, **extra), tmp_path / "halves")
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "halves")
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    assert whole == halves and {"train wording", "train wording, strict", "paraphrase"} <= whole["after"].keys()
    assert (tmp_path / "whole" / "samples.jsonl").is_file()


def test_promptrl_moves_both_policies_and_shows_its_rewards(sd3_folder, lm_folder, tmp_path):
    task = replace(TASK, rewards=(brightness(tmp_path),))
    cfg = tiny("promptrl", sd3_folder, lm_folder, steps=1, lr=1e-2, word_lr=1e-2, task=task)
    before = catalog.load("promptrl").policies(cfg)
    run_recipe("promptrl", cfg, tmp_path / "run")
    after = weights(tmp_path / "run")
    moved = {
        n: max(float((after[f"{n}.{k}"] - v).abs().max()) for k, v in p.state_dict().items()) for n, p in before.items()
    }
    line = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()][1]
    assert {
        "reward/format",
        "reward/sharpness",
        "reward/total",
        "loss/words",
        "loss/flow",
        "health/words_ratio",
    } <= line.keys()
    assert line["health/flow_ratio"] == pytest.approx(1, abs=1e-4) and line["health/words_ratio"] == pytest.approx(
        1, abs=1e-3
    )
    assert moved["rewriter"] > 1e-3 and moved["policy"] > 1e-3


@pytest.mark.parametrize(
    ("changes", "moves"),
    [({"train_flow": False}, {"words"}), ({"retained": 4}, {"flow"}), ({"retained": 0}, {"words", "flow"})],
)
def test_promptrl_modes_switch_the_right_updates_off(sd3_folder, lm_folder, tmp_path, changes, moves):
    run_recipe("promptrl", tiny("promptrl", sd3_folder, lm_folder, steps=1, **changes), tmp_path / "run")
    line = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()][1]
    assert {k.removeprefix("loss/") for k in line if k.startswith("loss/")} == moves


def test_format_of_retained_pictures_is_the_mean_of_their_group():
    from toy import PROBLEMS, Toy

    from saccade.recipes.image_generation.promptrl.rewriting import format_of_all

    group_B = torch.tensor([0, 0, 0, 1, 1, 1])
    refined = torch.tensor([0, 1, 3, 4])
    rewrites = Toy.new().rollout(PROBLEMS[:4], seeds(0, 4))
    rewrites.group_B = group_B[refined]
    rewrites.rewards["format"] = torch.tensor([1.0, 0.0, 1.0, 1.0])
    assert format_of_all(rewrites, refined, group_B).tolist() == [1, 0, 0.5, 1, 1, 1]


def test_reward_tagging_gives_every_group_one_reward(sd3_folder):
    from saccade.policies.flow import build_flow_policy
    from saccade.training.groups import sample_groups
    from saccade.worlds import shapes

    task = DrawingTask(rewards=("ocr", "geneval"))
    policy = build_flow_policy(FlowModel(str(sd3_folder), size=32, sampling_steps=1, guidance=1.0), ())
    problems = shapes.problems(1, 0, ("text",)) + shapes.problems(1, 0, ("counting",))
    rollout = sample_groups(policy.greedy().rollout, problems, seeds(0, 2), 3)
    reward = task.judge(rollout)
    assert task.assigned_rewards(rollout) == ["ocr"] * 3 + ["geneval"] * 3
    assert torch.equal(reward[:3], rollout.rewards["ocr"][:3]) and torch.equal(
        reward[3:], rollout.rewards["geneval"][3:]
    )


@pytest.mark.parametrize("preset", ["flux1-dev", "sd35-medium"])
@pytest.mark.parametrize("name", ["flow_grpo", "diffusion_nft", "promptrl"])
def test_real_presets_take_a_step_at_reduced_depth(name, preset, sd3_folder, flux_folder, vlm_folder, tmp_path):
    recipe = catalog.load(name)
    if preset not in recipe.PRESETS:
        pytest.skip(f"{name} has no preset {preset}")
    cfg = recipe.PRESETS[preset]
    (tmp_path / "prompts.txt").write_text('a sign that says "GO"\na poster with the word "CAT"\n')
    task = DrawingTask(str(tmp_path / "prompts.txt"), str(tmp_path / "prompts.txt"), rewards=("ocr",))
    folder = flux_folder if preset.startswith("flux") else sd3_folder
    changes = dict(
        flow=replace(cfg.flow, name=str(folder), size=32, text_length=4), task=task, prompts_per_step=2, group=4
    )
    if hasattr(cfg, "writer"):
        changes["writer"] = replace(cfg.writer, rewriter=str(vlm_folder), max_new_tokens=8)
    result = run_recipe(name, replace(cfg, steps=1, **changes), tmp_path / "run")
    assert set(result["after"]) >= {"held out"}
    assert all(v.isfinite().all() for v in weights(tmp_path / "run").values())


def test_unknown_choices_name_the_known_ones(sd3_folder, lm_folder, tmp_path):

    with pytest.raises(ValueError, match="unknown reward 'genevla'; nearest: geneval"):
        reward("genevla")
    with pytest.raises(ValueError, match="unknown wordings 'short'"):
        DrawingTask(wordings="short").training(0)
    cfg = tiny("flow_grpo", sd3_folder, lm_folder, schedule="firts")
    with pytest.raises(ValueError, match="unknown schedule 'firts'"):
        run_recipe("flow_grpo", cfg, tmp_path / "run")


def test_a_reward_of_ones_own_comes_from_a_file(tmp_path, sd3_folder, lm_folder):

    name = brightness(tmp_path)
    cfg = tiny("flow_grpo", sd3_folder, lm_folder, steps=1, task=replace(TASK, rewards=(name,)))
    result = run_recipe("flow_grpo", cfg, tmp_path / "run")
    assert 0 < result["after"]["train wording"] < 1
    for bad, why in ((f"{tmp_path / 'no.py'}:f", "does not exist"), (name + "er", "has no function 'brighter'")):
        with pytest.raises(ValueError, match=why):
            reward(bad)
