"""Flow-GRPO: windows of trained steps, the exponential moving average, a user's reward, claims."""

from __future__ import annotations

import pytest
import torch
from running import brightness, metrics, run_recipe, small_flow_settings, weights

from saccade import catalog
from saccade.core import mean_scores
from saccade.rewards.registry import reward

RECIPE = catalog.load("flow_grpo")


def small(folder, **changes):
    return small_flow_settings("flow_grpo", folder, **changes)


@pytest.mark.parametrize("place", ["first", "random", "sliding"])
def test_a_step_trains_a_window_of_denoising_steps(sd3_folder, tmp_path, place):
    cfg = small(sd3_folder, schedule__steps=1, window_place=place, optim__lr=1e-2)
    before = {f"policy.{k}": v.clone() for k, v in RECIPE.policies(cfg)["policy"].state_dict().items()}
    run_recipe("flow_grpo", cfg, tmp_path / "run")
    line = metrics(tmp_path / "run")[1]
    assert line["health/flow_ratio"] == pytest.approx(1, abs=1e-4) and line["health/flow_replay_gap"] < 1e-4
    after = weights(tmp_path / "run")
    assert any(not torch.equal(after[k], v) for k, v in before.items())


def test_windows_are_neighbouring_steps_within_the_sampler(sd3_folder):
    for place in ("first", "random", "sliding"):
        cfg = small(sd3_folder, window_place=place)
        for step in range(0, 200, 7):
            window = RECIPE.window_at(cfg, step, 4)
            assert len(window) == 2 and window[1] == window[0] + 1 and window[1] < 4
    with pytest.raises(ValueError, match="unknown window_place 'firts'"):
        RECIPE.window_at(small(sd3_folder, window_place="firts"), 0, 4)


def test_without_a_moving_average_the_trained_weights_are_evaluated(sd3_folder, tmp_path):
    cfg = small(sd3_folder, schedule__steps=1, ema=0.0, optim__lr=1e-2)
    result = run_recipe("flow_grpo", cfg, tmp_path / "run")
    policy = RECIPE.policies(cfg)["policy"]
    policy.load_state_dict({k.removeprefix("policy."): v for k, v in weights(tmp_path / "run").items()})
    assert mean_scores(RECIPE.evaluate(cfg, {"policy": policy})) == result["after"]


def test_a_users_reward_comes_from_a_file(tmp_path, sd3_folder):
    name = brightness(tmp_path)
    cfg = small(sd3_folder, schedule__steps=1, task__rewards=(name,))
    result = run_recipe("flow_grpo", cfg, tmp_path / "run")
    assert 0 < result["after"]["held out"] < 1
    for bad, why in ((f"{tmp_path / 'no.py'}:f", "does not exist"), (name + "er", "has no function 'brighter'")):
        with pytest.raises(ValueError, match=why):
            reward(bad)


def test_claims_can_come_out_both_ways():
    scores = {
        arm: {
            "held out": 0.3,
            "held out@0": 0.3,
            "held out@60": 0.3,
            "cost/training_seconds": 10.0,
            "cost/images": 10.0,
        }
        for arm in RECIPE.ARMS
    }
    assert not RECIPE.CLAIMS[0].margin(scores) > RECIPE.CLAIMS[0].least
    assert not RECIPE.CLAIMS[3].margin(scores) >= RECIPE.CLAIMS[3].least
    scores["grpo"] |= {"held out": 0.5, "held out@60": 0.4, "cost/training_seconds": 5.0}
    assert all(claim.margin(scores) >= claim.least for claim in RECIPE.CLAIMS)
