"""SAC: resuming, its presets, and stable-baselines3 in its place."""

from __future__ import annotations

import pytest
from off_policy_runs import assert_resumes_exactly, run_off_policy

from saccade import catalog


def test_a_resumed_run_equals_one_at_once(tmp_path):
    assert_resumes_exactly("sac", tmp_path)


def test_presets_follow_the_papers():
    presets = catalog.load("sac").PRESETS
    cheetah, redq = presets["half-cheetah"], presets["redq-half-cheetah"]
    assert (cheetah.schedule.steps, cheetah.algo.n_critics, cheetah.algo.target_entropy) == (1_000_000, 2, -1.0)
    assert (redq.algo.n_critics, redq.algo.target_critics, redq.algo.gradient_steps) == (10, 2, 20)


def test_stable_baselines3_trains_in_our_environment(tmp_path):
    pytest.importorskip("stable_baselines3")
    result = run_off_policy("sac", tmp_path / "run", implementation="sb3")
    assert {"return", "success"} <= result["after"].keys()
