"""Reward gradients: unrolled samples are those of the rollout, with the right gradient; ReFL, DRaFT, DRaFT-LV."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from saccade.algorithms.reward_gradient import RewardGradient
from saccade.core import Problem, Rollout
from saccade.policies.flow import FlowModel, FlowPolicy, build_flow_policy
from saccade.policies.unrolling import empty_rollout, refl_timesteps
from saccade.random import seeds
from saccade.training.learner import Updates
from saccade.training.settings import AdamW

PROBLEMS = [Problem(i, p) for i, p in enumerate(["a red ring", "two blue squares", "a red ring"])]


def sd3(folder, **changes) -> FlowPolicy:
    model = dict(name=str(folder), size=16, sampling_steps=4, guidance=3.0, text_length=2)
    policy = build_flow_policy(FlowModel(**model | changes), stochastic=(0, 1, 2))
    with torch.no_grad():  # LoRA must not be the identity here
        for p in policy.trained:
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return policy


def bright(rollout: Rollout) -> Tensor:
    return rollout.outputs.flatten(1).mean(1)


def gradient(loss: Tensor, policy: FlowPolicy) -> Tensor:
    grads = torch.autograd.grad(loss, policy.trained, allow_unused=True)
    return torch.cat(
        [torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in zip(policy.trained, grads)]
    )


@pytest.mark.parametrize("stochastic", [(0, 1, 2), ()])
def test_unrolled_samples_are_the_rollout_to_the_bit_on_the_reference_path(sd3_folder, stochastic):
    policy = replace(sd3(sd3_folder), one_call=False, merge=False, stochastic=stochastic)
    x0 = policy.rollout(PROBLEMS, seeds(0, 3, "test")).decisions["x0_B"]
    for through in (1, 2, None):
        assert torch.equal(policy.unroll(PROBLEMS, seeds(0, 3, "test"), through), x0)


@pytest.mark.parametrize("changes", [{}, {"lora_rank": 2}, {"guidance": 1.0}, {"kernel": "cps"}])
def test_and_within_rounding_on_the_fast_path(sd3_folder, changes):
    policy = sd3(sd3_folder, **changes)
    rollout = policy.rollout(PROBLEMS, seeds(1, 3, "test"))
    x0 = policy.unroll(PROBLEMS, seeds(1, 3, "test"), 2)
    torch.testing.assert_close(x0, rollout.decisions["x0_B"], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(policy.decode(x0), rollout.outputs, atol=1e-4, rtol=0)
    assert policy.decode(x0).requires_grad and not rollout.outputs.requires_grad


def test_the_gradient_of_a_whole_walk_is_that_of_finite_differences(sd3_folder):
    policy = sd3(sd3_folder)
    own = seeds(2, 3, "test")
    judge = lambda: bright(
        replace(empty_rollout(PROBLEMS, own), outputs=policy.decode(policy.unroll(PROBLEMS, own)))
    ).sum()
    weight = max(policy.trained, key=lambda p: p.numel())
    slope = torch.autograd.grad(judge(), weight)[0]
    direction = slope / slope.norm()
    with torch.no_grad():
        ends = []
        for sign in (1, -1):
            weight.add_(sign * 1e-2 * direction)
            ends.append(float(judge()))
            weight.sub_(sign * 1e-2 * direction)
    assert (ends[0] - ends[1]) / 2e-2 == pytest.approx(float(slope.norm()), rel=0.05)


def test_fewer_steps_in_the_graph_are_another_gradient_of_the_same_reward(sd3_folder):
    policy = sd3(sd3_folder)
    rollout = empty_rollout(PROBLEMS, seeds(0, 3, "test"))
    losses = [RewardGradient(grad_steps=steps).loss(policy, bright)(rollout) for steps in (1, 2, 0)]
    for loss in losses[1:]:
        torch.testing.assert_close(loss.total, losses[0].total, atol=1e-4, rtol=0)
    grads = [gradient(loss.total, policy) for loss in losses]
    assert all((grads[k] - grads[k + 1]).abs().max() > 1e-4 for k in range(2))
    for through in (0, 5):
        with pytest.raises(ValueError, match=f"cannot go through {through} of 4 steps"):
            policy.unroll(PROBLEMS, seeds(0, 3, "test"), through)


def test_refl_rewards_the_prediction_at_a_random_one_of_the_last_steps_of_each_row(sd3_folder):
    policy = replace(sd3(sd3_folder), stochastic=())
    own = seeds(3, 3, "test")
    step_B = refl_timesteps(own, 2, 4)
    assert set(refl_timesteps(seeds(3, 50, "test"), 2, 4).tolist()) == {2, 3}
    x = policy.latent_noise(own, "start")
    expected = torch.zeros_like(x)
    with torch.no_grad():
        for i, (t, t_next) in enumerate(zip(policy.times[:-1], policy.times[1:])):
            v = policy.velocity(x, t.expand(3), PROBLEMS, policy.guidance)
            expected[step_B == i] = (x - t * v)[step_B == i]
            x = x + (t_next - t) * v
    torch.testing.assert_close(policy.predict_x0_at(PROBLEMS, own, step_B), expected, atol=1e-5, rtol=1e-4)
    loss, rollout = RewardGradient(refl_window=2).loss(policy, bright), empty_rollout(PROBLEMS, own)
    whole, parts = loss(rollout), [loss(rollout.rows(torch.tensor(rows))) for rows in ([0, 2], [1])]
    torch.testing.assert_close(
        gradient(whole.total, policy), sum(gradient(p.total, policy) for p in parts), atol=1e-4, rtol=1e-3
    )


def test_low_variance_draft_repeats_the_last_step_with_new_noise(sd3_folder):
    policy = sd3(sd3_folder)
    own = seeds(0, 3, "test")
    rollout = empty_rollout(PROBLEMS, own, x0_B=policy.rollout(PROBLEMS, own).decisions["x0_B"])
    loss = RewardGradient(copies=3).loss(policy, bright)
    found = loss(rollout)
    assert float(found.count) == 9
    single = RewardGradient(copies=1).loss(policy, bright)(rollout)
    assert found.mean().item() == pytest.approx(single.mean().item(), rel=0.05), "copies are of the same pictures"
    copies = loss.latents(rollout.rows(torch.zeros(3, dtype=torch.long)))
    assert len({round(x, 6) for x in copies[:, 0, 0, 0].tolist()}) == 3
    collected = RewardGradient(copies=2).collect(policy, group_size=2)(PROBLEMS[:1], own[:1], 0)
    assert collected.decisions["x0_B"].shape[0] == 2 and not collected.decisions["x0_B"].requires_grad


def test_steps_up_the_gradient_raise_the_reward(sd3_folder):
    for choice in (dict(grad_steps=2), dict(refl_window=2), dict(copies=2)):
        policy = sd3(sd3_folder)
        rollout = empty_rollout(
            PROBLEMS, seeds(0, 3, "test"), x0_B=policy.unroll(PROBLEMS, seeds(0, 3, "test"), 1).detach()
        )
        loss = RewardGradient(**choice).loss(policy, bright)
        learner = Updates([AdamW(lr=1e-3, weight_decay=1e-2).update("flow", loss, policy.trained)])
        before = float(bright(policy.rollout(PROBLEMS, seeds(0, 3, "test"))).mean())
        for _ in range(3):
            learner.update(rollout)
        assert float(bright(policy.rollout(PROBLEMS, seeds(0, 3, "test"))).mean()) > before + 2e-3, choice


def test_choices_that_exclude_one_another_are_refused(sd3_folder):
    policy = sd3(sd3_folder)
    for choice, why in (
        (dict(refl_window=2, copies=2), "choose one"),
        (dict(refl_window=2, grad_steps=3), "through one step, not 3"),
        (dict(refl_window=9), "more than the 4 steps"),
    ):
        with pytest.raises(ValueError, match=why):
            RewardGradient(**choice).loss(policy, bright)
