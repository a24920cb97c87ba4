"""PPO as one choice of parts: segments with credit, the loss of actor and critic, and the learner that suits the networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch

from saccade.core import Environment, Rollout
from saccade.objectives.actor_critic import ActorCriticLoss, normalised
from saccade.objectives.actor_critic_by_hand import ByHand, fits
from saccade.policies.control import ActorCritic
from saccade.sampling.decisions import Credited, RewardScale
from saccade.sampling.episodes import Segments
from saccade.sampling.mirroring import Flips, mirrored
from saccade.training import distributed
from saccade.training.feeds import join
from saccade.training.flat import FlatUpdates
from saccade.training.learner import Update, Updates


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


class Learner(Protocol):
    """What the loop needs of a learner."""

    def update(self, batch: Rollout) -> dict[str, float]: ...

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Following:
    """A learner after which the policy takes what was seen into its running means, so that acting and replay see the same."""

    def __init__(self, learner: Learner, policy: ActorCritic):
        self.learner, self.policy = learner, policy

    def update(self, batch: Rollout) -> dict[str, float]:
        metrics = self.learner.update(batch)
        self.policy.follow(batch)
        return metrics

    def state_dict(self) -> Mapping[str, Any]:
        return self.learner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.learner.load_state_dict(state)


def feed(
    cfg: Proximal, environment: Environment, policy: ActorCritic, seed: int, tell: Tell = lambda s, r: None, flips: Flips | None = None
) -> Credited:
    """Segments of what the policy does in the environment, as decisions with advantages and returns.

    With ``flips`` each segment is followed by its mirror image, as so many rows more.
    """
    segments = Segments(environment, policy, cfg.length, seed)
    scale = RewardScale(environment.count * (1 + bool(flips)), cfg.gamma) if cfg.scale_rewards else None
    return Credited(Mirroring(segments, policy, flips) if flips else segments, cfg.gamma, cfg.lam, scale, tell)


class Mirroring:
    """A feed of segments and of what they are in the mirror."""

    def __init__(self, segments: Segments, policy: ActorCritic, flips: Flips):
        self.segments, self.policy, self.flips = segments, policy, flips

    def __call__(self, step: int) -> Rollout:
        rollout = self.segments(step)
        return join([rollout, mirrored(rollout, self.policy, self.flips)])

    def state_dict(self) -> Mapping[str, Any]:
        return self.segments.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.segments.load_state_dict(state)


def learner(cfg: Proximal, policy: ActorCritic, rows: int, steps: int, seed: int) -> Learner:
    """Learns from ``steps`` segments of ``rows`` rows; written out where the networks allow it, the same steps within rounding."""
    loss = ActorCriticLoss(policy, cfg.clip, value=cfg.value, entropy=cfg.entropy, clip_value=cfg.clip_value)
    parts = minibatches(cfg, rows)
    taken = steps * cfg.epochs * parts
    schedule = (lambda done: 1 - done / taken) if cfg.anneal else None
    if fits(loss) and distributed.world() == 1:
        made: Learner = FlatUpdates(
            "ppo", ByHand(loss), lr=cfg.lr, eps=1e-5, epochs=cfg.epochs, minibatches=parts, max_norm=cfg.max_norm,
            shuffle=seed, schedule=schedule,
        )  # fmt: skip
    else:
        optimizer = torch.optim.Adam(policy.trained, lr=cfg.lr, eps=1e-5, fused=True)
        ready = partial(normalised, all_sum=distributed.all_sum)
        update = Update("ppo", loss, policy.trained, optimizer, max_norm=cfg.max_norm, schedule=schedule, prepare=ready)
        made = Updates([update], epochs=cfg.epochs, minibatches=parts, shuffle=seed)
    return Following(made, policy) if policy.model.standardise else made


def minibatches(cfg: Proximal, rows: int) -> int:
    """Minibatches of an epoch. ValueError if a segment does not fill one."""
    if cfg.minibatch < 2 or rows * cfg.length < cfg.minibatch:
        raise ValueError(f"a minibatch of {cfg.minibatch} is asked of {rows} rows x {cfg.length} decisions: 2 to {rows * cfg.length}")
    return rows * cfg.length // cfg.minibatch
