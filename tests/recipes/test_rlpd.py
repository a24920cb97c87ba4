"""RLPD: resuming, batches half of demonstrations, and the control experiment without them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from off_policy_runs import assert_resumes_exactly, run_off_policy

from saccade import catalog
from saccade.algorithms.lagrange import LagrangeMultiplier
from saccade.envs.demonstrations import Demonstrations
from saccade.training.run import Run

FEW = Demonstrations(episodes=2)


def test_a_resumed_run_equals_one_at_once(tmp_path):
    assert_resumes_exactly("rlpd", tmp_path, demonstrations=FEW)


def test_the_temperature_has_the_gradient_of_the_release():
    """That of alpha (H - target): the excess times alpha, where SAC's implementations leave alpha out."""
    for preset in catalog.load("rlpd").PRESETS.values():
        assert preset.algo.temperature_gradient == "value"
    temperature = LagrangeMultiplier(0.02, "value")
    temperature.loss(torch.tensor(-3.0)).backward()
    assert temperature.log.grad.item() == pytest.approx(3.0 * 0.02)


def test_half_of_a_batch_are_demonstrations(tmp_path):
    recipe = catalog.load("rlpd")
    cfg = replace(recipe.PRESETS["tiny"], demonstrations=FEW)
    environment = cfg.task.make(2)
    agent = cfg.algo.build(environment, 0)
    with Run.start(tmp_path / "run", {"recipe": "rlpd"}, display=False) as run:
        demonstrations = recipe.load_demonstrations(cfg, agent, run)
    assert len(demonstrations) > 0 and abs(demonstrations.columns["action"]).max() <= 1
    batch = cfg.algo.feed(environment, agent, 0, demonstrations=demonstrations)(0)
    demonstrated = {row.tobytes() for row in demonstrations.columns["observation.state"]}
    states = batch.decisions["observation.state_B"].numpy()
    assert sum(row.tobytes() in demonstrated for row in states) >= cfg.algo.batch_size // 2


def test_without_a_fraction_no_demonstrations_are_recorded(tmp_path):
    assert catalog.load("rlpd").ARMS["no demonstrations"].algo.offline_fraction == 0
    run_off_policy("rlpd", tmp_path / "run", algo={"offline_fraction": 0.0}, demonstrations=FEW)
    assert not (tmp_path / "run" / "demonstrations").exists()
