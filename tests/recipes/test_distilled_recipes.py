"""Recipes that distil or differentiate: resume bit for bit, rewards move, real presets take a step on tiny models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from running import brightness, run_recipe

from saccade import catalog
from saccade.algorithms.dmd import Distillation
from saccade.algorithms.reward_model import RewardModelConfig
from saccade.recipes.baselines.diffusion_dpo import preferences as preference_file
from saccade.training import checkpoint
from saccade.worlds.shapes.task import DrawingTask

TASK = DrawingTask(train_size=16, held_out_size=4)
CRITIC = RewardModelConfig(critic_lessons=32, critic_steps=2, critic_batch=8, critic_width=8)
DISTILLING = Distillation(reference_steps=2, prompts_per_step=4, warmup=1)


def small(name: str, sd3_folder: Path, preset: str | None = None, **changes):
    """A preset's settings on a tiny random model of 16 px."""
    settings = catalog.load(name).PRESETS[preset] if preset else next(iter(catalog.load(name).PRESETS.values()))
    steps = settings.flow.sampling_steps
    cut = dict(
        flow=replace(settings.flow, name=str(sd3_folder), size=16, sampling_steps=min(steps, 4), text_length=2),
        task=TASK, prompts_per_step=4, steps=2, evaluate_every=1, save_every=1, warmup=1, distilling=DISTILLING,
        criticism=CRITIC, distil_steps=1, late=min(getattr(settings, "late", 0), 2), pool=8, group=4,
    )  # fmt: skip
    fields = type(settings).__dataclass_fields__
    return replace(settings, **{k: v for k, v in cut.items() if k in fields} | changes)


def state(folder: Path) -> dict[str, torch.Tensor]:
    _, saved = checkpoint.read(checkpoint.latest(folder / "checkpoints"))
    return {
        f"{part}.{k}": v for part in ("policy", "score", "average") if part in saved for k, v in saved[part].items()
    }


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("diff_instruct_star", None),
        ("dmd", "four-steps"),
        ("reward_gradient", "refl"),
        ("reward_gradient", "draft-lv"),
        ("diffusion_dpo", "online"),
        ("diffusion_dpo", "offline"),
    ],
)
def test_two_steps_equal_one_and_one(name, preset, sd3_folder, tmp_path):
    reward = brightness(tmp_path)
    task = replace(TASK, rewards=(reward,)) if name == "diffusion_dpo" else TASK
    cfg = small(name, sd3_folder, preset, task=task)
    whole = run_recipe(name, cfg, tmp_path / "whole")
    run_recipe(name, replace(cfg, steps=1), tmp_path / "halves")
    halves = run_recipe(name, cfg, tmp_path / "halves")
    one, two = state(tmp_path / "whole"), state(tmp_path / "halves")
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    start = catalog.load(name).policies(cfg)["policy"].state_dict()
    assert max(float((one[f"policy.{k}"] - v).abs().max()) for k, v in start.items()) > 0
    assert whole["before"] == halves["before"] and {"train wording", "paraphrase"} <= whole["after"].keys()
    evaluations = lambda folder: [line for line in lines(folder) if "eval/train wording" in line]
    assert (
        evaluations(tmp_path / "whole")[-1]["eval/train wording"]
        == evaluations(tmp_path / "halves")[-1]["eval/train wording"]
    )


def test_a_reward_on_the_pixels_moves_the_generator_to_it(sd3_folder, tmp_path):
    cfg = small(
        "diff_instruct_star", sd3_folder, scorer=brightness(tmp_path), criticism=replace(CRITIC, critic_steps=0),
        distil_steps=0, steps=12, divergence_weight=0.1, reward_weight=10.0,
        distilling=replace(DISTILLING, lr=2e-3, ema=0.5), evaluate_every=12,
    )  # fmt: skip
    result = run_recipe("diff_instruct_star", cfg, tmp_path / "run")
    assert result["after"]["scorer"] > result["before"]["scorer"] + 0.01
    last = lines(tmp_path / "run")[-2]
    assert {"loss/score", "loss/generator", "health/generator_apart", "health/generator_reward"} <= last.keys()
    assert not any(key.startswith("cost/images") for key in last), "training decodes nothing but for the reward"


def test_the_score_is_taught_more_often_than_the_generator(sd3_folder, tmp_path):
    run_recipe(
        "dmd", small("dmd", sd3_folder, steps=4, distilling=replace(DISTILLING, score_updates=3)), tmp_path / "run"
    )
    trained = [
        ("loss/score" in line, "loss/generator" in line) for line in lines(tmp_path / "run") if "loss/score" in line
    ]
    assert trained == [(True, True), (True, False), (True, False), (True, True)]


def test_stages_are_runs_of_their_own_and_skipped_where_they_are_not_wanted(sd3_folder, tmp_path):
    result = run_recipe("diff_instruct_star", small("diff_instruct_star", sd3_folder, steps=1), tmp_path / "all")
    assert (tmp_path / "all" / "critic").is_dir() and (tmp_path / "all" / "distil").is_dir()
    assert {"critic", "frechet", "modes", "scorer"} <= result["after"].keys()
    assert {"reference, critic", "reference, modes"} <= result["before"].keys()
    assert (
        run_recipe("diff_instruct_star", small("diff_instruct_star", sd3_folder, steps=1), tmp_path / "all") == result
    )
    none = small("diff_instruct_star", sd3_folder, steps=1, distil_steps=0, criticism=replace(CRITIC, critic_steps=0))
    with pytest.raises(ValueError, match="no critic is taught"):
        run_recipe("diff_instruct_star", none, tmp_path / "none")
    elsewhere = small("diff_instruct_star", sd3_folder, task=replace(TASK, prompts="prompts.txt"))
    with pytest.raises(ValueError, match="the critic is taught on the embedded world, not on prompts.txt"):
        run_recipe("diff_instruct_star", elsewhere, tmp_path / "elsewhere")


@pytest.fixture
def preferences(tmp_path: Path) -> Path:
    for name, shade in (("good", 220), ("bad", 30)):
        Image.new("RGB", (24, 16), (shade, shade, shade)).save(tmp_path / f"{name}.png")
    row = {"prompt": "a grey wall", "chosen": "good.png", "rejected": "bad.png"}
    (tmp_path / "pairs.jsonl").write_text((json.dumps(row) + "\n") * 4)
    return tmp_path / "pairs.jsonl"


def test_preferences_of_people_come_from_a_file(sd3_folder, preferences, tmp_path):
    problems = preference_file.load(preferences)
    seen = preference_file.pictures(problems[:2], 16)
    assert seen.shape == (4, 3, 16, 16) and seen[0].mean() > 0.8 > 0.2 > seen[1].mean()
    cfg = small("diffusion_dpo", sd3_folder, "offline", pairs=str(preferences), prompts_per_step=2, steps=3, lr=1e-3)
    run_recipe("diffusion_dpo", cfg, tmp_path / "run")
    losses = [line["loss/flow"] for line in lines(tmp_path / "run") if "loss/flow" in line]
    assert losses[0] == pytest.approx(0.6931, abs=1e-3) and losses[-1] < losses[0]
    for text, why in (('{"prompt": "x"}', r":1: no text 'chosen'"), ("{", ":1: not JSON"), ("", "no preferences")):
        preferences.write_text(text)
        with pytest.raises(ValueError, match=why):
            preference_file.load(preferences)
    with pytest.raises(ValueError, match="micro_rows 3 would cut pairs apart"):
        run_recipe("diffusion_dpo", replace(cfg, micro_rows=3), tmp_path / "odd")


def test_a_batch_whose_groups_tell_nothing_apart_trains_nothing(sd3_folder, tmp_path):
    (tmp_path / "same.py").write_text("import torch\ndef same(rollout):\n    return torch.ones(len(rollout))\n")
    cfg = small("diffusion_dpo", sd3_folder, task=replace(TASK, rewards=(f"{tmp_path / 'same.py'}:same",)), steps=1)
    run_recipe("diffusion_dpo", cfg, tmp_path / "run")
    assert all(
        torch.equal(v, state(tmp_path / "run")[f"policy.{k}"])
        for k, v in catalog.load("diffusion_dpo").policies(cfg)["policy"].state_dict().items()
    )


REAL = [
    ("diff_instruct_star", "sd35-medium"), ("dmd", "sd35-medium"), ("dmd", "sd35-medium-four-steps"),
    ("reward_gradient", "refl-sd35-medium"), ("reward_gradient", "draft-sd35-medium"),
    ("diffusion_dpo", "sd35-medium"), ("diffusion_dpo", "sd35-medium-offline"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "preset"), REAL)
def test_real_presets_take_a_step_at_reduced_depth(name, preset, sd3_folder, eyes, preferences, tmp_path):
    (tmp_path / "prompts.txt").write_text('a sign that says "GO"\na poster with the word "CAT"\n')
    cfg = catalog.load(name).PRESETS[preset]
    file = str(tmp_path / "prompts.txt")
    changes = dict(
        flow=replace(cfg.flow, name=str(sd3_folder), size=32, text_length=4),
        task=replace(cfg.task, prompts=file, held_out=file, rewards=(brightness(tmp_path),)),
        prompts_per_step=2, steps=1, distil_steps=1, scorer_model=str(eyes), pairs=str(preferences) if "off" in preset else "",
    )  # fmt: skip
    if "distilling" in type(cfg).__dataclass_fields__:
        changes["distilling"] = replace(cfg.distilling, prompts_per_step=2, reference_steps=2)
    cfg = replace(cfg, **{k: v for k, v in changes.items() if k in type(cfg).__dataclass_fields__})
    result = run_recipe(name, cfg, tmp_path / "run")
    assert "held out" in result["after"] and all(v.isfinite().all() for v in state(tmp_path / "run").values())


def test_encoders_see_pictures_as_their_own_processor_does_and_let_gradients_through(eyes):
    from saccade.core import Problem, seeds
    from saccade.models.loading import load_image_encoder
    from saccade.policies.unrolling import empty_rollout
    from saccade.rewards.learned import text_image

    torch.manual_seed(0)
    pictures = torch.rand(3, 3, 20, 28).mul(255).round() / 255
    rollout = replace(
        empty_rollout([Problem(i, f"a {c} ring") for i, c in enumerate(("red", "blue", "red"))], seeds(0, 3)),
        outputs=pictures,
    )
    processor, model = load_image_encoder(str(eyes), "cpu", texts=True)
    theirs = processor(
        images=[p.permute(1, 2, 0).mul(255).round().byte().numpy() for p in pictures], return_tensors="pt"
    )
    ours = text_image.prepared(pictures, processor.image_processor)
    torch.testing.assert_close(ours, theirs["pixel_values"], atol=2e-2, rtol=0)
    score = text_image.TextImage(str(eyes))
    rollout.outputs = pictures.clone().requires_grad_()
    score(rollout).sum().backward()
    assert (rollout.outputs.grad.flatten(1).abs().amax(1) > 0).all()
    words = processor(text=["a red ring", "a blue ring", "a red ring"], padding=True, return_tensors="pt")
    official = model(**words, **theirs)
    expected = torch.cosine_similarity(official.image_embeds, official.text_embeds)
    torch.testing.assert_close(score(rollout).detach(), expected.detach(), atol=2e-2, rtol=0)
    with pytest.raises(ValueError, match="no such folder"):
        text_image.TextImage("no/such/folder")(rollout)
