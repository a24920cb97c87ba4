"""An editor of a few steps taught without pairs (NP-Edit 2510.14978): by a judge's gradient, and by a model that draws.

Two steps are unrolled, with noise e, a time t of the grid, and e' = e or, where the sampler noises again, fresh:

    x0 = e - v(e, 1)        x_t = (1 - t) x0 + t e'        x0' = x_t - t v(x_t, t)

and at x0' two gradients meet: of -log p(wanted answers), through judge and decoder, and of distribution matching,
(fake - real) / mean |x0' - real|, where both networks predict the clean latents from x0' noised anew (DMD2 2405.14867):
what is descended brings x0' from where the editor's own pictures lie to where those of the caption lie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from saccade.algorithms.dmd import dmd_weight, time_and_noise
from saccade.core import Collect, Loss, Problem, Question, Rollout, noise, spawn
from saccade.math.flow import add_noise, to_data
from saccade.policies.flow import FlowModel, FlowPolicy, build_flow_policy, build_frozen_policy
from saccade.policies.unrolling import empty_rollout, refl_timesteps

_MATCHED = 1 << 25
"""Key of the noise under which distributions are compared."""

Pull = tuple[Tensor, Tensor]
"""A loss of each row ``[B]`` and its gradient at the latents ``[B, C, h, w]``."""


@dataclass(frozen=True)
class UnpairedEditing:
    """``judge_weight`` (-log p of the wanted answers) + ``matching_weight`` (half the squared matching gradient).

    ``judge`` gives the log-probability ``[B]`` of a rollout whose pictures carry a graph. ``real`` is the frozen model
    that draws, guided by ``guidance``, ``fake`` learns the editor's own pictures; both are told captions of the result.
    Times of the comparison lie between ``low`` and ``high``. ``detach_first`` lets gradients through the second step
    alone. A part of weight 0 is not computed. Metrics: both losses, and how long their weighted gradients are.
    """

    editor: FlowPolicy
    fake: FlowPolicy
    real: FlowPolicy
    judge: Callable[[Rollout], Tensor]
    judge_weight: float = 1.0
    matching_weight: float = 1.0
    guidance: float = 4.5
    detach_first: bool = False
    low: float = 0.02
    high: float = 0.98

    def __post_init__(self) -> None:
        if self.editor.steps < 2:
            raise ValueError("an editor of one step has no second step to be trained at; give it two or more")
        if not 0 < self.low < self.high < 1:
            raise ValueError(f"times from {self.low} to {self.high} are not within 0 and 1")

    def __call__(self, rollout: Rollout) -> Loss:
        x0 = two_steps(self.editor, rollout.problems, rollout.extras["seed_B"], self.detach_first)
        fixed = x0.detach()
        total, metrics = torch.zeros((), device=x0.device), {}
        parts = {"judge": (self.judge_weight, self.judged), "matching": (self.matching_weight, self.matched)}
        for name, (weight, pull) in parts.items():
            if weight:
                loss_B, gradient = pull(rollout, fixed)
                # The gradient at the latents is known, so the graph behind them is walked back once for both.
                total = total + weight * (loss_B.sum() + (gradient * (x0 - fixed)).sum())
                metrics |= {name: loss_B.sum(), f"{name}_pull": weight * lengths(gradient).sum()}
        return Loss(total, torch.tensor(float(len(rollout))), metrics)

    def judged(self, rollout: Rollout, x0: Tensor) -> Pull:
        """-log p of the wanted answers."""
        with torch.enable_grad():
            leaf = x0.detach().requires_grad_()
            loss_B = -self.judge(replace(rollout, outputs=self.editor.decode(leaf)))
            (gradient,) = torch.autograd.grad(loss_B.sum(), leaf)
        return loss_B.detach().to(x0.device), gradient

    @torch.no_grad()
    def matched(self, rollout: Rollout, x0: Tensor) -> Pull:
        """1/2 mean g^2 with g = (fake - real) / mean |x0 - real|, which counts as a constant in the gradient g / N."""
        t_B, eps = time_and_noise(rollout.extras["seed_B"], x0, _MATCHED, self.low, self.high)
        x_t = add_noise(x0, eps, t_B)
        clean = lambda who, guidance: to_data(x_t, who.velocity(x_t, t_B, rollout.problems, guidance), t_B)
        fake, real = clean(self.fake, None), clean(self.real, self.guidance)
        g = (fake - real) * dmd_weight(real, x0)[:, None, None, None]
        return (g**2).flatten(1).mean(1) / 2, g / g[0].numel()

    @torch.no_grad()
    def balance(self, rollout: Rollout, rows: int = 64) -> float:
        """The weight of the judge at which both gradients are equally long, on average over a rollout's attempts."""
        judged, matched = torch.zeros(()), torch.zeros(())
        for part in (rollout.rows(index) for index in torch.arange(len(rollout)).split(rows)):
            x0 = two_steps(self.editor, part.problems, part.extras["seed_B"])
            judged += lengths(self.judged(part, x0)[1]).sum().cpu()
            matched += lengths(self.matched(part, x0)[1]).sum().cpu()
        return float(matched / judged.clamp(min=1e-12))


def two_steps(editor: FlowPolicy, problems: Sequence[Problem], seeds_B: Tensor, detach_first: bool = False) -> Tensor:
    """What an editor makes in a step from noise and one from a later time of its grid, random for each row: latents
    ``[B, C, h, w]`` with gradients.
    """
    eps = noise(spawn(seeds_B, 0), editor.latent_shape, editor.device)
    with torch.set_grad_enabled(torch.is_grad_enabled() and not detach_first):
        x0 = _step(editor, eps, torch.ones(len(eps), device=eps.device), problems)
    t_B = editor.times[refl_timesteps(seeds_B, 1, editor.steps)].to(eps.device)
    again = noise(spawn(seeds_B, 1), editor.latent_shape, editor.device) if editor.renoises else eps
    return _step(editor, add_noise(x0, again, t_B), t_B, problems)


def edited(editor: FlowPolicy) -> Collect:
    """Fresh attempts of two steps, as latents alone."""

    def collect(problems: Sequence[Problem], seeds_P: Tensor, step: int) -> Rollout:
        with torch.no_grad():
            return empty_rollout(problems, seeds_P, x0_B=two_steps(editor, problems, seeds_P))

    return collect


def given(editor: FlowPolicy, picture: Callable[[Problem], Any]) -> Collect:
    """Pictures that problems know, uint8 ``[H, W, 3]``, as the latents that an editor is to give back."""

    def collect(problems: Sequence[Problem], seeds_P: Tensor, step: int) -> Rollout:
        shown = [Question("", (picture(problem),)) for problem in problems]
        return empty_rollout(problems, seeds_P, x0_B=editor.prompt_cache(shown, editor.size).source.float())

    return collect


def drawers(flow: FlowModel, guidance: float, editor: FlowPolicy, seed: int) -> tuple[FlowPolicy, FlowPolicy]:
    """The network that learns what the editor makes, and the frozen model that draws: told the result, shown
    nothing.
    """
    plain = replace(flow, guidance=1.0)
    fake, real = (
        build_flow_policy(plain, (), seed, share_with=editor),
        build_frozen_policy(replace(plain, guidance=guidance), share_with=editor),
    )
    return replace(fake, prompt=result), replace(real, prompt=result)


def result(problem: Problem) -> str:
    """What the edited picture shall show. ValueError where nobody has told it."""
    caption = problem.answer["caption_after"]
    if not caption:
        raise ValueError(f"problem {problem.id} has no caption_after, by which its result could be drawn")
    return caption


def lengths(gradient: Tensor) -> Tensor:
    """Euclidean length of each row ``[B]``."""
    return gradient.flatten(1).norm(dim=1)


def _step(editor: FlowPolicy, x: Tensor, t_B: Tensor, problems: Sequence[Problem]) -> Tensor:
    return to_data(x, editor.velocity(x, t_B, problems, editor.guidance, grad_through_uncond=True), t_B)
