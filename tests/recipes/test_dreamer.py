"""The Dreamer recipe: resuming, its samples, its real preset at a reduced size."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
from running_control import metrics, run_for

from saccade.algorithms.dreamer import Dreamer, SequenceFeed
from saccade.recipes.baselines import dreamer
from saccade.training.settings import Schedule

TINY = dreamer.PRESETS["tiny"]
SMALL = replace(
    TINY,
    schedule=Schedule(steps=6, evaluate_every=100, save_every=100),
    task=replace(TINY.task, settings=("steps=8",), test_episodes=4, test_rows=4, video_episodes=1),
    model=replace(TINY.model, depth=2, belief=6, latent=3, hidden=8),
    replay=replace(TINY.replay, n_envs=2, random_steps=12, collect_every=2, batch_size=2, sequence_length=5),
)


def test_six_updates_equal_three_and_three_bit_for_bit(tmp_path):
    at_once = run_for(dreamer, SMALL, tmp_path / "at once")
    run_for(dreamer, replace(SMALL, schedule=replace(SMALL.schedule, steps=3)), tmp_path / "resumed")
    assert run_for(dreamer, SMALL, tmp_path / "resumed")["after"] == at_once["after"]
    lines = [metrics(tmp_path / run, "loss/model") for run in ("at once", "resumed")]
    assert lines[0] == lines[1] and len(lines[0]) == 6
    assert {"health/reconstruction", "health/kl", "health/reward", "health/actor_gradient_norm"} <= set(lines[0][-1])


@pytest.mark.skipif(
    find_spec("mujoco") is None, reason="needs mujoco, which must not be imported before its OpenGL is chosen"
)
def test_the_real_preset_learns_at_a_reduced_size():
    real = dreamer.PRESETS["half-cheetah"]
    replay = replace(real.replay, random_steps=20, collect_every=2, collect_steps=1, batch_size=2, sequence_length=4)
    model = replace(real.model, depth=4, belief=8, latent=4, hidden=8)
    cfg = replace(real, model=model, replay=replace(replay, buffer_size=200), device="cpu")
    policy = dreamer.policies(cfg)["policy"]
    feed = SequenceFeed(cfg.replay, cfg.task.make(1), policy, 0)
    losses = Dreamer(policy, dreamer.terms(cfg), cfg.config, cfg.optim).update(feed(0))
    assert np.isfinite(list(losses.values())).all()
    observed = feed.buffer.sequences(2, 4, 0).decisions["observation.image_BT"]
    assert observed.float().std() > 20, "a video stands behind the cheetah"


def test_ends_of_episodes_are_predicted_if_asked_for():
    assert "termination" not in dreamer.terms(TINY)
    assert "termination" in dreamer.terms(replace(TINY, config=replace(TINY.config, predict_ends=True)))
