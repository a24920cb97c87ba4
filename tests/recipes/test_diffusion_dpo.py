"""Diffusion-DPO: resuming with pairs of every source, human preferences from a file, batches without pairs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from golden import changed
from PIL import Image
from running import brightness, metrics, run_recipe, small_flow_settings, weights

from saccade import catalog
from saccade.recipes.baselines.diffusion_dpo.preferences import load_preferences, open_pairs

RECIPE = catalog.load("diffusion_dpo")


def small(folder, preset="online", **changes):
    return small_flow_settings("diffusion_dpo", folder, preset, pool=8, **changes)


@pytest.fixture
def preferences(tmp_path: Path) -> Path:
    for name, shade in (("good", 220), ("bad", 30)):
        Image.new("RGB", (24, 16), (shade, shade, shade)).save(tmp_path / f"{name}.png")
    row = {"prompt": "a grey wall", "chosen": "good.png", "rejected": "bad.png"}
    (tmp_path / "pairs.jsonl").write_text((json.dumps(row) + "\n") * 4)
    return tmp_path / "pairs.jsonl"


@pytest.mark.parametrize("preset", ["online", "offline"])
def test_two_steps_equal_one_and_one(preset, sd3_folder, tmp_path):
    cfg = lambda steps: small(sd3_folder, preset, schedule__steps=steps, task__rewards=(brightness(tmp_path),))
    once = run_recipe("diffusion_dpo", cfg(2), tmp_path / "once")
    run_recipe("diffusion_dpo", cfg(1), tmp_path / "resumed")
    assert run_recipe("diffusion_dpo", cfg(2), tmp_path / "resumed") == once
    one, two = weights(tmp_path / "once"), weights(tmp_path / "resumed")
    assert all(torch.equal(one[k], two[k]) for k in one)
    before = RECIPE.policies(cfg(2))["policy"].state_dict()
    assert any(not torch.equal(one[f"policy.{k}"], v) for k, v in before.items())


def test_human_preferences_come_from_a_file(sd3_folder, preferences, tmp_path):
    pictures = open_pairs(load_preferences(preferences)[:2], 16)
    assert pictures.shape == (4, 3, 16, 16) and pictures[0].mean() > 0.8 > 0.2 > pictures[1].mean()
    cfg = small(sd3_folder, "offline", preferences=str(preferences), schedule__steps=3, optim__lr=1e-3)
    run_recipe("diffusion_dpo", cfg, tmp_path / "run")
    losses = [line["loss/flow"] for line in metrics(tmp_path / "run") if "loss/flow" in line]
    assert losses[0] == pytest.approx(0.6931, abs=1e-3) and losses[-1] < losses[0]
    for text, why in (('{"prompt": "x"}', r":1: no text 'chosen'"), ("{", ":1: not JSON"), ("", "no preferences")):
        preferences.write_text(text)
        with pytest.raises(ValueError, match=why):
            load_preferences(preferences)


def test_an_odd_number_of_rows_would_cut_pairs(sd3_folder, tmp_path):
    cfg = small(sd3_folder, batch__micro_rows=3)
    with pytest.raises(ValueError, match="micro_rows 3 would cut pairs apart"):
        run_recipe("diffusion_dpo", cfg, tmp_path / "run")


def test_a_batch_of_equal_rewards_trains_nothing(sd3_folder, tmp_path):
    (tmp_path / "same.py").write_text("import torch\ndef same(rollout):\n    return torch.ones(len(rollout))\n")
    cfg = small(sd3_folder, schedule__steps=1, task__rewards=(f"{tmp_path / 'same.py'}:same",))
    run_recipe("diffusion_dpo", cfg, tmp_path / "run")
    after = weights(tmp_path / "run")
    before = RECIPE.policies(cfg)["policy"].state_dict()
    assert all(torch.equal(v, after[f"policy.{k}"]) for k, v in before.items())


def test_a_larger_gap_gives_fewer_pairs(sd3_folder, tmp_path):
    cfg = small(sd3_folder, task__rewards=(brightness(tmp_path),))
    policy, problems = RECIPE.policies(cfg)["policy"], cfg.task.training(0)[:3]
    pairs = lambda gap: RECIPE.sampled_pairs(changed(cfg, {"dpo.min_gap": gap}), policy, problems, torch.arange(3), 0)
    assert len(pairs(0.0)) == 6 and not len(pairs(1.0))
    assert pairs(0.0).advantage_BT.flatten().tolist() == [1, -1] * 3


def test_the_offline_preset_takes_a_step_at_reduced_depth(sd3_folder, preferences, tmp_path):
    (tmp_path / "prompts.txt").write_text("a sign\na poster\n")
    cfg, file = RECIPE.PRESETS["sd35-medium-offline"], str(tmp_path / "prompts.txt")
    task = replace(cfg.task, prompts=file, held_out=file, rewards=(brightness(tmp_path),))
    flow = {"flow.name": str(sd3_folder), "flow.size": 32, "flow.text_length": 4}
    cfg = changed(cfg, {"steps": 1, "prompts_per_step": 2, "task": task, "preferences": str(preferences)} | flow)
    result = run_recipe("diffusion_dpo", cfg, tmp_path / "run")
    assert "held out" in result["after"] and all(v.isfinite().all() for v in weights(tmp_path / "run").values())
