"""The RePo recipe: its two stages, alignment of the encoder, paired frames, its baseline arm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from running_control import metrics, run_for

from saccade import catalog
from saccade.algorithms.dreamer import SequenceFeed, build_dreamer
from saccade.algorithms.world_model import Constraint, Weighted
from saccade.envs.task import ControlTask
from saccade.random import generator
from saccade.recipes.visual_control.repo import recipe
from saccade.recipes.visual_control.repo.adaptation import (
    Alignment,
    AlignmentLearner,
    density_loss,
    divergence_bound,
    target_divergence,
)
from saccade.recipes.visual_control.repo.domains import DomainFeed, paired_frames
from saccade.training.settings import Schedule

TINY = recipe.PRESETS["tiny"]
MODEL = replace(TINY.model, depth=2, belief=6, latent=3, hidden=8)
TASK = ControlTask("reach", ("distract=0.5", "steps=8"), test_episodes=4, test_rows=4, video_episodes=1)
NIGHT = replace(TASK, settings=(*TASK.settings, 'palette="night"'))
REPLAY = replace(TINY.replay, n_envs=2, random_steps=12, collect_every=2, batch_size=2, sequence_length=5)
SMALL = replace(
    TINY, schedule=Schedule(steps=2, evaluate_every=100, save_every=100), task=TASK, model=MODEL, replay=REPLAY
)


def test_alignment_follows_the_first_stage_and_resumes_bit_for_bit(tmp_path):
    alignment = replace(TINY.alignment, steps=4, paired_frames=10)
    cfg = replace(SMALL, adapt="align", alignment=alignment)
    at_once = run_for(recipe, cfg, tmp_path / "at once")
    run_for(recipe, replace(cfg, alignment=replace(alignment, steps=2)), tmp_path / "resumed")
    assert run_for(recipe, cfg, tmp_path / "resumed")["after"] == at_once["after"]
    lines = [metrics(tmp_path / run, "loss/align") for run in ("at once", "resumed")]
    assert lines[0] == lines[1] and len(lines[0]) == 4
    first_stage = metrics(tmp_path / "at once" / "learning", "loss/model")[-1]
    assert {"health/kl_multiplier", "health/kl", "health/reward"} <= set(first_stage), "beta is logged"
    assert list((tmp_path / "at once" / "samples").rglob("*reconstructions*"))


def alignment_learner(**changes) -> AlignmentLearner:
    return AlignmentLearner(build_dreamer(TASK, MODEL, 1.0, seed=0), replace(Alignment(), **changes))


def test_alignment_trains_the_encoder_alone_and_brings_paired_beliefs_together():
    optim = replace(Alignment().optim, lr=3e-3)
    learner = alignment_learner(weight=0.0, dynamics_weight=0.0, optim=optim)
    policy = learner.policy
    before = {k: v.clone() for k, v in policy.model.state_dict().items()}
    source = SequenceFeed(REPLAY, TASK.make(2), policy, 0)
    source(0)
    target = SequenceFeed(REPLAY, NIGHT.make(2), policy, 1)
    feed = DomainFeed(REPLAY, source.buffer, target, paired_frames(TASK, NIGHT, 20, 0))
    losses = [learner.update(feed(step))["loss/pairs"] for step in range(60)]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])
    changed = {k for k, v in policy.model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed and all(name.startswith("encoder.") for name in changed)


@pytest.mark.parametrize("match", ["support", "distribution"])
def test_matching_raises_the_discriminators_scores_of_target_embeddings(match):
    learner = alignment_learner(match=match)
    x = torch.zeros(4, learner.policy.model.encoder.width, requires_grad=True)
    before, _ = learner.discriminator.score(x.detach(), generator(0, "test"))
    learner._matching_loss(x, generator(0, "test")).backward()
    after, _ = learner.discriminator.score((x - 0.1 * x.grad).detach(), generator(0, "test"))
    assert (after > before).all()


def test_the_divergence_bound_is_tight_for_the_best_critic():
    # For densities s, t on two points, sup_f E_s[tau f] - E_t[f + f^2/4] is E_t[(tau s/t - 1)^2], reached at
    # f = 2 (tau s/t - 1).
    s, t, tau = torch.tensor([0.5, 0.5]), torch.tensor([0.8, 0.2]), torch.tensor([1.0, 1.0])
    best = 2 * (tau * s / t - 1)
    value = lambda f: float((s * tau * f).sum() - (t * (f + f**2 / 4)).sum())
    assert value(best) == pytest.approx(float((t * (tau * s / t - 1) ** 2).sum()))
    assert all(value(best + d) < value(best) for d in torch.tensor([[0.1, 0.0], [0.0, -0.1]]))
    f = torch.tensor([0.5, -1.0])
    assert float(divergence_bound(tau, f, f)) == pytest.approx(float(f.mean()) - float(target_divergence(f)))
    ratio_N, multiplier = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor(0.3, requires_grad=True)
    density_loss(ratio_N, f, multiplier).backward()
    torch.testing.assert_close(ratio_N.grad, (f + 0.3) / 2)
    assert float(multiplier.grad) == pytest.approx(-0.5), "descent raises u while the mean of tau is above 1"


def test_frames_of_worlds_without_palettes_are_refused():
    pixels = ControlTask("push", ('observe="image"', "pixels=32"))
    with pytest.raises(ValueError, match="paired frames need one world"):
        paired_frames(pixels, NIGHT, 10, 0)
    with pytest.raises(ValueError, match="paired frames need a world with palettes"):
        paired_frames(ControlTask("CartPole-v1"), ControlTask("CartPole-v1"), 10, 0)


def test_ablations_change_the_terms():
    terms = recipe.terms(TINY)
    assert isinstance(terms["kl"], Constraint) and terms["kl"].limit == 8.0
    ablated = recipe.terms(replace(TINY, learn_beta=False, reconstruction_weight=1.0))
    assert isinstance(ablated["kl"], Weighted) and ablated["kl"].weight == 0.2
    assert terms["reconstruction"].weight == 0.01 and ablated["reconstruction"].weight == 1.0


def test_the_baseline_arm_is_dreamer_with_the_shared_settings():
    baseline = catalog.arms("repo")["dreamer"].settings
    assert baseline.task == TINY.task and baseline.replay == TINY.replay and baseline.reward_weight == 100.0
    assert baseline.schedule.steps == TINY.schedule.steps
