"""PPO (arXiv 1707.06347): segments with generalized advantages, the loss of actor and critic, and the learner."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from saccade.algorithms.acceleration import ppo_learner
from saccade.config import Count, Fraction, NonNegative
from saccade.core import Learner, Likelihood, LikelihoodPolicy, Loss, Rollout, RolloutFeed
from saccade.math.kl import k3
from saccade.math.surrogates import Surrogate, clip_fraction, clipped
from saccade.math.values import gae
from saccade.models.control.networks import RunningMeanStd
from saccade.policies.actor_critic import ActorCritic
from saccade.training import distributed
from saccade.training.learner import Updates, linear_decay
from saccade.training.settings import AdamW

LogSegment = Callable[[int, Rollout], None]
"""A function of the training step and a segment, which logs the episodes that ended in it."""


@dataclass(frozen=True)
class PPO:
    """How PPO learns, in the words of stable-baselines3, whose defaults for vectors these are."""

    n_steps: Count = 2048
    """Number of environment steps of each row in a segment; a training step learns from one segment of all rows."""
    n_epochs: Count = 10
    """Number of passes over a segment."""
    batch_size: Count = 64
    """Number of decisions in a minibatch; minibatches are sampled anew in each epoch."""
    gamma: Fraction = 0.99
    """Discount factor."""
    gae_lambda: Fraction = 0.95
    """Lambda of generalized advantage estimation: 0 uses the critic's next value, 1 the observed rewards alone."""
    clip_range: float = 0.2
    """Range in which the probability ratio may move: 1 - clip_range to 1 + clip_range."""
    clip_range_vf: NonNegative | None = None
    """Range to which the value in the critic's error is clipped, around the one stored in the segment: a value outside
    it has no gradient. None does not clip.
    """
    value_coef: float = 0.5
    """Weight of the critic's squared error in the loss."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus in the loss."""
    anneal_lr: bool = False
    """Decay the learning rate linearly to 0 over the run."""
    normalize_rewards: bool = False
    """Divide rewards by the running standard deviation of the discounted return."""

    def feed(self, segments: RolloutFeed, rows: int, log: LogSegment = lambda step, rollout: None) -> GAEFeed:
        """Segments of ``rows`` rows as single decisions with advantages and returns."""
        normalizer = NormalizeReward(rows, self.gamma) if self.normalize_rewards else None
        return GAEFeed(segments, self.gamma, self.gae_lambda, normalizer, log)

    def loss(self, policy: LikelihoodPolicy) -> ActorCriticLoss:
        """The loss of the policy."""
        return ActorCriticLoss(
            policy,
            self.clip_range,
            value_coef=self.value_coef,
            entropy_coef=self.entropy_coef,
            clip_range_vf=self.clip_range_vf,
        )

    def minibatches(self, rows: int) -> int:
        """Number of minibatches in an epoch. ValueError if a segment does not fill one."""
        decisions = rows * self.n_steps
        if self.batch_size < 2 or decisions < self.batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} of {rows} rows x {self.n_steps} steps: it must be 2 to {decisions}"
            )
        return decisions // self.batch_size

    def lr_schedule(self, optimizer_steps: int) -> Callable[[int], float] | None:
        """Factor on the learning rate as a function of the number of optimizer steps taken, for a run of this many."""
        return linear_decay(optimizer_steps) if self.anneal_lr else None

    def learner(self, policy: ActorCritic, optim: AdamW, rows: int, steps: int, seed: int) -> Learner:
        """Learns from ``steps`` segments of ``rows`` rows; the gradient is hand-written where `acceleration` has it."""
        minibatches = self.minibatches(rows)
        optimizer_steps = steps * self.n_epochs * minibatches
        learner = ppo_learner(self, policy, optim, minibatches, optimizer_steps, seed)
        if learner is None:
            update = optim.update(
                "ppo",
                self.loss(policy),
                policy.trained,
                decay=self.lr_schedule(optimizer_steps),
                prepare=partial(normalize_advantages, all_sum=distributed.all_sum),
            )
            learner = Updates([update], epochs=self.n_epochs, minibatches=minibatches, shuffle=seed)
        return ObservationNormalizer(learner, policy) if policy.model.normalize_observations else learner


class GAEFeed:
    """A feed of decisions: segments of another feed with advantages and returns, each (row, step) as a row.

    ``log`` is called with the training step and each segment, before its rows come apart.
    """

    def __init__(
        self,
        segments: RolloutFeed,
        gamma: float,
        gae_lambda: float,
        normalizer: NormalizeReward | None = None,
        log: LogSegment = lambda step, rollout: None,
    ):
        self.segments, self.gamma, self.gae_lambda = segments, gamma, gae_lambda
        self.normalizer, self.log = normalizer, log

    def __call__(self, step: int) -> Rollout:
        rollout = self.segments(step)
        self.log(step, rollout)
        reward_BT = self.normalizer(rollout) if self.normalizer else rollout.rewards["reward"]
        return flatten_decisions(with_advantages(rollout, reward_BT, self.gamma, self.gae_lambda))

    def state_dict(self) -> dict[str, Any]:
        normalizer = {"normalizer": self.normalizer.state_dict()} if self.normalizer else {}
        return {"segments": self.segments.state_dict(), **normalizer}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.segments.load_state_dict(state["segments"])
        if self.normalizer:
            self.normalizer.load_state_dict(state["normalizer"])


class NormalizeReward:
    """Divides rewards by the running standard deviation of the discounted return of ``rows`` rows; clips them to
    +-10.
    """

    def __init__(self, rows: int, gamma: float):
        self.gamma, self.return_B = gamma, torch.zeros(rows, dtype=torch.float64)
        self.statistics = RunningMeanStd(1)

    def __call__(self, rollout: Rollout) -> Tensor:
        """Normalized rewards ``[B, T]``, after the segment's returns were added to the statistics."""
        reward_BT, ended_BT = rollout.rewards["reward"], ended(rollout)
        returns = []
        for reward_B, ended_B in zip(reward_BT.double().unbind(1), ended_BT.unbind(1)):
            returns.append(self.return_B * self.gamma + reward_B)
            self.return_B = torch.where(ended_B, 0.0, returns[-1])
        self.statistics.update_statistics(torch.stack(returns, 1).reshape(-1, 1))
        return (reward_BT / (self.statistics.variance + 1e-8).sqrt().to(reward_BT.dtype)).clamp(-10, 10)

    def state_dict(self) -> dict[str, Tensor]:
        return {"return_B": self.return_B, **{name: x.clone() for name, x in self.statistics.state_dict().items()}}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.return_B = state["return_B"]
        self.statistics.load_state_dict({name: x for name, x in state.items() if name != "return_B"})


def with_advantages(rollout: Rollout, reward_BT: Tensor, gamma: float, gae_lambda: float) -> Rollout:
    """The segment with the advantage of each decision and ``extras["return_BT"]``, the critic's target."""
    extras = rollout.extras
    value_BT, terminated_BT = extras["value_BT"], extras["terminated_BT"]
    advantage_BT = gae(reward_BT, value_BT, extras["next_value_BT"], terminated_BT, ended(rollout), gamma, gae_lambda)
    return replace(rollout, advantage_BT=advantage_BT, extras=extras | {"return_BT": advantage_BT + value_BT})


def ended(rollout: Rollout) -> Tensor:
    """Where an episode was terminated or truncated: bool ``[B, T]``."""
    return (rollout.extras["terminated_BT"] > 0) | (rollout.extras["truncated_BT"] > 0)


def advantages_of(rollout: Rollout) -> Tensor:
    """The stored advantages ``[B, T]``. ValueError where there are none."""
    if rollout.advantage_BT is None:
        raise ValueError("the rollout has no advantages")
    return rollout.advantage_BT


def flatten_decisions(rollout: Rollout) -> Rollout:
    """B rows of T decisions as B T rows of one, row after row; the values of a row are repeated for each decision."""
    rows, steps = rollout.logp_BT.shape
    flat = lambda x: x.reshape(rows * steps, 1, *x.shape[2:])
    flat_or_repeated = lambda named: {
        k: flat(x) if k.endswith("_BT") else x.repeat_interleave(steps, 0) for k, x in named.items()
    }
    reward = lambda x: x.reshape(-1) if x.dim() > 1 else x.repeat_interleave(steps)
    repeated = lambda values: [value for value in values for _ in range(steps)]
    outputs = rollout.outputs
    return Rollout(
        problems=repeated(rollout.problems),
        decisions=flat_or_repeated(rollout.decisions),
        outputs=outputs.repeat_interleave(steps, 0) if isinstance(outputs, Tensor) else repeated(outputs),
        logp_BT=flat(rollout.logp_BT),
        mask_BT=flat(rollout.mask_BT),
        group_B=rollout.group_B.repeat_interleave(steps),
        rewards={name: reward(x) for name, x in rollout.rewards.items()},
        advantage_BT=None if rollout.advantage_BT is None else flat(rollout.advantage_BT),
        extras=flat_or_repeated(rollout.extras) | {"length_B": rollout.mask_BT.flatten()},
    )


@dataclass(frozen=True)
class ActorCriticLoss:
    """Mean over decisions of ``surrogate + value_coef (V - R)^2 - entropy_coef H``; reads ``extras["return_BT"]``.

    The value in the error is clipped to ``clip_range_vf`` around the stored ``extras["value_BT"]``, as in
    stable-baselines3. Micro-batches may cut rows and decisions.
    """

    policy: LikelihoodPolicy
    clip_range: float = 0.2
    clip_range_high: float | None = None
    value_coef: float = 0.5
    entropy_coef: float = 0.0
    clip_range_vf: NonNegative | None = None
    surrogate: Surrogate = clipped

    def __call__(self, rollout: Rollout) -> Loss:
        present, mask_BT = self.policy.likelihood(rollout), rollout.mask_BT
        if present.entropy_BT is None:
            raise ValueError("the policy reports no entropy")
        # What is masked may hold anything, infinities too: it is cut out of the inputs, not multiplied by zero.
        error_BT = self.squared_error(present, rollout)
        parts = present.logp_BT, rollout.logp_BT, advantages_of(rollout), error_BT, present.entropy_BT
        logp_BT, old_BT, advantage_BT, error_BT, entropy_BT = (torch.where(mask_BT > 0, x, 0.0) for x in parts)
        arguments = logp_BT, old_BT, advantage_BT, self.clip_range, self.clip_range_high
        term_BT = self.surrogate(*arguments) + self.value_coef * error_BT - self.entropy_coef * entropy_BT
        metrics = {
            "clipped": clip_fraction(*arguments),
            "kl": k3(old_BT, logp_BT),
            "entropy": entropy_BT,
            "value_error": error_BT,
        }
        sums = {name: (mask_BT * metric.detach()).sum() for name, metric in metrics.items()}
        return Loss((mask_BT * term_BT).sum(), mask_BT.sum(), sums)

    def squared_error(self, present: Likelihood, rollout: Rollout) -> Tensor:
        """Squared error of each value: ``[B, T]``."""
        return_BT, value_BT = rollout.extras["return_BT"], present.value_BT
        if value_BT is None:
            raise ValueError("the policy reports no values")
        if self.clip_range_vf is not None:
            old_BT = rollout.extras["value_BT"]
            value_BT = old_BT + (value_BT - old_BT).clamp(-self.clip_range_vf, self.clip_range_vf)
        return (value_BT - return_BT) ** 2


def normalize_advantages(rollout: Rollout, all_sum: Callable[[Tensor], Tensor] = lambda x: x) -> Rollout:
    """The same decisions with advantages of mean 0 and standard deviation 1 (n - 1) over those whose mask is 1, in all
    processes.
    """
    mask_BT = rollout.mask_BT
    advantage_BT = torch.where(mask_BT > 0, advantages_of(rollout), 0.0)
    count = all_sum(mask_BT.sum()).clamp(min=1)
    centred_BT = advantage_BT - all_sum((mask_BT * advantage_BT).sum()) / count
    std = (all_sum((mask_BT * centred_BT**2).sum()) / (count - 1).clamp(min=1)).sqrt()
    return replace(rollout, advantage_BT=centred_BT / (std + 1e-8))


class ObservationNormalizer:
    """A learner after which the policy's running means take in the observations of the batch: acting and replay of a
    segment then normalize alike.
    """

    def __init__(self, learner: Learner, policy: ActorCritic):
        self.learner, self.policy = learner, policy

    def update(self, batch: Rollout) -> dict[str, float]:
        metrics = self.learner.update(batch)
        self.policy.update_statistics(batch)
        return metrics

    def state_dict(self) -> Mapping[str, Any]:
        return self.learner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.learner.load_state_dict(state)
