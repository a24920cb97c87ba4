"""DiffusionNFT: its loss against the formula, the old policy's decay, learning of a simple reward."""

from __future__ import annotations

import pytest
import torch
from running import brightness, metrics, run_recipe, small_flow_settings

from saccade import catalog
from saccade.algorithms.forward_process import draw_noise
from saccade.algorithms.nft import NFT, nft, optimality
from saccade.core import Problem
from saccade.math.flow import add_noise
from saccade.models.snapshot import Snapshot
from saccade.policies.unrolling import empty_rollout
from saccade.random import seeds

RECIPE = catalog.load("diffusion_nft")


def small(folder, **changes):
    return small_flow_settings("diffusion_nft", folder, **changes)


@pytest.fixture
def policy(sd3_folder):
    return RECIPE.policies(small(sd3_folder))["policy"]


def moved(policy) -> None:
    with torch.no_grad():
        for p in policy.trained:
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))


def samples(policy):
    problems = [Problem(i, f"{i} red rings") for i in range(3)]
    rollout = empty_rollout(
        problems, seeds(0, 3, "test"), x0_B=policy.rollout(problems, seeds(0, 3, "test")).decisions["x0_B"]
    )
    rollout.advantage_BT = torch.tensor([[2.0], [-1.0], [0.0]])
    return rollout


def test_the_loss_is_a_mean_of_the_formula_over_noise_levels(policy):
    old, reference = Snapshot(policy.trained), Snapshot(policy.trained)
    moved(policy)
    settings, rollout = NFT(beta=0.4, weight=3.0, reference_weight=0.5, noise_levels=2), samples(policy)
    loss = settings.loss(policy, old, reference)(rollout)
    rows = rollout.rows(torch.tensor([0, 0, 1, 1, 2, 2]))
    t_B, eps = draw_noise(policy, rows, 2)
    x0 = rows.decisions["x0_B"]
    x_t = add_noise(x0, eps, t_B)
    with torch.no_grad():
        v = policy.velocity(x_t, t_B, rows.problems)
        with old:
            v_old = policy.velocity(x_t, t_B, rows.problems)
    r_B = optimality(rows.advantage_BT[:, 0], 5.0)
    expected = 3 * nft(v, v_old, x_t, x0, t_B, r_B, 0.4) + 0.5 * ((v - v_old) ** 2).flatten(1).mean(1)
    torch.testing.assert_close(loss.mean().detach(), expected.mean(), atol=1e-5, rtol=1e-5)
    assert all(t_B[i] != t_B[i + 1] for i in (0, 2, 4)), "copies of a sample have different times"


def test_micro_batches_have_the_full_gradient(policy):
    loss = NFT().loss(policy, Snapshot(policy.trained), Snapshot(policy.trained))
    moved(policy)
    rollout = samples(policy)

    def gradient(*parts):
        for p in policy.trained:
            p.grad = None
        for part in parts:
            loss(part).total.backward()
        return torch.cat([p.grad.flatten() for p in policy.trained if p.grad is not None])

    cut = gradient(rollout.rows(torch.tensor([0, 2])), rollout.rows(torch.tensor([1])))
    full = gradient(rollout)
    torch.testing.assert_close(cut, full, atol=1e-4 * float(full.abs().max()), rtol=1e-3)


def test_the_old_policy_follows_ever_more_slowly():
    settings = NFT(decay_after=10, decay_slope=0.1, decay_max=0.5)
    assert [settings.old_decay(k) for k in (0, 10, 12, 100)] == pytest.approx([0, 0, 0.2, 0.5])
    assert optimality(torch.tensor([-9.0, 0.0, 2.5, 9.0]), 5.0).tolist() == [0, 0.5, 0.75, 1]


def test_more_noise_levels_than_steps_are_refused(policy):
    snapshot = Snapshot(policy.trained)
    with pytest.raises(ValueError, match="noise_levels 5 is not between 1 and the 4 sampling steps"):
        NFT(noise_levels=5).loss(policy, snapshot, snapshot)


def test_a_reward_on_the_pixels_is_learned(sd3_folder, tmp_path):
    cfg = small(
        sd3_folder, schedule__steps=12, schedule__evaluate_every=12, schedule__save_every=12,
        task__rewards=(brightness(tmp_path),), optim__lr=2e-3, nft__reference_weight=1e-3,
    )  # fmt: skip
    result = run_recipe("diffusion_nft", cfg, tmp_path / "run")
    assert result["after"]["held out"] > result["before"]["held out"] + 0.005
    assert {"loss/flow", "health/flow_kl", "reward/total"} <= metrics(tmp_path / "run")[1].keys()
