"""TD3: resuming, the preset of the paper, and stable-baselines3 in its place."""

from __future__ import annotations

import pytest
from off_policy_runs import assert_resumes_exactly, run_off_policy

from saccade import catalog


def test_a_resumed_run_equals_one_at_once(tmp_path):
    assert_resumes_exactly("td3", tmp_path)


def test_the_preset_follows_the_paper():
    algo = catalog.load("td3").PRESETS["half-cheetah"].algo
    assert not algo.stochastic and algo.policy_delay == 2
    assert algo.target_update_interval == 2, "target networks move with the delayed actor, as published"
    assert (algo.target_policy_noise, algo.target_noise_clip, algo.action_noise) == (0.2, 0.5, 0.1)


def test_stable_baselines3_trains_in_our_environment(tmp_path):
    pytest.importorskip("stable_baselines3")
    result = run_off_policy("td3", tmp_path / "run", implementation="sb3")
    assert {"return", "success"} <= result["after"].keys()
