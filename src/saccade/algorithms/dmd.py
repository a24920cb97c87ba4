"""A generator that follows a frozen diffusion by its score, and the network that learns the generator's own score.

One loss for a family (`saccade.math.distillation`), told apart by printed fields:

    DMD, Diff-Instruct, DI++   divergence "integral_kl", through_scores off (DMD2: normalised)
    SiD                        divergence "squared"
    SIM, DI*                   divergence "pseudo_huber"
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from saccade.algorithms.forward_process import velocity_error
from saccade.core import Collect, Loss, Problem, Reward, Rollout, generator, noise, spawn
from saccade.math.flow import add_noise, to_data
from saccade.models.snapshot import Snapshot
from saccade.policies.flow import FlowModel, FlowPolicy, build_flow_policy, build_frozen_policy
from saccade.policies.unrolling import differentiable_reward, empty_rollout, refl_timesteps
from saccade.training.feeds import OnPolicy
from saccade.training.learner import Update, Updates, warmup

Slope = Callable[[Tensor], Tensor]
"""d'(y), row by row: ``[B, ...]`` -> the same shape."""


def data_to_score(x_t: Tensor, x0: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The score that a predicted clean sample stands for, (a x0 - x_t) / b^2; a and b broadcast from the left."""
    a, b = _left(a, x_t), _left(b, x_t)
    return (a * x0 - x_t) / b**2


def score_to_data(x_t: Tensor, score: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The clean sample that a score points to, (x_t + b^2 score) / a."""
    a, b = _left(a, x_t), _left(b, x_t)
    return (x_t + b**2 * score) / a


def velocity_to_score(x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """On the flow path: score = -(x_t + (1 - t) v) / t."""
    t = _left(t, x_t)
    return -(x_t + (1 - t) * v) / t


def score_to_velocity(x_t: Tensor, score: Tensor, t: Tensor) -> Tensor:
    """On the flow path: v = -(x_t + t score) / (1 - t)."""
    t = _left(t, x_t)
    return -(x_t + t * score) / (1 - t)


def data_to_velocity(x_t: Tensor, x0: Tensor, t: Tensor) -> Tensor:
    """On the flow path: v = (x_t - x0) / t."""
    return (x_t - x0) / _left(t, x_t)


def linear(y: Tensor) -> Tensor:
    """d'(y) = y: half the squared norm and, with the networks cut off, the integral KL."""
    return y


def pseudo_huber(y: Tensor, kappa: float) -> Tensor:
    """d'(y) = y / sqrt(mean y^2 + kappa^2), of the pseudo-Huber norm; ``kappa`` in the units of one coordinate."""
    return y / (_mean(y * y) + kappa**2).sqrt().reshape(-1, *[1] * (y.dim() - 1))


def slope(name: str, kappa: float) -> Slope:
    """d' by the divergence's name: ``integral_kl``, ``squared``, ``pseudo_huber``."""
    known = {"integral_kl": linear, "squared": linear, "pseudo_huber": partial(pseudo_huber, kappa=kappa)}
    if name not in known:
        raise ValueError(f"unknown divergence '{name}': one of {', '.join(known)}")
    return known[name]


def score_divergence(fake: Tensor, reference: Tensor, x0: Tensor, slope: Slope) -> Tensor:
    """-d'(fake - reference) . (fake - x0) of each row, whose gradient is the divergence's: ``[B]``."""
    return -_mean(slope(fake - reference) * (fake - x0))


def normaliser(reference: Tensor, x0: Tensor) -> Tensor:
    """DMD's weight of a row, 1 / mean |x0 - reference|, which makes rows of all noise levels count alike: ``[B]``."""
    return 1 / (x0 - reference).detach().abs().flatten(1).mean(1).clamp(min=1e-5)


def guidance_pull(reference: Tensor, reference_free: Tensor, x0: Tensor) -> Tensor:
    """Guidance as a term of its own: (free - conditional) . x0, the difference a constant: ``[B]``."""
    return _mean((reference_free - reference).detach() * x0)


def _mean(x: Tensor) -> Tensor:
    return x.flatten(1).mean(1)


def _left(t: Tensor, x: Tensor) -> Tensor:
    return t.reshape(t.shape + (1,) * (x.dim() - t.dim()))


_BLANK = Problem(-1, "")

_JUDGED, _TAUGHT = 1 << 23, 1 << 24
"""Keys of the noise on a generator's samples: where its divergence is measured, and where its score is learned."""


@dataclass(frozen=True)
class ScoreDistillation:
    """``weight divergence - reward_weight reward`` of a generator's fresh samples, a mean over attempts.

    ``fake`` knows the generator's own score, ``reference`` is the frozen diffusion; both are asked at x_t, noised to a
    time between ``low`` and ``high``. ``divergence`` names its norm, ``kappa`` the rounding of the pseudo-Huber norm,
    in units of a latent coordinate. ``through_scores`` lets gradients pass through both networks to x_t; the integral
    KL has none there. ``normalised`` weighs rows as DMD does. ``guidance`` is the scale of the reference's
    classifier-free guidance: "in" the reference, as a term beside it ("out"), or left out ("none"). A generator of
    several steps is trained at a random one of them. Metrics: the mean square of fake - reference, and the reward.
    """

    generator: FlowPolicy
    fake: FlowPolicy
    reference: FlowPolicy
    divergence: str = "pseudo_huber"
    kappa: float = 0.03
    through_scores: bool = True
    normalised: bool = False
    guidance: float = 4.5
    guide: str = "in"
    weight: float = 1.0
    reward: Reward | None = None
    reward_weight: float = 0.0
    low: float = 0.02
    high: float = 0.98

    def __post_init__(self) -> None:
        slope(self.divergence, self.kappa)
        if self.divergence == "integral_kl" and self.through_scores:
            raise ValueError("the integral KL has no gradient through its scores; turn through_scores off")
        if self.guide not in ("in", "out", "none"):
            raise ValueError(f"unknown guide '{self.guide}': one of in, out, none")
        if not 0 < self.low < self.high < 1:
            raise ValueError(f"times from {self.low} to {self.high} are not within 0 and 1")
        if self.reward_weight and self.reward is None:
            raise ValueError(f"reward_weight is {self.reward_weight}, but there is no reward")

    def __call__(self, rollout: Rollout) -> Loss:
        x0 = samples(self.generator, rollout.problems, rollout.extras["seed_B"])
        loss_B, metrics = torch.zeros(len(rollout), device=x0.device), {}
        if self.weight:
            divergence_B, apart_B = self._divergence(x0, rollout)
            loss_B = self.weight * divergence_B
            metrics["apart"] = apart_B.sum()
        if self.reward_weight:
            reward_B, _ = differentiable_reward(self.generator, self.reward, rollout, x0)
            loss_B = loss_B - self.reward_weight * reward_B.to(x0.device)
            metrics["reward"] = reward_B.detach().sum()
        return Loss(loss_B.sum(), torch.tensor(float(len(rollout))), metrics)

    def _divergence(self, x0: Tensor, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Each row's divergence and the mean square of fake - reference."""
        t_B, eps = noised_at(rollout.extras["seed_B"], x0, _JUDGED, self.low, self.high)
        x_t = add_noise(x0 if self.through_scores else x0.detach(), eps, t_B)
        ask = lambda who, guidance: to_data(x_t, who.velocity(x_t, t_B, rollout.problems, guidance), t_B)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.through_scores):
            fake, reference = ask(self.fake, None), ask(self.reference, self.guidance if self.guide == "in" else None)
        loss_B = score_divergence(fake, reference, x0, slope(self.divergence, self.kappa))
        if self.normalised:
            loss_B = loss_B * normaliser(reference, x0)
        if self.guide == "out":
            with torch.no_grad():
                free = to_data(x_t, self.reference.velocity(x_t, t_B, [_BLANK] * len(rollout)), t_B)
            loss_B = loss_B + self.guidance * guidance_pull(reference, free, x0)
        return loss_B, ((fake - reference).detach() ** 2).flatten(1).mean(1)


@dataclass(frozen=True)
class ScoreMatching:
    """Teaches ``fake`` the score of the samples in a rollout: flow matching at times between ``low`` and ``high``."""

    fake: FlowPolicy
    low: float = 0.02
    high: float = 0.98

    def __call__(self, rollout: Rollout) -> Loss:
        x0 = rollout.decisions["x0_B"]
        t_B, eps = noised_at(rollout.extras["seed_B"], x0, _TAUGHT, self.low, self.high)
        v = self.fake.velocity(add_noise(x0, eps, t_B), t_B, rollout.problems)
        return Loss(velocity_error(v, x0, eps).sum(), torch.tensor(float(len(rollout))))


def sample_generator(generator: FlowPolicy) -> Collect:
    """A collector of what the generator draws now, as latents alone: nothing is decoded, nothing judged."""

    @torch.no_grad()
    def collect(problems: Sequence[Problem], seeds_B: Tensor, step: int) -> Rollout:
        return empty_rollout(problems, seeds_B, x0_B=samples(generator, problems, seeds_B))

    return collect


def samples(generator: FlowPolicy, problems: Sequence[Problem], seeds_B: Tensor) -> Tensor:
    """What a generator draws, as latents with gradients; of several steps each row stops at a random one of them."""
    return generator.predict_x0_at(problems, seeds_B, refl_timesteps(seeds_B, 0, generator.steps))


def noised_at(seeds_B: Tensor, x0: Tensor, key: int, low: float, high: float) -> tuple[Tensor, Tensor]:
    """A time between ``low`` and ``high`` for each row, evenly drawn, and noise like ``x0``, from the row's own
    seed.
    """
    own = spawn(seeds_B, key)
    share_B = torch.cat([torch.rand(1, generator=generator(s)) for s in own.tolist()])
    return (low + (high - low) * share_B).to(x0.device), noise(spawn(own, 0), x0.shape[1:], x0.device)


@dataclass(frozen=True)
class Distillation:
    """Generator and score network side by side on the generator's fresh samples, so that no picture of a data set is
    needed.
    """

    reference: str = ""
    """The diffusion that is followed, and where the score network begins; empty: where the generator begins."""
    reference_guidance: float = 3.0
    """Scale of the diffusion's classifier-free guidance."""
    reference_steps: int = 20
    """Denoising steps of the diffusion when it is measured itself."""
    prompts_per_step: int = 32
    """Prompts in a batch, one attempt at each, over all processes."""
    score_updates: int = 1
    """Updates of the score network for each of the generator; every training step has one."""
    lr: float = 1e-4
    """Learning rate of AdamW for the generator."""
    score_lr: float = 3e-4
    """Learning rate of AdamW for the score network."""
    warmup: int = 5
    """Optimiser steps over which the learning rates rise."""
    ema: float = 0.95
    """Decay of the averaged weights that are evaluated; 0 evaluates the trained ones."""
    micro_rows: int = 64
    """Attempts that go through the networks at once in an update."""

    def networks(self, flow: FlowModel, policy: FlowPolicy, seed: int) -> tuple[FlowPolicy, FlowPolicy]:
        """The score network and the frozen diffusion, equal at first; both borrow text encoders and autoencoder of
        ``policy``.
        """
        diffusion = replace(
            flow, name=self.reference or flow.name, kernel="flow_sde", sampling_steps=self.reference_steps
        )
        guided = replace(diffusion, sharded=False, guidance=self.reference_guidance)
        return build_flow_policy(diffusion, (), seed, share_with=policy), build_frozen_policy(guided, share_with=policy)

    def parts(
        self, problems: Sequence[Problem], loss: ScoreDistillation, seed: int
    ) -> tuple[OnPolicy, Updates, dict[str, Any]]:
        """Feed, learner, and what a checkpoint holds; its "average" is what is evaluated."""
        policy, fake = loss.generator, loss.fake
        average, rise = Snapshot(policy.trained), warmup(self.warmup)
        # As in SiD and Diff-Instruct without momentum: what the other network taught a step ago no longer holds.
        adam = lambda part, lr: torch.optim.AdamW(part.trained, lr=lr, betas=(0.0, 0.999), weight_decay=0.0)
        teach = Update("score", ScoreMatching(fake), fake.trained, adam(fake, self.score_lr), schedule=rise)
        follow = Update(
            "generator", loss, policy.trained, adam(policy, self.lr), every=self.score_updates, schedule=rise,
            after=average.ema_update(self.ema),
        )  # fmt: skip
        feed = OnPolicy(problems, sample_generator(policy), self.prompts_per_step, seed)
        return (
            feed,
            Updates([teach, follow], micro_rows=self.micro_rows),
            {"policy": policy, "score": fake, "average": average},
        )
