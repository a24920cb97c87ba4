"""The behaviour-cloning recipe: the loss falls, runs resume, a fixed standard deviation is the squared error."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from running_control import assert_same, metrics, run_for, saved

from saccade.core import Problem, Rollout
from saccade.envs.task import ControlTask
from saccade.recipes.baselines import bc
from saccade.training.settings import Schedule

SMALL = replace(
    bc.PRESETS["tiny"],
    schedule=Schedule(steps=100, evaluate_every=100, save_every=50, log_every=50),
    task=ControlTask("push", test_episodes=4, test_rows=4, video_episodes=0),
    demonstrations=bc.Demonstrations(episodes=4),
)


@pytest.mark.parametrize("std", ["learned", "fixed"])
def test_cloning_raises_the_likelihood_of_actions_and_resumes_bit_for_bit(tmp_path, std):
    cfg = replace(SMALL, std=std)
    run_for(bc, cfg, tmp_path / "at once")
    losses = [line["loss/bc"] for line in metrics(tmp_path / "at once", "loss/bc")]
    assert losses[-1] < losses[0] - 0.1
    run_for(bc, replace(cfg, schedule=replace(cfg.schedule, steps=50)), tmp_path / "resumed")
    run_for(bc, cfg, tmp_path / "resumed")
    assert_same(saved(tmp_path / "at once")["policy"], saved(tmp_path / "resumed")["policy"])


def test_a_fixed_standard_deviation_is_the_squared_error():
    policy = bc.policies(SMALL)["policy"]
    state, action = torch.randn(5, 1, policy.trunk.size), torch.randn(5, 1, 2)
    decisions = {"observation.state_BT": state, "action_BT": action}
    rows = Rollout([Problem(0, None)] * 5, decisions, None, *torch.ones(2, 5, 1), torch.arange(5))
    rows.extras["length_B"] = torch.ones(5)
    weights = bc.cloned_weights(policy, "fixed")
    gradient = torch.autograd.grad(bc.SupervisedLoss(policy)(rows).mean(), weights)
    error = 0.5 * ((policy.actor(policy.trunk({"state": state[:, 0]})) - action[:, 0]) ** 2).sum(-1).mean()
    torch.testing.assert_close(gradient, torch.autograd.grad(error, weights))


def test_permuted_actions_keep_their_distribution():
    action = torch.arange(6.0).view(6, 1, 1)
    data = Rollout([Problem(0, None)] * 6, {"action_BT": action.clone()}, None, *torch.ones(2, 6, 1), torch.arange(6))
    bc.shuffle_actions(data, seed=0)
    permuted = data.decisions["action_BT"]
    assert not torch.equal(permuted, action) and torch.equal(permuted.sort(0).values, action)
