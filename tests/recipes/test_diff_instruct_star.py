"""Diff-Instruct* as a recipe: exact resume, the reward moves the generator, stages, claims, a real preset."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from running import assert_resume_is_exact, brightness, checkpoint_state, metrics, run_recipe

from saccade import catalog
from saccade.algorithms.reward_model import RewardModelConfig
from saccade.training.settings import Batch, Schedule
from saccade.worlds.shapes.task import DrawingTask

RECIPE = catalog.load("diff_instruct_star")
TASK = DrawingTask(train_size=16, held_out_size=4)
REWARD_MODEL = RewardModelConfig(pictures=32, steps=2, batch_size=8, width=8)
NO_REWARD_MODEL = replace(REWARD_MODEL, steps=0)
NO_INITIALIZATION = RECIPE.Initialization(steps=0)


def small(sd3_folder: Path, steps: int = 2, distillation=None, **changes):
    """The default settings on a tiny random model of 16 px."""
    cfg = RECIPE.PRESETS["tiny"]
    return replace(
        cfg,
        schedule=Schedule(steps=steps, evaluate_every=1, save_every=1),
        batch=Batch(prompts_per_step=4, group_size=1),
        flow=replace(cfg.flow, name=str(sd3_folder), size=16, text_length=2),
        distillation=replace(cfg.distillation, reference_steps=2, **(distillation or {})),
        **dict(task=TASK, reward_model=REWARD_MODEL, initialization=RECIPE.Initialization(steps=1)) | changes,
    )


def test_two_steps_equal_one_and_one(sd3_folder, tmp_path):
    assert_resume_is_exact("diff_instruct_star", small(sd3_folder), tmp_path, "policy", "score", "ema")


def test_a_reward_on_the_pixels_moves_the_generator(sd3_folder, tmp_path):
    optim = replace(RECIPE.PRESETS["tiny"].distillation.generator_optim, lr=2e-3, warmup=1)
    cfg = small(
        sd3_folder,
        reward=brightness(tmp_path),
        reward_model=NO_REWARD_MODEL,
        initialization=NO_INITIALIZATION,
        distillation=dict(divergence_weight=0.1, reward_weight=10.0, ema=0.5, generator_optim=optim),
    )
    cfg = replace(cfg, schedule=Schedule(steps=12, evaluate_every=12, save_every=12))
    result = run_recipe("diff_instruct_star", cfg, tmp_path / "run")
    assert result["after"]["training reward"] > result["before"]["training reward"] + 0.01
    last = metrics(tmp_path / "run")[-2]
    assert {"loss/score", "loss/generator", "health/generator_score_gap", "health/generator_reward"} <= last.keys()
    assert not any(key.startswith("cost/images") for key in last), "training decodes nothing but for the reward"


def test_stages_are_runs_of_their_own_and_can_be_switched_off(sd3_folder, tmp_path):
    cfg = small(sd3_folder, steps=1)
    result = run_recipe("diff_instruct_star", cfg, tmp_path / "all")
    assert (tmp_path / "all" / "reward model").is_dir() and (tmp_path / "all" / "initialization").is_dir()
    assert {"reward model", "frechet", "modes", "training reward"} <= result["after"].keys()
    assert {"reference, reward model", "reference, modes"} <= result["before"].keys()
    assert run_recipe("diff_instruct_star", cfg, tmp_path / "all") == result
    none = small(sd3_folder, steps=1, initialization=NO_INITIALIZATION, reward_model=NO_REWARD_MODEL)
    with pytest.raises(ValueError, match="no reward model is trained"):
        run_recipe("diff_instruct_star", none, tmp_path / "none")
    elsewhere = small(sd3_folder, task=replace(TASK, prompts="prompts.txt"))
    with pytest.raises(ValueError, match="the reward model is trained on the embedded world, not on prompts.txt"):
        run_recipe("diff_instruct_star", elsewhere, tmp_path / "elsewhere")


def test_claims_compare_methods_at_equal_reward():
    start = {"reward model": 0.2, "frechet": 10.0, "modes": 4.0}
    ends = {
        name: dict(zip(start, values)) for name, values in {"DI*": (0.4, 8.0, 4.0), "DI++": (0.4, 10.0, 4.0)}.items()
    }
    scores = lambda end: {
        **end,
        **{f"{name}@0": value for name, value in start.items()},
        "reference, reward model@0": 0.3,
    }
    arms = {name: scores(end) for name, end in ends.items()}
    arms |= {f"{name}, more reward": {**arms[name], "reward model": 0.5} for name in ends}
    arms["reward only"] = scores({**start, "frechet": 30.0})
    nearer, more_diverse = RECIPE.at_equal_reward(arms)
    assert nearer == pytest.approx(0.2) and more_diverse == pytest.approx(0)
    assert all(claim.margin(arms) >= claim.least for claim in RECIPE.CLAIMS)


def test_the_real_preset_takes_a_step_on_a_tiny_model(sd3_folder, eyes, tmp_path):
    (tmp_path / "prompts.txt").write_text('a sign that says "GO"\na poster with the word "CAT"\n')
    cfg, file = RECIPE.PRESETS["sd35-medium"], str(tmp_path / "prompts.txt")
    cfg = replace(
        cfg,
        schedule=replace(cfg.schedule, steps=1),
        batch=replace(cfg.batch, prompts_per_step=2),
        flow=replace(cfg.flow, name=str(sd3_folder), size=32, text_length=4),
        task=replace(cfg.task, prompts=file, held_out=file, rewards=(brightness(tmp_path),)),
        encoders=str(eyes),
        initialization=replace(cfg.initialization, steps=1),
        distillation=replace(cfg.distillation, reference_steps=2),
    )
    result = run_recipe("diff_instruct_star", cfg, tmp_path / "run")
    assert "held out" in result["after"]
    assert all(v.isfinite().all() for v in checkpoint_state(tmp_path / "run", "policy", "score").values())
