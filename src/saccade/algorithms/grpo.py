"""GRPO on any policy: a surrogate on stored decisions, with an optional pull to the reference.

The same function trains denoising steps and words. GRPO 2402.03300, Flow-GRPO 2505.05470; its kin are settings of it:

    DAPO      clip 0.2, clip_high 0.28, average "decisions"
    Dr. GRPO  average "constant" with ``longest``, credit without spread
    GSPO      ratio "row", average "rows", clip 3e-4, clip_high 4e-4
    CISPO     surrogate=cispo
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from saccade.core import Likelihood, Loss, Policy, Problem, Rollout, Sampler, generator, spawn
from saccade.math import kl
from saccade.math.advantages import group_advantage, has_reward_variance, leave_one_out
from saccade.math.surrogates import (
    Surrogate,
    at_level,
    cispo,
    clipped,
    clipped_share,
    decision_weight,
    dual_clipped,
    mean_weight,
)
from saccade.models.snapshot import Snapshot
from saccade.training import distributed


@dataclass(frozen=True)
class DynamicSample:
    """What dynamic sampling gave: for each round a rollout of the groups kept, and what it took to find them."""

    parts: list[Rollout]
    groups: int
    """Groups kept; fewer than asked if the rounds ran out."""
    generated: int
    """Attempts made, dropped ones too: budgets are compared by these."""


def dynamic_sampling(
    attempt: Sampler,
    judge: Callable[[Rollout], Tensor],
    rounds: Iterable[tuple[Sequence[Problem], Tensor]],
    groups: int,
) -> DynamicSample:
    """Attempt round after round of problems and their seeds until ``groups`` groups tell their attempts apart.

    ``attempt`` numbers the groups of its rollout, ``judge`` gives the verdict that must differ within one ``[B]`` (an
    accuracy, or the whole reward); what it stored in a rollout is kept. The iterable bounds how often more is drawn; no
    round is drawn in vain. If no group of any round has signal, the first round is handed back as it is, with
    ``groups`` 0, so that a step without signal is still a batch. ValueError if there is no round.
    """
    parts: list[Rollout] = []
    first: Rollout | None = None
    found = generated = 0
    for problems, seeds_P in rounds:
        rollout = attempt(problems, seeds_P)
        first = rollout if first is None else first
        generated += len(rollout)
        kept = rollout.group_B[has_reward_variance(judge(rollout), rollout.group_B)].unique()[: groups - found]
        if len(kept):
            parts.append(rollout.rows(torch.nonzero(torch.isin(rollout.group_B, kept)).flatten()))
            found += len(kept)
        if found >= groups:
            break
    if first is None:
        raise ValueError("there is no round to draw from")
    return DynamicSample(parts or [first], found, generated)


@dataclass(frozen=True)
class GRPO:
    """How group-relative policy optimization computes advantages and what its loss is."""

    std: Literal["group", "batch", "none"] = "group"
    """Standard deviation that advantages are divided by: of the group, of the whole batch (Flow-GRPO), or none
    (Dr. GRPO).
    """
    std_eps: float = 1e-4
    """Term added to that standard deviation."""
    unbiased_std: bool = False
    """Divide the variance by n - 1 instead of n."""
    baseline: Literal["mean", "leave_one_out"] = "mean"
    """What is subtracted from a reward: the mean of its group, or of the other samples of its group (RLOO)."""
    adv_clip: float | None = 5.0
    """Largest absolute advantage, in standard deviations or, where there is none, in units of the reward; None does not
    clip.
    """
    clip: float = 0.2
    """Range in which the probability ratio may move: 1 - clip to 1 + clip."""
    clip_high: float | None = None
    """Upper range of the probability ratio where it differs from the lower one (DAPO)."""
    surrogate: Literal["clipped", "dual_clipped", "cispo"] = "clipped"
    """What happens to ratios outside the range: clipped (PPO), also bounded for negative advantages, or CISPO."""
    ratio: Literal["decision", "row", "row_decision"] = "decision"
    """Probability ratio of each decision, or of the whole sample (GSPO, GSPO-token)."""
    average: Literal["decisions", "rows", "constant", "sum"] = "decisions"
    """How the loss is averaged: over all decisions, over samples first, over a constant length, or summed."""
    beta: float = 0.0
    """Weight of the KL divergence from the reference model; 0 spares the reference's forward pass."""
    kl: Literal["k1", "k2", "k3", "variance", "drift"] = "k3"
    """Estimator of that divergence: k1, k2 or k3 on log-probabilities, or on the means of Gaussian denoising steps the
    squared distance over 2 S^2 (variance) or over 2 S^2 / |dt| (drift, Flow-GRPO).
    """

    def advantage(self, reward_B: Tensor, group_B: Tensor) -> Tensor:
        """Advantage of each sample over its group ``[B]``; 0 where the reward is NaN."""
        if self.baseline == "leave_one_out":
            return leave_one_out(reward_B, group_B)
        return group_advantage(
            reward_B,
            group_B,
            scale=self.std,
            eps=self.std_eps,
            unbiased=self.unbiased_std,
            clip=math.inf if self.adv_clip is None else self.adv_clip,
            all_sum=distributed.all_sum,
        )

    def loss(self, policy: Policy, longest: int | None = None) -> PolicyGradient:
        """The loss of the policy; ``longest`` is the length that ``average="constant"`` divides by."""
        surrogate = SURROGATES[self.surrogate]
        return PolicyGradient(
            policy, self.clip, self.clip_high, self.beta, self.kl, self.average, longest, surrogate, self.ratio
        )

    def with_reference(self, rollout: Rollout, policy: Policy, reference: Snapshot, rows: int = 64) -> Rollout:
        """The rollout with the reference's log-probabilities, as it is where ``beta`` is 0."""
        if self.beta:
            add_reference_logprobs(policy, reference, rollout, rows)
        return rollout


SURROGATES = {"clipped": clipped, "dual_clipped": dual_clipped, "cispo": cispo}


@dataclass(frozen=True)
class PolicyGradient:
    """``surrogate + beta KL`` over the decisions whose mask is 1.

    ``surrogate``: `clipped` to 1 - ``clip`` … 1 + ``clip_high``, `dual_clipped` or `cispo`, or any function like them.
    ``ratio``: of each "decision", of the whole "row", or "row_decision" (`at_level`); the last two need whole rows,
    hence micro-batches by rows alone: ValueError where decisions were cut off.
    ``kl``: "k1", "k2", "k3" on log-probs; "variance" or "drift" on the means of Gaussian decisions, (m - m_ref)^2 over
    2 S^2 or over 2 S^2 / |dt| (Flow-GRPO). ``average``: "decisions", "rows", "constant" (over ``longest``) or "sum".
    """

    policy: Policy
    clip: float
    clip_high: float | None = None
    beta: float = 0.0
    kl: str = "k3"
    average: str = "decisions"
    longest: int | None = None
    surrogate: Surrogate = clipped
    ratio: str = "decision"

    def __call__(self, rollout: Rollout) -> Loss:
        seen = self.policy.likelihood(rollout)
        mask, length_B = rollout.mask_BT, rollout.extras["length_B"].to(seen.logp_BT.device)
        # What is masked may hold anything, infinities too: it is cut out on the way in, not multiplied by zero.
        own = mask > 0
        logp, old, advantage = (torch.where(own, x, 0.0) for x in (seen.logp_BT, rollout.logp_BT, rollout.advantage_BT))
        compared = at_level(logp, old, mask, length_B, self.ratio)
        term = self.surrogate(*compared, advantage, self.clip, self.clip_high)
        metrics = {
            "ratio": (compared[0] - compared[1]).exp(),
            "clipped": clipped_share(*compared, advantage, self.clip, self.clip_high),
            "replay_gap": (logp - old).abs(),
        }
        if self.beta:
            metrics["kl"] = torch.where(own, distance(seen, rollout, self.kl), 0.0)
            term = term + self.beta * metrics["kl"]
        weight = decision_weight(mask, length_B, self.average, self.longest)
        share = mean_weight(mask, length_B, self.average)
        return Loss((weight * term).sum(), share.sum(), {k: (share * m.detach()).sum() for k, m in metrics.items()})


def distance(seen: Likelihood, rollout: Rollout, kind: str) -> Tensor:
    """Distance of each decision from the reference that ``add_reference_logprobs`` stored: ``[B, T]``."""
    if kind in ("k1", "k2", "k3"):
        own = rollout.mask_BT > 0
        present, reference = (torch.where(own, x, 0.0) for x in (seen.logp_BT, rollout.extras["reference_logp_BT"]))
        return getattr(kl, kind)(present, reference)
    if kind not in ("variance", "drift"):
        raise ValueError(f"unknown kl '{kind}': one of k1, k2, k3, variance, drift")
    reference = rollout.extras["reference_mean_BT"]
    dims = reference.dim() - 2
    variance = seen.std_BT**2 if kind == "variance" else seen.std_BT**2 / rollout.extras["span_BT"]
    return kl.gaussian(seen.mean_BTD, reference, variance.reshape(*variance.shape, *[1] * dims), dims)


@torch.no_grad()
def add_reference_logprobs(policy: Policy, reference: Snapshot, rollout: Rollout, rows: int = 64) -> None:
    """Store what the reference thinks of each decision, once, for every epoch and minibatch that follows."""
    with reference:
        parts = [policy.likelihood(rollout.rows(i)) for i in torch.arange(len(rollout)).split(rows)]
    rollout.extras["reference_logp_BT"] = torch.cat([p.logp_BT for p in parts])
    if parts[0].mean_BTD is not None:
        rollout.extras["reference_mean_BT"] = torch.cat([p.mean_BTD for p in parts])


def sliding_window(step: int, width: int, steps: int, every: int = 25, stride: int = 1) -> tuple[int, ...]:
    """MixGRPO: ``width`` steps that move on by ``stride`` each ``every`` updates and wrap round to the first."""
    places = max(steps - width + 1, 1)
    start = (step // every * stride) % places
    return tuple(range(start, min(start + width, steps)))


def random_window(seed: int, step: int, width: int, steps: int) -> tuple[int, ...]:
    """Flow-GRPO-Fast: ``width`` neighbouring ones of ``steps`` steps, that begin at a random one of the first half."""
    g = generator(int(spawn(torch.tensor([seed]), step)))
    last = max(min(steps // 2, steps - width), 0)
    start = int(torch.randint(last + 1, (1,), generator=g))
    return tuple(range(start, min(start + width, steps)))
