"""NP-Edit's losses: a few-step editor trained without pairs, by a judge's gradient and by distribution matching.

Two steps are unrolled, with noise e, a time t of the grid, and e' = e or, for samplers that add fresh noise, new noise:

    x0 = e - v(e, 1)        x_t = (1 - t) x0 + t e'        x0' = x_t - t v(x_t, t)

At x0' two gradients add up: that of -log p(expected answers), through the judge and the decoder, and that of
distribution matching, (fake - real) / mean |x0' - real|, where both networks predict the clean latents from x0' noised
again (DMD2 2405.14867). Descending it moves x0' from the distribution of the editor's results to that of the captions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from saccade.algorithms.dmd import dmd_weight, time_and_noise
from saccade.config import Count, Fraction
from saccade.core import Collect, Loss, Problem, Question, Reward, Rollout
from saccade.math.flow import add_noise, to_data
from saccade.policies.flow import FlowModel, FlowPolicy, build_flow_policy, build_frozen_policy
from saccade.policies.unrolling import empty_rollout, refl_timesteps
from saccade.random import stream
from saccade.training.settings import AdamW

LossAndGradient = tuple[Tensor, Tensor]
"""A loss of each row ``[B]`` and its gradient with respect to the latents ``[B, C, h, w]``."""


@dataclass(frozen=True)
class NPEdit:
    """How an editor is trained without pairs, and how the score of its results is learned beside it."""

    judge_weight: float = 1.0
    """Weight of the judge's loss; at 1 its gradient and that of distribution matching have one norm at the start."""
    matching_weight: float = 3.0
    """Weight of distribution matching."""
    identity: bool = True
    """Ask the judge also whether everything but the edit is unchanged."""
    reference_guidance: float = 3.0
    """Scale of classifier-free guidance of the text-to-image model in distribution matching."""
    detach_first: bool = False
    """Propagate gradients through the second of the two steps only."""
    min_t: Fraction = 0.02
    """Lowest diffusion time at which distributions are compared (0 = data)."""
    max_t: Fraction = 0.98
    """Highest diffusion time at which distributions are compared (1 = noise)."""
    score_updates: Count = 1
    """Updates of the score network for each update of the editor; a training step updates the score network once."""
    score_optim: AdamW = AdamW(lr=1e-3, betas=(0.9, 0.99), warmup=5)

    def networks(self, flow: FlowModel, editor: FlowPolicy, seed: int) -> tuple[FlowPolicy, FlowPolicy]:
        """The score network and the frozen text-to-image model, which take captions of the result and no picture."""
        plain = replace(flow, guidance=1.0)
        fake = build_flow_policy(plain, (), stream(seed, "score network"), share_with=editor)
        real = build_frozen_policy(replace(plain, guidance=self.reference_guidance), share_with=editor)
        return replace(fake, prompt=result_caption), replace(real, prompt=result_caption)

    def loss(self, editor: FlowPolicy, fake: FlowPolicy, real: FlowPolicy, judge: Reward) -> UnpairedLoss:
        """The editor's loss. ``judge`` gives the log-probability ``[B]`` of the expected answers."""
        return UnpairedLoss(self, editor, fake, real, judge)


@dataclass(frozen=True)
class UnpairedLoss:
    """``judge_weight`` x -log p(expected answers) + ``matching_weight`` x half the squared matching gradient.

    ``judge`` takes a rollout whose pictures need gradients. ``real`` is the frozen text-to-image model, ``fake`` learns
    the score of the editor's results. A part of weight 0 is not computed. Metrics: both losses, and the lengths of
    their weighted gradients ("..._gradient"). ValueError for an editor of one step and for times outside (0, 1).
    """

    cfg: NPEdit
    editor: FlowPolicy
    fake: FlowPolicy
    real: FlowPolicy
    judge: Reward
    judge_unit: float = 1.0
    """Factor on the judge's weight, see `balanced`."""

    def __post_init__(self) -> None:
        if self.editor.steps < 2:
            raise ValueError("an editor of one step has no second step to be trained at; give it two or more")
        if not 0 < self.cfg.min_t < self.cfg.max_t < 1:
            raise ValueError(f"times from {self.cfg.min_t} to {self.cfg.max_t} are not within 0 and 1")

    def __call__(self, rollout: Rollout) -> Loss:
        x0 = two_steps(self.editor, rollout.problems, rollout.extras["seed_B"], self.cfg.detach_first)
        fixed = x0.detach()
        total, metrics = torch.zeros((), device=x0.device), {}
        parts: dict[str, tuple[float, Callable[[Rollout, Tensor], LossAndGradient]]] = {
            "judge": (self.cfg.judge_weight * self.judge_unit, self.judge_loss),
            "matching": (self.cfg.matching_weight, self.matching_loss),
        }
        for name, (weight, part) in parts.items():
            if weight:
                loss_B, gradient = part(rollout, fixed)
                # The gradient at the latents is known, so one backward pass behind them serves both parts.
                total = total + weight * (loss_B.sum() + (gradient * (x0 - fixed)).sum())
                metrics |= {name: loss_B.sum(), f"{name}_gradient": weight * lengths(gradient).sum()}
        return Loss(total, torch.tensor(float(len(rollout))), metrics)

    def judge_loss(self, rollout: Rollout, x0: Tensor) -> LossAndGradient:
        """-log p of the expected answers."""
        with torch.enable_grad():
            leaf = x0.detach().requires_grad_()
            loss_B = -self.judge(replace(rollout, outputs=self.editor.decode(leaf)))
            (gradient,) = torch.autograd.grad(loss_B.sum(), leaf)
        return loss_B.detach().to(x0.device), gradient

    @torch.no_grad()
    def matching_loss(self, rollout: Rollout, x0: Tensor) -> LossAndGradient:
        """1/2 mean g^2 with g = (fake - real) / mean |x0 - real|; its gradient is g / N with g as a constant."""
        t_B, eps = time_and_noise(rollout.extras["seed_B"], x0, "matching", self.cfg.min_t, self.cfg.max_t)
        x_t = add_noise(x0, eps, t_B)
        predict = lambda policy, guidance: to_data(x_t, policy.velocity(x_t, t_B, rollout.problems, guidance), t_B)
        fake, real = predict(self.fake, None), predict(self.real, self.cfg.reference_guidance)
        g = (fake - real) * dmd_weight(real, x0)[:, None, None, None]
        return (g**2).flatten(1).mean(1) / 2, g / g[0].numel()

    @torch.no_grad()
    def balanced(self, rollout: Rollout, rows: int = 64) -> UnpairedLoss:
        """The loss with the ``judge_unit`` at which both gradients are equally long on average over a rollout."""
        judge, matching = torch.zeros(()), torch.zeros(())
        for part in (rollout.rows(index) for index in torch.arange(len(rollout)).split(rows)):
            x0 = two_steps(self.editor, part.problems, part.extras["seed_B"])
            judge += lengths(self.judge_loss(part, x0)[1]).sum().cpu()
            matching += lengths(self.matching_loss(part, x0)[1]).sum().cpu()
        return replace(self, judge_unit=float(matching / judge.clamp(min=1e-12)))


def two_steps(editor: FlowPolicy, problems: Sequence[Problem], seeds_B: Tensor, detach_first: bool = False) -> Tensor:
    """Latents ``[B, C, h, w]`` after a step from noise and one from a later time of the grid, with gradients.

    The later time is random for each row.
    """
    eps = editor.latent_noise(seeds_B, "start")
    with torch.set_grad_enabled(torch.is_grad_enabled() and not detach_first):
        x0 = _step(editor, eps, torch.ones(len(eps), device=eps.device), problems)
    t_B = editor.times[refl_timesteps(seeds_B, 1, editor.steps)].to(eps.device)
    second = editor.latent_noise(seeds_B, "denoising", 0) if editor.renoises else eps
    return _step(editor, add_noise(x0, second, t_B), t_B, problems)


def sample_two_steps(editor: FlowPolicy) -> Collect:
    """Rollouts of new two-step samples, as latents alone."""

    def collect(problems: Sequence[Problem], seeds_P: Tensor, step: int) -> Rollout:
        with torch.no_grad():
            return empty_rollout(problems, seeds_P, x0_B=two_steps(editor, problems, seeds_P))

    return collect


def target_latents(editor: FlowPolicy, picture: Callable[[Problem], Any]) -> Collect:
    """Rollouts of the pictures uint8 ``[H, W, 3]`` that the editor is to return, as latents."""

    def collect(problems: Sequence[Problem], seeds_P: Tensor, step: int) -> Rollout:
        latents = editor.encode_sources([Question("", (picture(problem),)) for problem in problems])
        return empty_rollout(problems, seeds_P, x0_B=latents)

    return collect


def result_caption(problem: Problem) -> str:
    """Caption of the edited picture. ValueError for a problem without one."""
    caption = problem.answer["caption_after"]
    if not caption:
        raise ValueError(f"problem {problem.id} has no caption_after, which distribution matching needs")
    return caption


def lengths(gradient: Tensor) -> Tensor:
    """Euclidean length of each row ``[B]``."""
    return gradient.flatten(1).norm(dim=1)


def _step(editor: FlowPolicy, x: Tensor, t_B: Tensor, problems: Sequence[Problem]) -> Tensor:
    return to_data(x, editor.velocity(x, t_B, problems, editor.guidance, grad_through_uncond=True), t_B)
