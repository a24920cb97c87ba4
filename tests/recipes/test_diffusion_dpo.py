"""Diffusion-DPO as a recipe: exact resume, preference files, batches without signal, real presets on tiny models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from running import assert_resume_is_exact, brightness, checkpoint_state, metrics, run_recipe
from settings import changed

from saccade import catalog
from saccade.recipes.baselines.diffusion_dpo.preferences import load_preferences, open_pairs
from saccade.worlds.shapes.task import DrawingTask

RECIPE = catalog.load("diffusion_dpo")
TASK = DrawingTask(train_size=16, held_out_size=4)


def small(preset: str, sd3_folder: Path, **changes):
    """A preset on a tiny random model of 16 px."""
    cfg = RECIPE.PRESETS[preset]
    flow = replace(cfg.flow, name=str(sd3_folder), size=16, sampling_steps=4, text_length=2)
    sizes = dict(prompts_per_step=4, steps=2, evaluate_every=1, save_every=1, warmup=1, pool=8, group_size=4)
    return changed(cfg, **dict(flow=flow, task=TASK) | sizes | changes)


@pytest.mark.parametrize("preset", ["online", "offline"])
def test_two_steps_equal_one_and_one(preset, sd3_folder, tmp_path):
    cfg = small(preset, sd3_folder, task=replace(TASK, rewards=(brightness(tmp_path),)))
    assert_resume_is_exact("diffusion_dpo", cfg, tmp_path, "policy")


@pytest.fixture
def preferences(tmp_path: Path) -> Path:
    for name, shade in (("good", 220), ("bad", 30)):
        Image.new("RGB", (24, 16), (shade, shade, shade)).save(tmp_path / f"{name}.png")
    row = {"prompt": "a grey wall", "chosen": "good.png", "rejected": "bad.png"}
    (tmp_path / "pairs.jsonl").write_text((json.dumps(row) + "\n") * 4)
    return tmp_path / "pairs.jsonl"


def test_preferences_of_people_come_from_a_file(sd3_folder, preferences, tmp_path):
    problems = load_preferences(preferences)
    pictures = open_pairs(problems[:2], 16)
    assert pictures.shape == (4, 3, 16, 16) and pictures[0].mean() > 0.8 > 0.2 > pictures[1].mean()
    cfg = small("offline", sd3_folder, preferences=str(preferences), prompts_per_step=2, steps=3, lr=1e-3)
    run_recipe("diffusion_dpo", cfg, tmp_path / "run")
    losses = [line["loss/flow"] for line in metrics(tmp_path / "run") if "loss/flow" in line]
    assert losses[0] == pytest.approx(0.6931, abs=1e-3) and losses[-1] < losses[0]
    for text, why in (('{"prompt": "x"}', r":1: no text 'chosen'"), ("{", ":1: not JSON"), ("", "no preferences")):
        preferences.write_text(text)
        with pytest.raises(ValueError, match=why):
            load_preferences(preferences)
    with pytest.raises(ValueError, match="micro_rows 3 would cut pairs apart"):
        run_recipe("diffusion_dpo", changed(cfg, batch__micro_rows=3), tmp_path / "odd")


def test_a_batch_whose_groups_tell_nothing_apart_trains_nothing(sd3_folder, tmp_path):
    (tmp_path / "same.py").write_text("import torch\ndef same(rollout):\n    return torch.ones(len(rollout))\n")
    cfg = small("online", sd3_folder, task=replace(TASK, rewards=(f"{tmp_path / 'same.py'}:same",)), steps=1)
    run_recipe("diffusion_dpo", cfg, tmp_path / "run")
    trained = checkpoint_state(tmp_path / "run", "policy")
    initial = RECIPE.policies(cfg)["policy"].state_dict()
    assert all(torch.equal(v, trained[f"policy.{k}"]) for k, v in initial.items())


@pytest.mark.parametrize("preset", ["sd35-medium", "sd35-medium-offline"])
def test_real_presets_take_a_step_on_tiny_models(preset, sd3_folder, preferences, tmp_path):
    (tmp_path / "prompts.txt").write_text('a sign that says "GO"\na poster with the word "CAT"\n')
    cfg, file = RECIPE.PRESETS[preset], str(tmp_path / "prompts.txt")
    cfg = changed(
        cfg,
        flow=replace(cfg.flow, name=str(sd3_folder), size=32, text_length=4),
        task=replace(cfg.task, prompts=file, held_out=file, rewards=(brightness(tmp_path),)),
        prompts_per_step=2,
        steps=1,
        preferences=str(preferences) if "off" in preset else "",
    )
    result = run_recipe("diffusion_dpo", cfg, tmp_path / "run")
    assert "held out" in result["after"]
    assert all(v.isfinite().all() for v in checkpoint_state(tmp_path / "run", "policy").values())
