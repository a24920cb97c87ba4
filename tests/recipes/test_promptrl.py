"""PromptRL: both policies move, modes switch updates off, the format reward favours no wording."""

from __future__ import annotations

import pytest
import torch
from running import brightness, metrics, run_recipe, small_flow_settings, weights
from stream_uses import recorded
from toy import PROBLEMS, Toy

from saccade import catalog
from saccade.random import seeds
from saccade.recipes.image_generation.promptrl.rewriting import format_reward, sample_rewrites

RECIPE = catalog.load("promptrl")


def small(folder, lm_folder, **changes):
    return small_flow_settings("promptrl", folder, lm_folder=lm_folder, **changes)


def test_both_policies_move_and_rewards_are_logged(sd3_folder, lm_folder, tmp_path):
    rates = {"flow_optim__lr": 1e-2, "rewriter_optim__lr": 1e-2}
    cfg = small(sd3_folder, lm_folder, schedule__steps=1, task__rewards=(brightness(tmp_path),), **rates)
    before = RECIPE.policies(cfg)
    run_recipe("promptrl", cfg, tmp_path / "run")
    after = weights(tmp_path / "run")
    for name, policy in before.items():
        assert max(float((after[f"{name}.{k}"] - v).abs().max()) for k, v in policy.state_dict().items()) > 1e-3
    line = metrics(tmp_path / "run")[1]
    rewards = {"reward/format", "reward/sharpness", "reward/total"}
    assert rewards | {"loss/words", "loss/flow", "health/words_ratio"} <= line.keys()
    assert line["health/flow_ratio"] == pytest.approx(1, abs=1e-4)
    assert line["health/words_ratio"] == pytest.approx(1, abs=1e-3) and line["health/words_clipped"] == 0


@pytest.mark.parametrize(
    ("changes", "losses"),
    [({"train_flow": False}, {"words"}), ({"retained": 4}, {"flow"}), ({"retained": 0}, {"words", "flow"})],
)
def test_modes_switch_updates_off(sd3_folder, lm_folder, tmp_path, changes, losses):
    result = run_recipe("promptrl", small(sd3_folder, lm_folder, schedule__steps=1, **changes), tmp_path / "run")
    line = metrics(tmp_path / "run")[1]
    assert {name.removeprefix("loss/") for name in line if name.startswith("loss/")} == losses
    assert ("held out, rewritten" in result["after"]) == ("words" in losses)


def test_the_format_reward_of_original_prompts_is_the_mean_of_their_group():
    group_B = torch.tensor([0, 0, 0, 1, 1, 1])
    rows = torch.tensor([0, 1, 3, 4])
    rewrites = Toy.new().rollout(PROBLEMS[:4], seeds(0, 4, "test"))
    rewrites.group_B = group_B[rows]
    rewrites.rewards["format"] = torch.tensor([1.0, 0.0, 1.0, 1.0])
    assert format_reward(rewrites, rows, group_B).tolist() == [1, 0, 0.5, 1, 1, 1]
    assert format_reward(None, rows[:0], group_B).tolist() == [0] * 6


def test_words_weights_and_every_denoising_step_have_generators_of_their_own(sd3_folder, lm_folder):
    cfg = small(sd3_folder, lm_folder, flow__sampling_steps=8, window=7, flow__lora_rank=2, rewriter__lora_rank=2)
    problems, seeds_B = cfg.task.training(0)[:4], seeds(0, 4, "test")
    with recorded() as uses:
        policies = RECIPE.policies(cfg)
        sample_rewrites(policies["rewriter"], problems, seeds_B, torch.arange(4), torch.arange(4))
        policies["policy"].rollout(problems, seeds_B)
    names = {use.name for found in uses.of.values() for use in found}
    assert {"tokens", "start", "denoising/6", "LoRA"} <= names and not uses.shared()


def test_samples_are_rewritten_unless_there_is_no_rewriter(sd3_folder, lm_folder):
    cfg = small(sd3_folder, lm_folder)
    policies = RECIPE.policies(cfg)
    (item,) = RECIPE.sample(cfg, policies, ["a red ring"], seeds(0, 1, "test"))
    assert item["prompt"] == "a red ring" and item["text"] and item["image"].shape == (3, 16, 16)
    (plain,) = RECIPE.sample(cfg, {"policy": policies["policy"]}, ["a red ring"], seeds(0, 1, "test"))
    assert "text" not in plain


def test_claims_can_come_out_both_ways():
    names = ("held out", "held out@60", "held out, rewritten@30", "paraphrase")
    scores = {arm: dict.fromkeys(names, 0.3) for arm in RECIPE.ARMS}
    assert not any(claim.margin(scores) > claim.least for claim in RECIPE.CLAIMS)
    scores["promptrl"] |= {"held out": 0.4, "paraphrase": 0.45, "held out, rewritten@30": 0.4}
    assert all(claim.margin(scores) >= claim.least for claim in RECIPE.CLAIMS)
