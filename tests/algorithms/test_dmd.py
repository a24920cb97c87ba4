"""Score distillation: formulas in closed form, gradients of the losses, generators of one step and of a few."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from saccade.algorithms import dmd as d
from saccade.algorithms.dmd import Distillation, ScoreMatching, sample_generator, sample_latents, time_and_noise
from saccade.core import Problem
from saccade.math.flow import add_noise, cps, flow_kernel, to_data
from saccade.policies.flow import FlowModel, FlowPolicy, build_flow_policy, build_frozen_policy
from saccade.policies.unrolling import empty_rollout
from saccade.random import seeds
from saccade.training.learner import Update, Updates

PROMPTS = ["a red ring", "two blue squares", "a red ring"]
PROBLEMS = [Problem(i, p) for i, p in enumerate(PROMPTS)]
MEAN, LOG_STD, A, B, KAPPA = 0.9, math.log(0.7), 0.8, 0.6, 0.3


def gaussian_gradient(
    divergence: str, through: bool, mean_: float = MEAN, log_std_: float = LOG_STD, nodes: int = 80
) -> list[float]:
    """Gradient of the divergence of N(mean, std^2) from N(0, 1) by mean and log std, with both scores known exactly."""
    at, weights = np.polynomial.hermite_e.hermegauss(nodes)
    z, eps = (torch.tensor(grid).flatten() for grid in np.meshgrid(at, at))
    weight = torch.tensor(np.outer(weights, weights) / weights.sum() ** 2).flatten()
    mean, log_std = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (mean_, log_std_))
    a, b = torch.tensor(A).double(), torch.tensor(B).double()
    x0 = mean + log_std.exp() * z
    x_t = a * x0 + b * eps
    x_t = x_t if through else x_t.detach()
    scores = -(x_t - a * mean_) / (a**2 * math.exp(2 * log_std_) + b**2), -x_t
    fake, reference = (((x_t + b**2 * score) / a)[:, None] for score in scores)
    # A difference of clean samples is b^2 / a times that of scores, and so is the rounding of the norm.
    loss_N = d.score_divergence(fake, reference, x0[:, None], divergence, KAPPA * float(b**2 / a))
    return [float(g) for g in torch.autograd.grad((weight * loss_N).sum(), (mean, log_std))]


def scaled(gradient: list[float], by: float) -> list[float]:
    return [by * g for g in gradient]


def test_gradients_of_a_gaussian_are_those_of_the_divergence_itself():
    """The golden values of Diff-Instruct* in one dimension, found by differentiating the divergence directly."""
    score = A / B**2
    assert scaled(gaussian_gradient("pseudo_huber", True), score) == pytest.approx([0.974, -0.240], abs=1e-3)
    assert scaled(gaussian_gradient("pseudo_huber", False), score) == pytest.approx([1.823, -0.225], abs=1e-3)
    # Half the squared norm: E y^2 / 2 with y = (1 - 1 / s) x + a m / s, and the law of x_t fixed.
    assert scaled(gaussian_gradient("squared", True), score**2) == pytest.approx([0.855, -0.451], abs=1e-3)
    # The KL of N(a m, s) to N(0, 1), s = a^2 std^2 + b^2, has the gradient (a^2 m, a^2 std^2 (1 - 1 / s)).
    spread = A**2 * math.exp(2 * LOG_STD)
    kl = [A**2 * MEAN, spread * (1 - 1 / (spread + B**2))]
    assert scaled(gaussian_gradient("integral_kl", False), score * A) == pytest.approx(kl, abs=1e-6)


@pytest.mark.parametrize(("divergence", "through"), [("pseudo_huber", True), ("squared", True), ("integral_kl", False)])
def test_a_generator_moves_to_the_reference(divergence, through):
    """Gradient descent takes N(0.9, 0.7^2) to N(0, 1) where the generator's score is known exactly."""
    mean, log_std = MEAN, LOG_STD
    for _ in range(400):
        by_mean, by_spread = gaussian_gradient(divergence, through, mean, log_std, nodes=12)
        mean, log_std = mean - 0.05 * by_mean, log_std - 0.05 * by_spread
    assert abs(mean) < 0.1 and abs(log_std) < 0.1


def test_the_gradient_of_the_pseudo_huber_norm_is_its_derivative():
    y = torch.randn(5, 3, 4, dtype=torch.float64, requires_grad=True)
    norm = ((y * y).flatten(1).mean(1) + KAPPA**2).sqrt().sum() * 12  # products are means over 12 coordinates
    torch.testing.assert_close(torch.autograd.grad(norm, y)[0], d.norm_gradient(y, "pseudo_huber", KAPPA))
    assert d.norm_gradient(y, "squared", KAPPA) is y


# -- the objective on real networks ---------------------------------------------------------------------------


def trio(folder, steps: int = 1, guidance: float = 3.0, **changes) -> tuple[FlowPolicy, FlowPolicy, FlowPolicy]:
    """Generator, score network and diffusion, with different weights."""
    model = FlowModel(str(folder), size=16, sampling_steps=steps, guidance=1.0, text_length=2, **changes)
    one = build_flow_policy(model, range(steps - 1))
    plain = replace(model, sampling_steps=4, kernel="flow_sde")
    two = build_flow_policy(plain, (), share_with=one)
    three = build_frozen_policy(replace(plain, guidance=guidance), share_with=one)
    for k, part in enumerate((one, two)):
        with torch.no_grad():
            for p in part.trained:
                p.add_(0.03 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel() + k)))
    return one, two, three


def asked() -> tuple[list[Problem], Tensor]:
    return PROBLEMS, seeds(4, 3, "test")


def gradient_of(loss, policy: FlowPolicy) -> Tensor:
    grads = torch.autograd.grad(loss, policy.trained, allow_unused=True)
    return torch.cat(
        [torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in zip(policy.trained, grads)]
    )


def test_networks_beside_one_another_share_all_but_themselves(sd3_folder, flux_folder):
    one, two, three = trio(sd3_folder)
    assert (
        one.backbone.pipe.vae is two.backbone.pipe.vae is three.backbone.pipe.vae
        and one.prompt_cache is three.prompt_cache
    )
    assert len({id(part.backbone.transformer) for part in (one, two, three)}) == 3
    assert not any(p.requires_grad for p in three.backbone.transformer.parameters()) and not three.trained
    with pytest.raises(ValueError, match="a FluxPipeline cannot share the encoders of a StableDiffusion3Pipeline"):
        build_flow_policy(FlowModel(str(flux_folder), size=16), (), share_with=one)


STAR = Distillation(divergence="pseudo_huber", grad_through_scores=True)


@pytest.mark.parametrize("mode", ["in", "none"])
def test_the_loss_is_the_formula_and_passes_through_both_networks(sd3_folder, mode):
    one, two, three = trio(sd3_folder)
    loss = replace(STAR, guidance_mode=mode).loss(one, two, three)
    problems, own = asked()
    x0 = sample_latents(one, problems, own)
    t_B, eps = time_and_noise(own, x0, "divergence", 0.02, 0.98)
    x_t = add_noise(x0, eps, t_B)
    clean = lambda who, scale: to_data(x_t, who.velocity(x_t, t_B, problems, scale), t_B)
    fake, reference = clean(two, 1.0), clean(three, 3.0 if mode == "in" else 1.0)
    y = fake - reference
    by_hand = -(y / ((y**2).mean((1, 2, 3), True) + 0.03**2).sqrt() * (fake - x0)).mean((1, 2, 3)).sum()
    made = loss(empty_rollout(problems, own))
    torch.testing.assert_close(made.total, by_hand)
    whole = gradient_of(made.total, one)
    detached = replace(loss.cfg, grad_through_scores=False).loss(one, two, three)
    cut = gradient_of(detached(empty_rollout(problems, own)).total, one)
    torch.testing.assert_close(whole, gradient_of(by_hand, one), atol=1e-5, rtol=1e-4)
    assert (whole - cut).abs().max() > 0.05 * whole.abs().max(), "the detached loss is another one"


def test_the_integral_kl_pushes_along_the_difference_of_clean_samples(sd3_folder):
    one, two, three = trio(sd3_folder)
    loss = Distillation(normalize=True).loss(one, two, three)
    problems, own = asked()
    x0 = sample_latents(one, problems, own)
    with torch.no_grad():
        t_B, eps = time_and_noise(own, x0, "divergence", 0.02, 0.98)
        x_t = add_noise(x0, eps, t_B)
        fake = to_data(x_t, two.velocity(x_t, t_B, problems), t_B)
        reference = to_data(x_t, three.velocity(x_t, t_B, problems, 3.0), t_B)
        pull = (fake - reference) / (x0 - reference).abs().mean((1, 2, 3), True)
    by_hand = (pull * x0).mean((1, 2, 3)).sum()
    made = gradient_of(loss(empty_rollout(problems, own)).total, one)
    torch.testing.assert_close(made, gradient_of(by_hand, one), atol=1e-6, rtol=1e-4)


def test_guidance_out_adds_a_term_of_its_own(sd3_folder):
    one, two, three = trio(sd3_folder, guidance=2.0)
    problems, own = asked()
    plain = replace(STAR, guidance_mode="none").loss(one, two, three)
    x0 = sample_latents(one, problems, own)
    with torch.no_grad():
        t_B, eps = time_and_noise(own, x0, "divergence", 0.02, 0.98)
        x_t = add_noise(x0, eps, t_B)
        uncond, cond = (three.velocity(x_t, t_B, problems, scale) for scale in (0.0, 1.0))
        pull = -t_B[:, None, None, None] * (uncond - cond)
    added = gradient_of(2.0 * (pull * x0).mean((1, 2, 3)).sum(), one)
    both = gradient_of(
        replace(STAR, guidance_mode="out").loss(one, two, three)(empty_rollout(problems, own)).total, one
    )
    torch.testing.assert_close(
        both, gradient_of(plain(empty_rollout(problems, own)).total, one) + added, atol=1e-5, rtol=1e-3
    )


def test_rows_may_be_cut_and_the_networks_take_no_gradient(sd3_folder):
    one, two, three = trio(sd3_folder)
    loss = STAR.loss(one, two, three)
    rollout = sample_generator(one)(*asked(), 0)
    assert rollout.outputs is None, "nothing is decoded for the score network"
    updates = [
        Update("score", ScoreMatching(two), two.trained, torch.optim.SGD(two.trained, lr=0.0)),
        Update("generator", loss, one.trained, torch.optim.SGD(one.trained, lr=0.0)),
    ]
    whole = Updates(updates).update(rollout)
    cut = Updates(updates, micro_rows=2).update(rollout)
    for name, value in whole.items():
        assert cut[name] == pytest.approx(value, rel=1e-3), name
    assert all(p.grad is None for p in two.trained), "the generator's loss leaks nothing into the score network"


def test_the_reward_is_added_and_must_be_differentiable(sd3_folder):
    one, two, three = trio(sd3_folder)
    bright = lambda rollout: rollout.outputs.flatten(1).mean(1)
    rollout = empty_rollout(*asked())
    plain = STAR.loss(one, two, three)
    both = replace(STAR, reward_weight=2.0).loss(one, two, three, bright)
    alone = replace(STAR, reward_weight=2.0, divergence_weight=0.0).loss(one, two, three, bright)
    grads = [gradient_of(loss(rollout).total, one) for loss in (plain, both, alone)]
    torch.testing.assert_close(grads[1], grads[0] + grads[2], atol=1e-6, rtol=1e-3)
    unknown = replace(alone, reward=lambda r: torch.where(torch.arange(3) == 1, torch.nan, bright(r)))
    assert gradient_of(unknown(rollout).total, one).isfinite().all()
    with pytest.raises(ValueError, match="cannot be differentiated"):
        replace(both, reward=lambda r: bright(r).detach())(rollout)


def test_choices_that_make_no_sense_are_refused(sd3_folder):
    one, two, three = trio(sd3_folder)
    for changes, why in (
        ({"divergence": "integral_kl"}, "turn grad_through_scores off"),
        ({"divergence": "huber"}, "unknown divergence 'huber'"),
        ({"guidance_mode": "inside"}, "unknown guidance_mode 'inside'"),
        ({"min_t": 0.9, "max_t": 0.1}, "not between 0 and 1"),
        ({"reward_weight": 1.0}, "there is no reward"),
    ):
        with pytest.raises(ValueError, match=why):
            replace(STAR, **changes).loss(one, two, three)


# -- generators of a few steps ---------------------------------------------------------------------------------


def test_renoising_keeps_nothing_of_the_old_noise():
    torch.manual_seed(0)
    x, v, t, t_next = torch.randn(2, 4), torch.randn(2, 4), torch.tensor([0.9, 0.5]), torch.tensor([0.5, 0.2])
    mean, std = flow_kernel("renoise", 0.3, torch.tensor([1.0, 0.5, 0.0]))(x, v, t, t_next)
    torch.testing.assert_close(mean, (1 - t_next)[:, None] * to_data(x, v, t))
    torch.testing.assert_close(std.flatten(), t_next)
    assert torch.equal(mean, cps(x, v, t, t_next, a=1.0)[0])


@pytest.mark.parametrize("steps", [1, 3])
def test_an_exported_generator_draws_the_same_in_plain_diffusers(sd3_folder, tmp_path, steps):
    from diffusers import StableDiffusion3Pipeline

    policy = trio(sd3_folder, steps, kernel="renoise")[0]
    own = seeds(9, 2, "test")
    ours = policy.greedy().rollout(PROBLEMS[:2], own).outputs
    torch.testing.assert_close(policy.rollout(PROBLEMS[:2], own).outputs, ours)
    policy.export(tmp_path / "out")
    pipe = StableDiffusion3Pipeline.from_pretrained(tmp_path / "out", text_encoder_3=None, tokenizer_3=None)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.scheduler.config.stochastic_sampling
    drawn = iter(
        [policy.latent_noise(own, "denoising", i) for i in range(steps - 1)] + [torch.zeros(2, *policy.latent_shape)]
    )
    with (
        pytest.MonkeyPatch.context() as patch
    ):  # diffusers draws a batch's noise from one generator, we a row's from its own
        patch.setattr(
            "diffusers.schedulers.scheduling_flow_match_euler_discrete.randn_tensor", lambda *a, **k: next(drawn)
        )
        call = json.loads((tmp_path / "out" / "sampling.json").read_text())
        theirs = pipe(PROMPTS[:2], latents=policy.latent_noise(own, "start"), output_type="pt", **call).images
    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0)
    again = build_flow_policy(FlowModel(str(tmp_path / "out"), size=16, sampling_steps=steps, text_length=2), ())
    torch.testing.assert_close(again.greedy().rollout(PROBLEMS[:2], own).outputs, ours, atol=1e-4, rtol=0)


def test_a_generator_of_a_few_steps_is_trained_at_each_of_them(sd3_folder):
    policy = trio(sd3_folder, 3, kernel="renoise")[0]
    problems, own = [PROBLEMS[0]] * 6, seeds(2, 6, "test")
    step_B = torch.tensor([0, 1, 2, 2, 1, 0])
    found = policy.predict_x0_at(problems, own, step_B)
    assert found.requires_grad
    walked = policy.rollout(problems, own)
    torch.testing.assert_close(found[2:4], walked.decisions["x0_B"][2:4], atol=1e-5, rtol=1e-5)
    first = policy.latent_noise(own[:1], "start")
    v = policy.velocity(first, torch.ones(1), problems[:1])
    torch.testing.assert_close(found[:1], first - v, atol=1e-5, rtol=1e-5)
