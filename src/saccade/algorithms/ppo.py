"""PPO (arXiv 1707.06347): segments with generalised advantages, the loss of actor and critic, and the learner."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from saccade.core import Learner, Likelihood, Loss, Policy, Rollout
from saccade.math.kl import k3
from saccade.math.surrogates import Surrogate, clipped, clip_fraction
from saccade.math.values import gae
from saccade.models.control.networks import RunningMeanStd
from saccade.policies.actor_critic import ActorCritic
from saccade.training import distributed
from saccade.training.feeds import Feed
from saccade.training.learner import Update, Updates


class GAEFeed:
    """A feed of decisions: segments of another feed with advantages and returns, each (row, step) a row of one
    decision.

    ``tell`` is called with the training step and each segment, before its rows come apart: that is where finished
    episodes are told of.
    """

    def __init__(
        self,
        segments: Callable[[int], Rollout],
        gamma: float,
        lam: float,
        scale: NormalizeReward | None = None,
        tell: Callable[[int, Rollout], None] = lambda step, rollout: None,
    ):
        self.segments, self.gamma, self.lam, self.scale, self.tell = segments, gamma, lam, scale, tell

    def __call__(self, step: int) -> Rollout:
        rollout = self.segments(step)
        self.tell(step, rollout)
        reward_BT = self.scale(rollout) if self.scale else rollout.rewards["reward"]
        return flatten_decisions(with_advantages(rollout, reward_BT, self.gamma, self.lam))

    def state_dict(self) -> dict[str, Any]:
        scale = {"scale": self.scale.state_dict()} if self.scale else {}
        return {"segments": self.segments.state_dict(), **scale}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.segments.load_state_dict(state["segments"])
        if self.scale:
            self.scale.load_state_dict(state["scale"])


class NormalizeReward:
    """Divides rewards by the running spread of the discounted return of ``rows`` rows, and clips them to +-10."""

    def __init__(self, rows: int, gamma: float):
        self.gamma, self.return_B, self.spread = gamma, torch.zeros(rows, dtype=torch.float64), RunningMeanStd(1)

    def __call__(self, rollout: Rollout) -> Tensor:
        """``[B, T]``, after the segment's own rewards were taken into the spread."""
        reward_BT, ended_BT = rollout.rewards["reward"], ended(rollout)
        found = []
        for reward_B, ended_B in zip(reward_BT.double().unbind(1), ended_BT.unbind(1)):
            found.append(self.return_B * self.gamma + reward_B)
            self.return_B = torch.where(ended_B, 0.0, found[-1])
        self.spread.update_statistics(torch.stack(found, 1).reshape(-1, 1))
        return (reward_BT / (self.spread.variance + 1e-8).sqrt().to(reward_BT.dtype)).clamp(-10, 10)

    def state_dict(self) -> dict[str, Tensor]:
        return {"return_B": self.return_B, **{name: x.clone() for name, x in self.spread.state_dict().items()}}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.return_B = state["return_B"]
        self.spread.load_state_dict({name: x for name, x in state.items() if name != "return_B"})


def with_advantages(rollout: Rollout, reward_BT: Tensor, gamma: float, lam: float) -> Rollout:
    """The segment with the advantage of each decision and, as ``extras["return_BT"]``, what its state was worth
    after all.
    """
    extras = rollout.extras
    value_BT, terminated_BT = extras["value_BT"], extras["terminated_BT"]
    advantage_BT = gae(reward_BT, value_BT, extras["next_value_BT"], terminated_BT, ended(rollout), gamma, lam)
    return replace(rollout, advantage_BT=advantage_BT, extras=extras | {"return_BT": advantage_BT + value_BT})


def ended(rollout: Rollout) -> Tensor:
    """Where an episode ended, one way or the other: bool ``[B, T]``."""
    return (rollout.extras["terminated_BT"] > 0) | (rollout.extras["truncated_BT"] > 0)


def flatten_decisions(rollout: Rollout) -> Rollout:
    """B rows of T decisions as B T rows of one, row after row; what belonged to a row now belongs to each of its
    decisions.
    """
    rows, width = rollout.logp_BT.shape
    apart = lambda x: x.reshape(rows * width, 1, *x.shape[2:])
    spread = lambda named: {
        k: apart(x) if k.endswith("_BT") else x.repeat_interleave(width, 0) for k, x in named.items()
    }
    reward = lambda x: x.reshape(-1) if x.dim() > 1 else x.repeat_interleave(width)
    repeated = lambda values: [value for value in values for _ in range(width)]
    return Rollout(
        problems=repeated(rollout.problems),
        decisions=spread(rollout.decisions),
        outputs=rollout.outputs.repeat_interleave(width, 0)
        if isinstance(rollout.outputs, Tensor)
        else repeated(rollout.outputs),
        logp_BT=apart(rollout.logp_BT),
        mask_BT=apart(rollout.mask_BT),
        group_B=rollout.group_B.repeat_interleave(width),
        rewards={name: reward(x) for name, x in rollout.rewards.items()},
        advantage_BT=None if rollout.advantage_BT is None else apart(rollout.advantage_BT),
        extras=spread(rollout.extras) | {"length_B": rollout.mask_BT.flatten()},
    )


@dataclass(frozen=True)
class ActorCriticLoss:
    """Mean over decisions of ``surrogate + value (V - R)^2 - entropy H``; reads ``extras["return_BT"]``.

    ``clip_value`` bounds how far a value may move from the stored ``extras["value_BT"]``: the larger error of the two
    counts. Micro-batches may cut rows and decisions.
    """

    policy: Policy
    clip: float = 0.2
    clip_high: float | None = None
    value: float = 0.5
    entropy: float = 0.0
    clip_value: float | None = None
    surrogate: Surrogate = clipped

    def __call__(self, rollout: Rollout) -> Loss:
        seen = self.policy.likelihood(rollout)
        mask_BT = rollout.mask_BT
        # What is masked may hold anything, infinities too: it is cut out on the way in, not multiplied by zero.
        parts = seen.logp_BT, rollout.logp_BT, rollout.advantage_BT, self.error(seen, rollout), seen.entropy_BT
        logp_BT, old_BT, advantage_BT, error_BT, entropy_BT = (torch.where(mask_BT > 0, x, 0.0) for x in parts)
        compared = logp_BT, old_BT, advantage_BT, self.clip, self.clip_high
        term_BT = self.surrogate(*compared) + self.value * error_BT - self.entropy * entropy_BT
        metrics = {
            "clipped": clip_fraction(*compared),
            "kl": k3(old_BT, logp_BT),
            "entropy": entropy_BT,
            "value_error": error_BT,
        }
        return Loss(
            (mask_BT * term_BT).sum(), mask_BT.sum(), {k: (mask_BT * m.detach()).sum() for k, m in metrics.items()}
        )

    def error(self, seen: Likelihood, rollout: Rollout) -> Tensor:
        """Squared error of each value: ``[B, T]``."""
        return_BT, value_BT = rollout.extras["return_BT"], seen.value_BT
        error_BT = (value_BT - return_BT) ** 2
        if self.clip_value is None:
            return error_BT
        old_BT = rollout.extras["value_BT"]
        near_BT = old_BT + (value_BT - old_BT).clamp(-self.clip_value, self.clip_value)
        return torch.maximum(error_BT, (near_BT - return_BT) ** 2)


def normalize_advantages(rollout: Rollout, all_sum: Callable[[Tensor], Tensor] = lambda x: x) -> Rollout:
    """The same decisions with advantages of mean 0 and spread 1 (n - 1) over those whose mask is 1, in all
    processes.
    """
    mask_BT = rollout.mask_BT
    advantage_BT = torch.where(mask_BT > 0, rollout.advantage_BT, 0.0)
    count = all_sum(mask_BT.sum())
    centred_BT = advantage_BT - all_sum((mask_BT * advantage_BT).sum()) / count
    spread = (all_sum((mask_BT * centred_BT**2).sum()) / (count - 1).clamp(min=1)).sqrt()
    return replace(rollout, advantage_BT=centred_BT / (spread + 1e-8))


Tell = Callable[[int, Rollout], None]
"""Is given the training step and a segment, with the episodes that ended in it."""


@dataclass(frozen=True)
class Proximal:
    """How PPO learns; the defaults are those of stable-baselines3 for vectors."""

    length: int = 2048
    """Decisions of each row in a segment; a training step is a segment of all rows."""
    epochs: int = 10
    """Times that each decision of a segment is learned from."""
    minibatch: int = 64
    """Decisions of an optimiser step, dealt out at random in each epoch."""
    gamma: float = 0.99
    """Discount of what comes a step later."""
    lam: float = 0.95
    """Of advantages: 0 trusts the critic, 1 the rewards."""
    clip: float = 0.2
    """Range of the probability ratio."""
    clip_value: float | None = None
    """Range that a value may move in, where it is bounded."""
    value: float = 0.5
    """Weight of the critic's squared error."""
    entropy: float = 0.0
    """Weight of the reward for staying undecided."""
    lr: float = 3e-4
    """Learning rate of Adam."""
    anneal: bool = False
    """Whether the learning rate falls to 0 in a line."""
    max_norm: float = 0.5
    """Largest norm of a gradient."""
    scale_rewards: bool = False
    """Whether rewards are divided by the running spread of the discounted return."""


class ObservationNormalizer:
    """A learner after which the policy takes what was seen into its running means, so that acting and replay see the
    same.
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


def feed(cfg: Proximal, segments: Feed, rows: int, tell: Tell = lambda s, r: None) -> GAEFeed:
    """Segments of ``rows`` rows, which another feed hands out, as decisions with advantages and returns."""
    scale = NormalizeReward(rows, cfg.gamma) if cfg.scale_rewards else None
    return GAEFeed(segments, cfg.gamma, cfg.lam, scale, tell)


def learner(cfg: Proximal, policy: ActorCritic, rows: int, steps: int, seed: int) -> Learner:
    """Learns from ``steps`` segments of ``rows`` rows; written out where the networks allow it, the same steps
    within rounding.
    """
    from saccade.algorithms.fast.analytic import AnalyticUpdates
    from saccade.algorithms.fast.ppo import AnalyticPPOGradient, has_analytic_gradient

    loss = ActorCriticLoss(policy, cfg.clip, value=cfg.value, entropy=cfg.entropy, clip_value=cfg.clip_value)
    parts = minibatches(cfg, rows)
    taken = steps * cfg.epochs * parts
    schedule = (lambda done: 1 - done / taken) if cfg.anneal else None
    if has_analytic_gradient(loss) and distributed.world() == 1:
        made: Learner = AnalyticUpdates(
            "ppo", AnalyticPPOGradient(loss), lr=cfg.lr, eps=1e-5, epochs=cfg.epochs, minibatches=parts, max_norm=cfg.max_norm,
            shuffle=seed, schedule=schedule,
        )  # fmt: skip
    else:
        optimizer = torch.optim.Adam(policy.trained, lr=cfg.lr, eps=1e-5, fused=True)
        ready = partial(normalize_advantages, all_sum=distributed.all_sum)
        update = Update("ppo", loss, policy.trained, optimizer, max_norm=cfg.max_norm, schedule=schedule, prepare=ready)
        made = Updates([update], epochs=cfg.epochs, minibatches=parts, shuffle=seed)
    return ObservationNormalizer(made, policy) if policy.model.standardise else made


def minibatches(cfg: Proximal, rows: int) -> int:
    """Minibatches of an epoch. ValueError if a segment does not fill one."""
    if cfg.minibatch < 2 or rows * cfg.length < cfg.minibatch:
        raise ValueError(
            f"a minibatch of {cfg.minibatch} is asked of {rows} rows x {cfg.length} decisions: 2 to {rows * cfg.length}"
        )
    return rows * cfg.length // cfg.minibatch
