"""Unrolled attempts: the numbers of the rollout, the right gradient; ReFL, DRaFT and its low-variance form; the
critic.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from saccade.algorithms.reward_gradient import RewardGradient
from saccade.algorithms.reward_model import RecognitionLoss, RewardModelConfig
from saccade.core import Problem, Rollout, seeds
from saccade.policies.flow import FlowModel, FlowPolicy, build_flow_policy
from saccade.policies.unrolling import empty_rollout, refl_timesteps
from saccade.rewards.learned.reward_model import soft_points
from saccade.rewards.registry import scorer
from saccade.training.learner import Update, Updates
from saccade.training.run import Run
from saccade.worlds import shapes
from saccade.worlds.shapes import kinds, modes
from saccade.worlds.shapes.sample_metrics import SampleMetrics
from saccade.worlds.shapes.task import DrawingTask

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
def test_unrolled_attempts_are_the_rollout_to_the_bit_on_the_reference_path(sd3_folder, stochastic):
    policy = replace(sd3(sd3_folder), one_call=False, merge=False, stochastic=stochastic)
    x0 = policy.rollout(PROBLEMS, seeds(0, 3)).decisions["x0_B"]
    for through in (1, 2, None):
        assert torch.equal(policy.unroll(PROBLEMS, seeds(0, 3), through), x0)


@pytest.mark.parametrize("changes", [{}, {"lora_rank": 2}, {"guidance": 1.0}, {"kernel": "cps"}])
def test_and_within_rounding_on_the_fast_path(sd3_folder, changes):
    policy = sd3(sd3_folder, **changes)
    rollout = policy.rollout(PROBLEMS, seeds(1, 3))
    x0 = policy.unroll(PROBLEMS, seeds(1, 3), 2)
    torch.testing.assert_close(x0, rollout.decisions["x0_B"], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(policy.decode(x0), rollout.outputs, atol=1e-4, rtol=0)
    assert policy.decode(x0).requires_grad and not rollout.outputs.requires_grad


def test_the_gradient_of_a_whole_walk_is_that_of_finite_differences(sd3_folder):
    policy = sd3(sd3_folder)
    own = seeds(2, 3)
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
    losses = [RewardGradient(policy, bright, through)(empty_rollout(PROBLEMS, seeds(0, 3))) for through in (1, 2, None)]
    for loss in losses[1:]:
        torch.testing.assert_close(loss.total, losses[0].total, atol=1e-4, rtol=0)
    grads = [gradient(loss.total, policy) for loss in losses]
    assert all((grads[k] - grads[k + 1]).abs().max() > 1e-4 for k in range(2))
    for through in (0, 5):
        with pytest.raises(ValueError, match=f"cannot go through {through} of 4 steps"):
            policy.unroll(PROBLEMS, seeds(0, 3), through)


def test_refl_judges_what_is_predicted_at_a_late_step_of_each_row(sd3_folder):
    policy = replace(sd3(sd3_folder), stochastic=())
    own = seeds(3, 3)
    step_B = refl_timesteps(own, 2, 4)
    assert set(refl_timesteps(seeds(3, 50), 2, 4).tolist()) == {2, 3}
    x = policy._noise(own, 0)
    expected = torch.zeros_like(x)
    with torch.no_grad():
        for i, (t, t_next) in enumerate(zip(policy.times[:-1], policy.times[1:])):
            v = policy.velocity(x, t.expand(3), PROBLEMS, policy.guidance)
            expected[step_B == i] = (x - t * v)[step_B == i]
            x = x + (t_next - t) * v
    torch.testing.assert_close(policy.predict_x0_at(PROBLEMS, own, step_B), expected, atol=1e-5, rtol=1e-4)
    whole = RewardGradient(policy, bright, late=2)(empty_rollout(PROBLEMS, own))
    parts = [
        RewardGradient(policy, bright, late=2)(empty_rollout(PROBLEMS, own).rows(torch.tensor(r)))
        for r in ([0, 2], [1])
    ]
    torch.testing.assert_close(
        gradient(whole.total, policy), sum(gradient(p.total, policy) for p in parts), atol=1e-4, rtol=1e-3
    )


def test_low_variance_draft_repeats_the_last_step_from_fresh_noise(sd3_folder):
    policy = sd3(sd3_folder)
    own = seeds(0, 3)
    rollout = empty_rollout(PROBLEMS, own, x0_B=policy.rollout(PROBLEMS, own).decisions["x0_B"])
    loss = RewardGradient(policy, bright, copies=3)
    made = loss(rollout)
    assert float(made.count) == 9
    single = RewardGradient(policy, bright, copies=1)(rollout)
    assert made.mean().item() == pytest.approx(single.mean().item(), rel=0.05), "copies are of the same pictures"
    assert (
        len({round(float(x), 6) for x in loss._pictured(rollout.rows(torch.zeros(3, dtype=torch.long)))[:, 0, 0, 0]})
        == 3
    )


def test_steps_up_the_gradient_raise_the_reward(sd3_folder):
    for choice in (dict(through=2), dict(late=2), dict(copies=2)):
        policy = sd3(sd3_folder)
        rollout = empty_rollout(PROBLEMS, seeds(0, 3), x0_B=policy.unroll(PROBLEMS, seeds(0, 3), 1).detach())
        learner = Updates(
            [
                Update(
                    "flow",
                    RewardGradient(policy, bright, **choice),
                    policy.trained,
                    torch.optim.AdamW(policy.trained, lr=1e-3),
                )
            ]
        )
        before = float(bright(policy.rollout(PROBLEMS, seeds(0, 3))).mean())
        for _ in range(3):
            learner.update(rollout)
        assert float(bright(policy.rollout(PROBLEMS, seeds(0, 3))).mean()) > before + 2e-3, choice


def test_choices_that_exclude_one_another_are_refused(sd3_folder):
    policy = sd3(sd3_folder)
    for choice, why in (
        (dict(late=2, copies=2), "choose one"),
        (dict(late=2, through=3), "through one step, not through 3"),
        (dict(late=9), "more than the 4 steps"),
    ):
        with pytest.raises(ValueError, match=why):
            RewardGradient(policy, bright, **choice)


# -- the critic and what is measured ---------------------------------------------------------------------------


def test_kinds_say_what_is_asked_and_what_is_there():
    meaning = {
        "tag": "color_attr",
        "include": [{"class": "ring", "count": 1, "color": "red"}, {"class": "star", "count": 1}],
    }
    want = kinds.wanted(meaning)
    assert [kinds.KINDS[k] for k in want[0].nonzero().flatten()] == [("ring", "red")]
    assert {kinds.KINDS[k][0] for k in want[1].nonzero().flatten()} == {"star"} and want[1].sum() == len(shapes.COLORS)
    for other in (
        None,
        {"tag": "text", "include": [], "text": "GO"},
        {"tag": "colors", "include": [{"class": "cat", "count": 1}]},
    ):
        assert kinds.wanted(other).isnan().all()
    scene = shapes.Scene((shapes.Object("ring", "red", 0.3, 0.5, 0.2), shapes.Object("star", "blue", 0.75, 0.5, 0.2)))
    seen = kinds.present(shapes.render([scene]))[0]
    assert {kinds.KINDS[k] for k in seen.nonzero().flatten()} == {("ring", "red"), ("star", "blue")}


def test_soft_points_are_those_of_the_formula():
    logit = torch.tensor([[9.0, -9.0, -9.0], [9.0, 9.0, -9.0], [9.0, 0.0, 9.0], [-9.0, -9.0, -9.0]])
    want = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]]).repeat(4, 1, 1)
    expected = [0.5 * 1.0, 1.0, 0.75 * 1.5 / 2.5, 0.0]
    torch.testing.assert_close(soft_points(logit, want), torch.tensor(expected), atol=2e-3, rtol=0)
    either = torch.tensor([[[1.0, 1, 0], [0, 0, 0]]])
    torch.testing.assert_close(soft_points(torch.zeros(1, 3), either), torch.tensor([0.75 * 0.75 / 1.25]))


def test_a_critic_learns_what_pictures_show_and_has_gradients_in_pixels():
    task = DrawingTask(train_size=64, tags=("colors",))
    cfg = RewardModelConfig(critic_lessons=384, critic_wrong=0.0, critic_width=8)
    lesson = cfg.lesson(task, 32, 0, lambda pictures: pictures)
    critic = cfg.new(0)
    weights = list(critic.critic.parameters())
    learner = Updates([Update("critic", RecognitionLoss(critic.critic), weights, torch.optim.AdamW(weights, lr=4e-3))])
    losses = [learner.update(lesson.rows(torch.arange(64) + 64 * (k % 6)))["loss/critic"] for k in range(60)]
    assert sum(losses[-6:]) < 0.78 * sum(losses[:6])
    shown = lesson.rows(torch.arange(4))
    shown.outputs = shown.outputs.clone().requires_grad_()
    critic(shown).sum().backward()
    assert (shown.outputs.grad.flatten(1).abs().amax(1) > 0).all()
    assert critic(replace(shown, problems=[Problem(0, "a cat")] * 4)).isnan().all()


def test_a_reward_of_noisy_latents_is_taught_and_followed_without_decoding(sd3_folder, tmp_path, monkeypatch):
    policy = build_flow_policy(FlowModel(str(sd3_folder), size=32, sampling_steps=2, text_length=2), ())
    task, cfg = (
        DrawingTask(train_size=32, tags=("colors",)),
        RewardModelConfig(critic_lessons=64, critic_steps=12, critic_batch=32, critic_width=8),
    )
    with Run.start(tmp_path / "run", {"recipe": "x"}, display=False) as run:
        reward = cfg.fitted_latents(task, policy, run, 0)
        with pytest.raises(ValueError, match="it needs critic_steps"):
            replace(cfg, critic_steps=0).fitted_latents(task, policy, run, 0)
    problems = task.training(0)[:3]
    rollout = policy.rollout(problems, seeds(0, 3))
    alone = torch.cat([reward(rollout.rows(torch.tensor([i]))) for i in range(3)])
    torch.testing.assert_close(reward(rollout), alone)  # noise is each row's own
    assert ((0 <= alone) & (alone <= 1)).all() and reward(
        replace(rollout, problems=[Problem(0, "a cat")] * 3)
    ).isnan().all()
    monkeypatch.setattr(FlowPolicy, "decode", None)
    loss = RewardGradient(policy, reward, through=1, late=2)(empty_rollout(problems, seeds(0, 3)))
    assert gradient(loss.total, policy).norm() > 0


def test_modes_count_right_answers_alone():
    ring = {"tag": "colors", "include": [{"class": "ring", "count": 1, "color": "red"}]}
    at = lambda x, shape, color: shapes.Scene((shapes.Object(shape, color, x, 0.5, 0.2),))
    pictures = shapes.render(
        [at(0.25, "ring", "red"), at(0.75, "ring", "red"), at(0.25, "ring", "blue"), at(0.5, "star", "red")]
    )
    assert [len(found) for found in modes.modes(pictures, [ring] * 4)] == [1, 1, 0, 0]
    assert (
        modes.covered(pictures, [ring] * 4, [0, 0, 0, 0]) == 2
        and modes.covered(pictures, [ring] * 4, [0, 0, 1, 1]) == 1
    )


def test_a_survey_is_the_same_each_time(sd3_folder):
    policy = build_flow_policy(FlowModel(str(sd3_folder), size=32, sampling_steps=1, text_length=2), ())
    survey = SampleMetrics(RewardModelConfig(critic_width=8).new(0), DrawingTask(), 32, prompts=4, real=32)
    one, two = survey(policy.greedy().rollout, each=2), survey(policy.greedy().rollout, each=2)
    assert one == two and set(one) == {"critic", "frechet", "modes"} and one["frechet"] > 0


def test_a_scorer_is_found_by_name_or_file(tmp_path):
    critic = RewardModelConfig(critic_width=8).new(0)
    assert scorer("critic", critic) is critic
    (tmp_path / "mine.py").write_text("def bright(rollout):\n    return rollout.outputs.flatten(1).mean(1)\n")
    assert callable(scorer(f"{tmp_path / 'mine.py'}:bright", None))
    with pytest.raises(ValueError, match="no reward model is trained"):
        scorer("critic", None)
    with pytest.raises(ValueError, match="unknown reward 'critc'; nearest: critic"):
        scorer("critc", critic)
