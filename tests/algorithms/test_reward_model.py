"""Reward models: what they learn, the formula of the reward, gradients in pixels and in noisy latents, names."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from saccade.algorithms.reward_gradient import RewardGradient
from saccade.algorithms.reward_model import RecognitionLoss, RewardModelConfig
from saccade.core import Problem
from saccade.policies.flow import FlowModel, FlowPolicy, build_flow_policy
from saccade.policies.unrolling import empty_rollout
from saccade.random import seeds
from saccade.rewards.learned.reward_model import soft_points
from saccade.rewards.registry import learned_reward
from saccade.training.learner import Updates
from saccade.training.run import Run
from saccade.training.settings import AdamW
from saccade.worlds.shapes.task import DrawingTask


def test_soft_points_are_those_of_the_formula():
    logit = torch.tensor([[9.0, -9.0, -9.0], [9.0, 9.0, -9.0], [9.0, 0.0, 9.0], [-9.0, -9.0, -9.0]])
    requested = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]]).repeat(4, 1, 1)
    expected = [0.5 * 1.0, 1.0, 0.75 * 1.5 / 2.5, 0.0]
    torch.testing.assert_close(soft_points(logit, requested), torch.tensor(expected), atol=2e-3, rtol=0)
    either = torch.tensor([[[1.0, 1, 0], [0, 0, 0]]])
    torch.testing.assert_close(soft_points(torch.zeros(1, 3), either), torch.tensor([0.75 * 0.75 / 1.25]))


def test_a_reward_model_learns_what_pictures_show_and_has_gradients_in_pixels():
    task, cfg = DrawingTask(train_size=64, tags=("colors",)), RewardModelConfig(pictures=384, label_noise=0.0, width=8)
    dataset = cfg.dataset(task, 32, 0, lambda pictures: pictures)
    model = cfg.untrained(0)
    optim = AdamW(lr=4e-3, weight_decay=1e-2)
    learner = Updates([optim.update("reward_model", RecognitionLoss(model.network), [*model.network.parameters()])])
    batch = lambda step: dataset.rows(torch.arange(64) + 64 * (step % 6))
    losses = [learner.update(batch(step))["loss/reward_model"] for step in range(60)]
    assert sum(losses[-6:]) < 0.78 * sum(losses[:6])
    few = dataset.rows(torch.arange(4))
    few.outputs = few.outputs.clone().requires_grad_()
    model(few).sum().backward()
    assert (few.outputs.grad.flatten(1).abs().amax(1) > 0).all()
    assert model(replace(few, problems=[Problem(0, "a cat")] * 4)).isnan().all()


def test_label_noise_gives_pictures_the_labels_of_others():
    task = DrawingTask(train_size=64, tags=("colors",))
    clean, noisy = (
        RewardModelConfig(pictures=64, label_noise=share).dataset(task, 32, 0, lambda pictures: pictures)
        for share in (0.0, 1.0)
    )
    assert torch.equal(clean.outputs, noisy.outputs)
    assert not torch.equal(clean.extras["present_B"], noisy.extras["present_B"])
    assert torch.equal(clean.extras["present_B"].sum(0), noisy.extras["present_B"].sum(0))


def test_a_reward_of_noisy_latents_is_trained_and_followed_without_decoding(sd3_folder, tmp_path, monkeypatch):
    policy = build_flow_policy(FlowModel(str(sd3_folder), size=32, sampling_steps=2, text_length=2), ())
    task = DrawingTask(train_size=32, tags=("colors",))
    cfg = RewardModelConfig(pictures=64, steps=12, batch_size=32, width=8)
    with Run.start(tmp_path / "run", {"recipe": "x"}, display=False) as run:
        reward = cfg.fit_latents(task, policy, run, 0)
        with pytest.raises(ValueError, match="it needs its prompts and reward_model.steps"):
            replace(cfg, steps=0).fit_latents(task, policy, run, 0)
    problems = task.training(0)[:3]
    rollout = policy.rollout(problems, seeds(0, 3, "test"))
    alone = torch.cat([reward(rollout.rows(torch.tensor([i]))) for i in range(3)])
    torch.testing.assert_close(reward(rollout), alone)  # the noise of a row follows from its seed
    assert ((0 <= alone) & (alone <= 1)).all()
    assert reward(replace(rollout, problems=[Problem(0, "a cat")] * 3)).isnan().all()
    monkeypatch.setattr(FlowPolicy, "decode", None)
    loss = RewardGradient(refl_window=2).loss(policy, reward)(empty_rollout(problems, seeds(0, 3, "test")))
    gradients = torch.autograd.grad(loss.total, policy.trained, allow_unused=True)
    assert any(g is not None and g.norm() > 0 for g in gradients)


def test_a_learned_reward_is_found_by_name_or_file(tmp_path):
    model = RewardModelConfig(width=8).untrained(0)
    assert learned_reward("reward_model", model) is model
    (tmp_path / "mine.py").write_text("def bright(rollout):\n    return rollout.outputs.flatten(1).mean(1)\n")
    assert callable(learned_reward(f"{tmp_path / 'mine.py'}:bright", None))
    with pytest.raises(ValueError, match="no reward model is trained"):
        learned_reward("reward_model", None)
    with pytest.raises(ValueError, match="unknown reward 'reward_modle'; nearest: reward_model"):
        learned_reward("reward_modle", model)
