"""DMD and Diff-Instruct as recipes: exact resume, updates of the score network, real presets on tiny models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from running import assert_resume_is_exact, brightness, checkpoint_state, metrics, run_recipe

from saccade import catalog
from saccade.training.settings import Batch, Schedule
from saccade.worlds.shapes.task import DrawingTask

RECIPE = catalog.load("dmd")


def small(preset: str, sd3_folder: Path, steps: int = 2, group_size: int = 1, **changes):
    """A preset on a tiny random model of 16 px; ``changes`` are those of its distillation."""
    cfg = RECIPE.PRESETS[preset]
    return replace(
        cfg,
        schedule=Schedule(steps=steps, evaluate_every=1, save_every=1),
        batch=Batch(prompts_per_step=4, group_size=group_size),
        flow=replace(cfg.flow, name=str(sd3_folder), size=16, text_length=2),
        task=DrawingTask(train_size=16, held_out_size=4),
        distillation=replace(cfg.distillation, reference_steps=2, **changes),
    )


def test_two_steps_equal_one_and_one(sd3_folder, tmp_path):
    result = assert_resume_is_exact("dmd", small("four-steps", sd3_folder), tmp_path, "policy", "score", "ema")
    assert {"reference, held out", "reference, sharpness"} <= result["before"].keys()


def test_the_score_network_is_updated_more_often_than_the_generator(sd3_folder, tmp_path):
    run_recipe("dmd", small("dmd", sd3_folder, steps=4, score_updates=3), tmp_path / "run")
    logged = [line for line in metrics(tmp_path / "run") if "loss/score" in line]
    assert ["loss/generator" in line for line in logged] == [True, False, False, True]
    assert not any(key.startswith("cost/images") for key in logged[0]), "training decodes nothing"


def test_a_group_is_several_samples_of_each_prompt(sd3_folder, tmp_path):
    runs = [small("dmd", sd3_folder, steps=1, group_size=size) for size in (1, 2)]
    for size, cfg in enumerate(runs, 1):
        run_recipe("dmd", cfg, tmp_path / str(size))
    one, two = (checkpoint_state(tmp_path / str(size), "policy") for size in (1, 2))
    assert any(not torch.equal(one[k], two[k]) for k in one)


def test_diff_instruct_does_not_normalize(sd3_folder):
    dmd, diff_instruct = (small(preset, sd3_folder).distillation for preset in ("dmd", "diff-instruct"))
    assert dmd.normalize and not diff_instruct.normalize and diff_instruct.score_updates == 1


@pytest.mark.parametrize("preset", ["sd35-medium", "sd35-medium-four-steps"])
def test_real_presets_take_a_step_on_tiny_models(preset, sd3_folder, tmp_path):
    (tmp_path / "prompts.txt").write_text('a sign that says "GO"\na poster with the word "CAT"\n')
    cfg, file = RECIPE.PRESETS[preset], str(tmp_path / "prompts.txt")
    cfg = replace(
        cfg,
        schedule=replace(cfg.schedule, steps=1),
        batch=replace(cfg.batch, prompts_per_step=2),
        flow=replace(cfg.flow, name=str(sd3_folder), size=32, text_length=4),
        task=replace(cfg.task, prompts=file, held_out=file, rewards=(brightness(tmp_path),)),
        distillation=replace(cfg.distillation, reference_steps=2),
    )
    result = run_recipe("dmd", cfg, tmp_path / "run")
    assert "held out" in result["after"]
    assert all(v.isfinite().all() for v in checkpoint_state(tmp_path / "run", "policy", "score").values())
