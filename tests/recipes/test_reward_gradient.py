"""ReFL and DRaFT as recipes: exact resume, real presets on tiny models."""

from __future__ import annotations

from dataclasses import replace

import pytest
from running import assert_resume_is_exact, brightness, checkpoint_state, run_recipe

from saccade import catalog
from saccade.algorithms.reward_model import RewardModelConfig
from saccade.training.settings import Batch, Schedule
from saccade.worlds.shapes.task import DrawingTask

RECIPE = catalog.load("reward_gradient")


@pytest.mark.parametrize("preset", ["refl", "draft-lv"])
def test_two_steps_equal_one_and_one(preset, sd3_folder, tmp_path):
    cfg = RECIPE.PRESETS[preset]
    cfg = replace(
        cfg,
        schedule=Schedule(steps=2, evaluate_every=1, save_every=1),
        batch=Batch(prompts_per_step=4, group_size=1),
        flow=replace(cfg.flow, name=str(sd3_folder), size=16, sampling_steps=4, text_length=2),
        task=DrawingTask(train_size=16, held_out_size=4),
        reward_model=RewardModelConfig(pictures=32, steps=2, batch_size=8, width=8),
        gradient=replace(cfg.gradient, refl_window=min(cfg.gradient.refl_window, 2)),
    )
    result = assert_resume_is_exact("reward_gradient", cfg, tmp_path, "policy", "ema")
    assert {"reward model", "frechet", "modes"} <= result["after"].keys()


@pytest.mark.parametrize("preset", ["refl-sd35-medium", "draft-sd35-medium"])
def test_real_presets_take_a_step_on_tiny_models(preset, sd3_folder, eyes, tmp_path):
    (tmp_path / "prompts.txt").write_text('a sign that says "GO"\na poster with the word "CAT"\n')
    cfg, file = RECIPE.PRESETS[preset], str(tmp_path / "prompts.txt")
    cfg = replace(
        cfg,
        schedule=replace(cfg.schedule, steps=1),
        batch=replace(cfg.batch, prompts_per_step=2),
        flow=replace(cfg.flow, name=str(sd3_folder), size=32, text_length=4),
        task=replace(cfg.task, prompts=file, held_out=file, rewards=(brightness(tmp_path),)),
        encoders=str(eyes),
    )
    result = run_recipe("reward_gradient", cfg, tmp_path / "run")
    assert "held out" in result["after"]
    assert all(v.isfinite().all() for v in checkpoint_state(tmp_path / "run", "policy").values())
