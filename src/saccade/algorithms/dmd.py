"""Score distillation: a generator learns from a frozen diffusion through the difference of their scores.

A second network learns the score of the generator's samples online. One loss covers a family of methods, which fields
of `Distillation` choose:

    DMD, Diff-Instruct, DI++   divergence "integral_kl" (DMD and DMD2: normalize)
    SiD                        divergence "squared", grad_through_scores
    SIM, DI*                   divergence "pseudo_huber", grad_through_scores

DMD 2311.18828, DMD2 2405.14867, Diff-Instruct 2305.18455, SiD 2404.04057, DI++ 2410.18881, DI* 2410.20898.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from saccade.algorithms.forward_process import velocity_error
from saccade.config import Count, Fraction
from saccade.core import Collect, Loss, Problem, Reward, Rollout
from saccade.math.flow import add_noise, to_data
from saccade.models.snapshot import Snapshot
from saccade.naming import require
from saccade.policies.flow import FlowModel, FlowPolicy, build_flow_policy, build_frozen_policy
from saccade.policies.unrolling import differentiable_reward, empty_rollout, refl_timesteps
from saccade.random import generator, noise, stream
from saccade.training.groups import repeat_for_groups
from saccade.training.learner import Update
from saccade.training.settings import AdamW

DIVERGENCES = ("integral_kl", "squared", "pseudo_huber")
GUIDANCE_MODES = ("in", "out", "none")

_BLANK = Problem(-1, "")


@dataclass(frozen=True)
class Distillation:
    """How a generator is distilled from a frozen diffusion, and how the generator's score is learned beside it."""

    reference: str = ""
    """Checkpoint of the diffusion, which also initializes the score network; empty takes the generator's checkpoint."""
    reference_guidance: float = 3.0
    """Scale of the diffusion's classifier-free guidance."""
    reference_steps: Count = 20
    """Denoising steps of the diffusion when the diffusion itself is evaluated."""
    divergence: Literal["integral_kl", "squared", "pseudo_huber"] = "integral_kl"
    """Norm of the difference of scores; integral_kl has no gradient through the scores."""
    kappa: float = 0.03
    """Rounding of the pseudo-Huber norm, in units of one latent element."""
    grad_through_scores: bool = False
    """Differentiate both score networks with respect to the noisy sample, as SiD and Diff-Instruct* derive it."""
    normalize: bool = False
    """Divide each sample's loss by the distance of the diffusion's prediction from the sample (DMD)."""
    guidance_mode: Literal["in", "out", "none"] = "in"
    """Classifier-free guidance of the diffusion: in its prediction, as a separate term of the loss, or none."""
    divergence_weight: float = 1.0
    """Weight of the divergence in the generator's loss; 0 leaves the reward alone."""
    reward_weight: float = 0.0
    """Weight of the reward in the generator's loss."""
    min_t: Fraction = 0.02
    """Lowest diffusion time at which scores are compared and learned (0 = data)."""
    max_t: Fraction = 0.98
    """Highest diffusion time at which scores are compared and learned (1 = noise)."""
    score_updates: Count = 1
    """Updates of the score network for each update of the generator; a training step updates the score network once."""
    generator_optim: AdamW = AdamW(lr=1e-4, betas=(0.0, 0.999), warmup=5)
    """Optimizer of the generator; without momentum (SiD), since gradients of past score networks are outdated."""
    score_optim: AdamW = AdamW(lr=3e-4, betas=(0.0, 0.999), warmup=5)
    """Optimizer of the score network; without momentum (SiD), since samples of past generators are outdated."""
    ema: Fraction = 0.95
    """Decay of the moving average of the generator's weights that is evaluated; 0 evaluates the trained weights."""

    def networks(self, flow: FlowModel, policy: FlowPolicy, seed: int) -> tuple[FlowPolicy, FlowPolicy]:
        """The score network and the frozen diffusion, with equal weights at first.

        Both share the text encoders and the autoencoder of ``policy``.
        """
        diffusion = replace(
            flow, name=self.reference or flow.name, kernel="flow_sde", sampling_steps=self.reference_steps
        )
        guided = replace(diffusion, sharded=False, guidance=self.reference_guidance)
        return build_flow_policy(diffusion, (), stream(seed, "score network"), share_with=policy), build_frozen_policy(
            guided, share_with=policy
        )

    def loss(
        self, policy: FlowPolicy, fake: FlowPolicy, reference: FlowPolicy, reward: Reward | None = None
    ) -> GeneratorLoss:
        """The generator's loss. ValueError for settings that contradict one another."""
        require("divergence", self.divergence, DIVERGENCES)
        require("guidance_mode", self.guidance_mode, GUIDANCE_MODES)
        if self.divergence == "integral_kl" and self.grad_through_scores:
            raise ValueError("the integral KL has no gradient through its scores; turn grad_through_scores off")
        if not 0 < self.min_t < self.max_t < 1:
            raise ValueError(f"times from min_t {self.min_t} to max_t {self.max_t} are not between 0 and 1")
        if self.reward_weight and reward is None:
            raise ValueError(f"reward_weight is {self.reward_weight}, but there is no reward")
        return GeneratorLoss(self, policy, fake, reference, reward)

    def updates(self, loss: GeneratorLoss, ema: Snapshot) -> tuple[Update, Update]:
        """One update of the score network, and one of the generator, whose weights ``ema`` averages."""
        score_loss = ScoreMatching(loss.fake, self.min_t, self.max_t)
        return (
            self.score_optim.update("score", score_loss, loss.fake.trained),
            self.generator_optim.update(
                "generator", loss, loss.policy.trained, every=self.score_updates, after=ema.ema_update(self.ema)
            ),
        )


@dataclass(frozen=True)
class GeneratorLoss:
    """``divergence_weight`` x divergence - ``reward_weight`` x reward of new samples, a mean over samples.

    ``fake`` predicts the generator's score, ``reference`` is the frozen diffusion. Both see the sample noised to a
    time between ``min_t`` and ``max_t``. A generator of several steps is trained at a random one of them. Metrics: the
    mean square of fake - reference ("score_gap"), and "reward".
    """

    cfg: Distillation
    policy: FlowPolicy
    fake: FlowPolicy
    reference: FlowPolicy
    reward: Reward | None = None

    def __call__(self, rollout: Rollout) -> Loss:
        cfg = self.cfg
        x0 = sample_latents(self.policy, rollout.problems, rollout.extras["seed_B"])
        loss_B, metrics = torch.zeros(len(rollout), device=x0.device), {}
        if cfg.divergence_weight:
            divergence_B, gap_B = self._divergence(x0, rollout)
            loss_B = cfg.divergence_weight * divergence_B
            metrics["score_gap"] = gap_B.sum()
        if cfg.reward_weight and self.reward:
            reward_B, _ = differentiable_reward(self.policy, self.reward, rollout, x0)
            loss_B = loss_B - cfg.reward_weight * reward_B.to(x0.device)
            metrics["reward"] = reward_B.detach().sum()
        return Loss(loss_B.sum(), torch.tensor(float(len(rollout))), metrics)

    def _divergence(self, x0: Tensor, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Divergence and mean square of fake - reference of each sample: two ``[B]``."""
        cfg = self.cfg
        t_B, eps = time_and_noise(rollout.extras["seed_B"], x0, "divergence", cfg.min_t, cfg.max_t)
        x_t = add_noise(x0 if cfg.grad_through_scores else x0.detach(), eps, t_B)
        predict = lambda network, guidance: to_data(x_t, network.velocity(x_t, t_B, rollout.problems, guidance), t_B)
        with torch.set_grad_enabled(torch.is_grad_enabled() and cfg.grad_through_scores):
            fake = predict(self.fake, None)
            reference = predict(self.reference, self.reference.guidance if cfg.guidance_mode == "in" else None)
        loss_B = score_divergence(fake, reference, x0, cfg.divergence, cfg.kappa)
        if cfg.normalize:
            loss_B = loss_B * dmd_weight(reference, x0)
        if cfg.guidance_mode == "out":
            with torch.no_grad():
                uncond = to_data(x_t, self.reference.velocity(x_t, t_B, [_BLANK] * len(rollout)), t_B)
            loss_B = loss_B + self.reference.guidance * guidance_term(reference, uncond, x0)
        return loss_B, ((fake - reference).detach() ** 2).flatten(1).mean(1)


@dataclass(frozen=True)
class ScoreMatching:
    """Trains ``fake`` on the samples of a rollout: flow matching at times between ``min_t`` and ``max_t``."""

    fake: FlowPolicy
    min_t: Fraction = 0.02
    max_t: Fraction = 0.98

    def __call__(self, rollout: Rollout) -> Loss:
        x0 = rollout.decisions["x0_B"]
        t_B, eps = time_and_noise(rollout.extras["seed_B"], x0, "score", self.min_t, self.max_t)
        v = self.fake.velocity(add_noise(x0, eps, t_B), t_B, rollout.problems)
        return Loss(velocity_error(v, x0, eps).sum(), torch.tensor(float(len(rollout))))


def score_divergence(fake: Tensor, reference: Tensor, x0: Tensor, divergence: str, kappa: float) -> Tensor:
    """-d'(fake - reference) . (fake - x0) of each row, whose gradient is the divergence's: ``[B]``.

    ``fake`` and ``reference`` are predictions of x0; products are means over the elements of a row.
    """
    return -_mean(norm_gradient(fake - reference, divergence, kappa) * (fake - x0))


def norm_gradient(y: Tensor, divergence: str, kappa: float) -> Tensor:
    """d'(y) of each row, in the shape of ``y``: y / sqrt(mean y^2 + kappa^2) of the pseudo-Huber norm, else y.

    d'(y) = y belongs to half the squared norm and, where the networks are detached, to the integral KL.
    """
    if divergence != "pseudo_huber":
        return y
    return y / (_mean(y * y) + kappa**2).sqrt().reshape(-1, *[1] * (y.dim() - 1))


def dmd_weight(reference: Tensor, x0: Tensor) -> Tensor:
    """DMD's weight of a row, 1 / mean |x0 - reference|, which balances noise levels: ``[B]``."""
    return 1 / (x0 - reference).detach().abs().flatten(1).mean(1).clamp(min=1e-5)


def guidance_term(reference: Tensor, uncond: Tensor, x0: Tensor) -> Tensor:
    """Guidance as a separate term: (unconditional - conditional prediction) . x0, the difference detached: ``[B]``."""
    return _mean((uncond - reference).detach() * x0)


def _mean(x: Tensor) -> Tensor:
    return x.flatten(1).mean(1)


def sample_generator(policy: FlowPolicy, group_size: int = 1) -> Collect:
    """Collects samples of the generator's present weights as latents; nothing is decoded or judged.

    With ``group_size`` 1 a sample has the seed of its problem.
    """

    @torch.no_grad()
    def collect(problems: Sequence[Problem], seeds_P: Tensor, step: int) -> Rollout:
        seeds_B = seeds_P
        if group_size > 1:
            problems, seeds_B, _ = repeat_for_groups(problems, seeds_P, group_size)
        return empty_rollout(problems, seeds_B, x0_B=sample_latents(policy, problems, seeds_B))

    return collect


def sample_latents(policy: FlowPolicy, problems: Sequence[Problem], seeds_B: Tensor) -> Tensor:
    """Latents x0 ``[B, C, h, w]`` of a generator, with gradients.

    Of a generator of several steps each row is the prediction at a random one of them.
    """
    return policy.predict_x0_at(problems, seeds_B, refl_timesteps(seeds_B, 0, policy.steps))


def time_and_noise(seeds_B: Tensor, x0: Tensor, name: str, min_t: float, max_t: float) -> tuple[Tensor, Tensor]:
    """A time uniform between ``min_t`` and ``max_t`` for each row ``[B]``, and noise in the shape of ``x0``.

    Both follow from the row's seed and ``name``, which says what they are for.
    """
    share_B = torch.cat([torch.rand(1, generator=generator(s, name, "time")) for s in seeds_B.tolist()])
    eps = noise(seeds_B, x0.shape[1:], name, "noise", device=x0.device)
    return (min_t + (max_t - min_t) * share_B).to(x0.device), eps
