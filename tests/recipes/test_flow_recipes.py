"""What recipes that generate pictures share: resuming bit for bit, and a step of each real preset on tiny models."""

from __future__ import annotations

import pytest
import torch
from golden import changed
from running import run_recipe, small_flow_settings, weights

from saccade import catalog
from saccade.policies.flow import FlowModel, build_flow_policy
from saccade.random import seeds
from saccade.rewards.registry import reward
from saccade.training.groups import sample_groups
from saccade.worlds import shapes
from saccade.worlds.shapes.task import DrawingTask

RESUMED = [
    ("flow_grpo", "", {"grpo__beta": 0.1}),
    ("diffusion_nft", "", {"nft__reference_weight": 0.1, "nft__decay_slope": 0.3}),
    ("promptrl", "", {}),
]


@pytest.mark.parametrize(("name", "preset", "changes"), RESUMED)
def test_two_steps_equal_one_and_one(name, preset, changes, sd3_folder, lm_folder, tmp_path):
    cfg = lambda steps: small_flow_settings(name, sd3_folder, preset, lm_folder, schedule__steps=steps, **changes)
    once = run_recipe(name, cfg(2), tmp_path / "once")
    run_recipe(name, cfg(1), tmp_path / "resumed")
    resumed = run_recipe(name, cfg(2), tmp_path / "resumed")
    one, two = weights(tmp_path / "once"), weights(tmp_path / "resumed")
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    assert once == resumed and {"held out", "held out, strict", "paraphrase"} <= once["after"].keys()
    assert (tmp_path / "once" / "samples.jsonl").is_file()


REAL = [
    (name, preset)
    for name in ("flow_grpo", "diffusion_nft", "diffusion_dpo", "promptrl")
    for preset in ("flux1-dev", "sd35-medium")
    if preset in catalog.load(name).PRESETS
]


@pytest.mark.parametrize(("name", "preset"), REAL)
def test_real_presets_take_a_step_at_reduced_depth(name, preset, sd3_folder, flux_folder, vlm_folder, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text('a sign that says "GO"\na poster with the word "CAT"\n')
    cfg = catalog.load(name).PRESETS[preset]
    changes = {
        "steps": 1,
        "prompts_per_step": 2,
        "group": 4,
        "flow.name": str(flux_folder if preset.startswith("flux") else sd3_folder),
        "flow.size": 32,
        "flow.text_length": 4,
        "task": DrawingTask(str(prompts), str(prompts), rewards=("ocr",)),
    }
    if hasattr(cfg, "rewriter"):
        changes |= {"rewriter.name": str(vlm_folder), "rewriter.max_new_tokens": 8}
    result = run_recipe(name, changed(cfg, changes), tmp_path / "run")
    assert set(result["after"]) >= {"held out"}
    assert all(v.isfinite().all() for v in weights(tmp_path / "run").values())


def test_reward_tagging_gives_every_group_one_reward(sd3_folder):
    task = DrawingTask(rewards=("ocr", "shapes"))
    policy = build_flow_policy(FlowModel(str(sd3_folder), size=32, sampling_steps=1, guidance=1.0), ())
    problems = shapes.sample_problems(1, 0, ("text",)) + shapes.sample_problems(1, 0, ("counting",))
    rollout = sample_groups(policy.greedy().rollout, problems, seeds(0, 2, "test"), 3)
    total = task.judge(rollout)
    assert task.assigned_rewards(rollout) == ["ocr"] * 3 + ["shapes"] * 3
    assert torch.equal(total[:3], rollout.rewards["ocr"][:3])
    assert torch.equal(total[3:], rollout.rewards["shapes"][3:])


def test_unknown_choices_name_the_known_ones():
    with pytest.raises(ValueError, match="unknown reward 'shpaes'; nearest: shapes"):
        reward("shpaes")
    with pytest.raises(ValueError, match="unknown wordings 'short'"):
        DrawingTask(wordings="short").training(0)
