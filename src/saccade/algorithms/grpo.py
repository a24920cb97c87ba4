"""GRPO on any policy: a surrogate loss on stored decisions, with an optional KL penalty to the reference.

The same function trains denoising steps and tokens. GRPO 2402.03300, Flow-GRPO 2505.05470; its variants are settings:

    DAPO      clip 0.2, clip_high 0.28, average "decisions"
    Dr. GRPO  average "constant" with ``max_length``, std "none"
    GSPO      ratio "row", average "rows", clip 3e-4, clip_high 4e-4
    CISPO     surrogate=cispo
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from saccade.config import NonNegative
from saccade.core import Likelihood, Loss, Policy, Problem, Rollout, Sampler
from saccade.math import kl
from saccade.math.advantages import group_advantage, has_reward_variance, leave_one_out, per_reward
from saccade.math.exponential import bounded_exp
from saccade.math.surrogates import (
    Surrogate,
    cispo,
    clip_fraction,
    clipped,
    decision_weight,
    dual_clipped,
    mean_weight,
    ratio_logprobs,
)
from saccade.models.snapshot import Snapshot
from saccade.random import generator
from saccade.training import distributed


@dataclass(frozen=True)
class DynamicSample:
    """The result of dynamic sampling: for each round a rollout of the groups that are kept, and what was sampled."""

    parts: list[Rollout]
    groups: int
    """Number of groups kept; fewer than requested if the rounds ran out."""
    generated: int
    """Number of samples generated, with those of dropped groups; budgets are compared by it."""


def dynamic_sampling(
    sampler: Sampler,
    score: Callable[[Rollout], Tensor],
    rounds: Iterable[tuple[Sequence[Problem], Tensor]],
    groups: int,
) -> DynamicSample:
    """Sample rounds of problems and their seeds until the scores of ``groups`` groups differ within the group (DAPO).

    ``sampler`` numbers the groups of its rollout; ``score`` gives the score that must differ ``[B]`` (an accuracy, or
    the total reward), and may store rewards in the rollout. The iterable bounds the number of rounds, and is consumed
    only as far as needed. If no group of any round has differing scores, the first round is returned unchanged, with
    ``groups`` 0, so that every step has a batch. ValueError if there is no round.
    """
    parts: list[Rollout] = []
    first: Rollout | None = None
    count = generated = 0
    for problems, seeds_P in rounds:
        rollout = sampler(problems, seeds_P)
        first = rollout if first is None else first
        generated += len(rollout)
        kept = rollout.group_B[has_reward_variance(score(rollout), rollout.group_B)].unique()[: groups - count]
        if len(kept):
            parts.append(rollout.rows(torch.nonzero(torch.isin(rollout.group_B, kept)).flatten()))
            count += len(kept)
        if count >= groups:
            break
    if first is None:
        raise ValueError("there is no round to sample from")
    return DynamicSample(parts or [first], count, generated)


@dataclass(frozen=True)
class GRPO:
    """How group-relative policy optimization computes advantages and what its loss is."""

    std: Literal["group", "batch", "none"] = "group"
    """Standard deviation that advantages are divided by: of the group, of the batch (Flow-GRPO), or none (Dr. GRPO)."""
    std_eps: float = 1e-4
    """Term added to the standard deviation that advantages are divided by."""
    unbiased_std: bool = False
    """Divide the variance by n - 1 instead of n."""
    baseline: Literal["mean", "leave_one_out"] = "mean"
    """What is subtracted from a reward: the mean of its group, or of the other samples of its group (RLOO)."""
    adv_clip: NonNegative | None = 5.0
    """Largest absolute advantage, in standard deviations or, where there is none, in units of the reward; None does not
    clip.
    """
    clip: float = 0.2
    """Range in which the probability ratio may move: 1 - clip to 1 + clip."""
    clip_high: NonNegative | None = None
    """Upper range of the probability ratio where it differs from the lower one (DAPO)."""
    surrogate: Literal["clipped", "dual_clipped", "cispo"] = "clipped"
    """What happens to ratios outside the range: clipped (PPO), also bounded for negative advantages, or CISPO."""
    ratio: Literal["decision", "row", "row_decision"] = "decision"
    """Probability ratio of each decision, or of the whole sample (GSPO, GSPO-token)."""
    average: Literal["decisions", "rows", "constant", "sum"] = "decisions"
    """How the loss is averaged: over all decisions, over samples first, over a constant length, or summed."""
    beta: float = 0.0
    """Weight of the KL divergence from the reference model; 0 saves the reference's forward pass."""
    kl: Literal["k2", "k3", "variance", "drift"] = "k3"
    """Estimator of that divergence on log-probabilities, k2 (descends KL(policy || reference)) or k3 (descends
    KL(reference || policy)), or on the means of Gaussian denoising steps the squared distance over 2 S^2 (variance) or
    over 2 S^2 / |dt| (drift, Flow-GRPO). It is taken of each decision alone: what a decision does to the later ones of
    its sample is left out.
    """

    def advantage(self, reward_B: Tensor, group_B: Tensor) -> Tensor:
        """Advantage of each sample over its group ``[B]``; 0 where the reward is NaN. ValueError for groups of one."""
        _require_groups(group_B)
        if self.baseline == "leave_one_out":
            return leave_one_out(reward_B, group_B)
        return group_advantage(
            reward_B,
            group_B,
            scale=self.std,
            eps=self.std_eps,
            unbiased=self.unbiased_std,
            clip=self._adv_clip,
            all_sum=distributed.all_sum,
        )

    def advantage_of_each(self, rewards: Mapping[str, Tensor], weights: Mapping[str, float], group_B: Tensor) -> Tensor:
        """Advantage ``[B]`` of the weighted rewards, each normalized in its group before they are added up (GDPO).

        ``std``, ``unbiased_std`` and ``baseline`` have no part in it. ValueError for groups of one.
        """
        _require_groups(group_B)
        return per_reward(
            torch.stack([rewards[name] for name in weights]),
            torch.tensor(list(weights.values())),
            group_B,
            eps=self.std_eps,
            clip=self._adv_clip,
            all_sum=distributed.all_sum,
        )

    @property
    def _adv_clip(self) -> float:
        return math.inf if self.adv_clip is None else self.adv_clip

    def loss(self, policy: Policy, max_length: int | None = None) -> PolicyGradient:
        """The loss of the policy; ``max_length`` is the length that ``average="constant"`` divides by."""
        surrogate = SURROGATES[self.surrogate]
        return PolicyGradient(
            policy, self.clip, self.clip_high, self.beta, self.kl, self.average, max_length, surrogate, self.ratio
        )

    def with_reference(self, rollout: Rollout, policy: Policy, reference: Snapshot, rows: int = 64) -> Rollout:
        """The rollout with the reference's log-probabilities; unchanged if ``beta`` is 0."""
        if self.beta:
            add_reference_logprobs(policy, reference, rollout, rows)
        return rollout


def _require_groups(group_B: Tensor) -> None:
    if len(group_B) == len(group_B.unique()):
        raise ValueError("samples are compared with others of their prompt: give --group-size 2 or more")


SURROGATES = {"clipped": clipped, "dual_clipped": dual_clipped, "cispo": cispo}


@dataclass(frozen=True)
class PolicyGradient:
    """``surrogate + beta KL`` over the decisions whose mask is 1.

    ``surrogate``: `clipped` to 1 - ``clip`` … 1 + ``clip_high``, `dual_clipped` or `cispo`, or any function like them.
    ``ratio``: of each "decision", of the "row", or "row_decision" (see `ratio_logprobs`); the last two need all
    decisions of a row, hence micro-batches by rows alone: ValueError where decisions were cut off.
    ``kl``: "k2" or "k3" on log-probs; "variance" or "drift" on the means of Gaussian decisions, (m - m_ref)^2 over
    2 S^2 or over 2 S^2 / |dt| (Flow-GRPO). ``average``: "decisions", "rows", "constant" (over
    ``max_length``) or "sum".
    """

    policy: Policy
    clip: float
    clip_high: NonNegative | None = None
    beta: float = 0.0
    kl: str = "k3"
    average: str = "decisions"
    max_length: int | None = None
    surrogate: Surrogate = clipped
    ratio: str = "decision"

    def __call__(self, rollout: Rollout) -> Loss:
        current, advantage_BT = self.policy.likelihood(rollout), rollout.advantage_BT
        if advantage_BT is None:
            raise ValueError("the rollout has no advantages")
        mask, length_B = rollout.mask_BT, rollout.extras["length_B"].to(current.logp_BT.device)
        # Masked decisions may hold anything, also infinities: they are replaced first, not multiplied by zero.
        trained = mask > 0
        logp, old, advantage = (torch.where(trained, x, 0.0) for x in (current.logp_BT, rollout.logp_BT, advantage_BT))
        new_and_old = ratio_logprobs(logp, old, mask, length_B, self.ratio)
        term = self.surrogate(*new_and_old, advantage, self.clip, self.clip_high)
        metrics = {
            "ratio": bounded_exp(new_and_old[0] - new_and_old[1]),
            "clipped": clip_fraction(*new_and_old, advantage, self.clip, self.clip_high),
            "replay_gap": (logp - old).abs(),
        }
        if self.beta:
            metrics["kl"] = torch.where(trained, reference_kl(current, rollout, self.kl), 0.0)
            term = term + self.beta * metrics["kl"]
        weight = decision_weight(mask, length_B, self.average, self.max_length)
        mean = mean_weight(mask, length_B, self.average)
        return Loss((weight * term).sum(), mean.sum(), {k: (mean * m.detach()).sum() for k, m in metrics.items()})


def reference_kl(current: Likelihood, rollout: Rollout, kind: str) -> Tensor:
    """Divergence of each decision from the reference that `add_reference_logprobs` stored: ``[B, T]``.

    ValueError for ``kind`` "variance" or "drift" on decisions that are not Gaussian.
    """
    if kind in ("k2", "k3"):
        trained = rollout.mask_BT > 0
        reference_BT = rollout.extras["reference_logp_BT"]
        logp, reference = (torch.where(trained, x, 0.0) for x in (current.logp_BT, reference_BT))
        return getattr(kl, kind)(logp, reference)
    if kind not in ("variance", "drift"):
        raise ValueError(f"unknown kl '{kind}': one of k2, k3, variance, drift")
    reference = rollout.extras["reference_mean_BT"]
    if current.mean_BTD is None or current.std_BT is None:
        raise ValueError(f"kl '{kind}' needs Gaussian decisions, with means and standard deviations")
    dims = reference.dim() - 2
    variance = current.std_BT**2 if kind == "variance" else current.std_BT**2 / rollout.extras["span_BT"]
    return kl.gaussian(current.mean_BTD, reference, variance.reshape(*variance.shape, *[1] * dims), dims)


@torch.no_grad()
def add_reference_logprobs(policy: Policy, reference: Snapshot, rollout: Rollout, rows: int = 64) -> None:
    """Store the reference's log-probs (and means, if Gaussian) of each decision, ``rows`` rows at a time."""
    with reference:
        parts = [policy.likelihood(rollout.rows(i)) for i in torch.arange(len(rollout)).split(rows)]
    rollout.extras["reference_logp_BT"] = torch.cat([p.logp_BT for p in parts])
    means = [p.mean_BTD for p in parts if p.mean_BTD is not None]
    if means:
        rollout.extras["reference_mean_BT"] = torch.cat(means)


def sliding_window(step: int, width: int, steps: int, every: int = 25, stride: int = 1) -> tuple[int, ...]:
    """MixGRPO: ``width`` of ``steps`` steps; the window moves by ``stride`` each ``every`` updates and wraps around."""
    places = max(steps - width + 1, 1)
    start = (step // every * stride) % places
    return tuple(range(start, min(start + width, steps)))


def random_window(seed: int, step: int, width: int, steps: int) -> tuple[int, ...]:
    """Flow-GRPO-Fast: ``width`` consecutive ones of ``steps`` steps, from a random step of the first half on."""
    g = generator(seed, "window", step)
    last = max(min(steps // 2, steps - width), 0)
    start = int(torch.randint(last + 1, (1,), generator=g))
    return tuple(range(start, min(start + width, steps)))
