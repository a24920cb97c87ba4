"""Actor-critic learning from memory, one family: SAC, TD3, REDQ and RLPD are values of the fields of `OffPolicy`.

    y    = r + discount (reduce_{k in subset} Q'_k(s', a') - [entropy in backup] alpha log pi(a' | s'))
    L_Q  = 1/2 sum_k (Q_k(s, a) - y)^2
    L_pi = alpha log pi(a | s) - reduce_k Q_k(s, a)        a reparametrised, alpha and Q held
    L_alpha = -log alpha (log pi(a | s) + H)               H the target entropy

SAC 1812.05905, TD3 1802.09477 (a' the determined action with clipped noise), REDQ 2101.05982, RLPD 2302.02948.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from saccade.core import Loss, Rollout
from saccade.math import draws
from saccade.models.ensemble import Critics
from saccade.objectives.lagrange import Multiplier
from saccade.policies.actors import Actor

_NOISE, _MEMBERS = 1, 2
"""Streams of a row's random numbers."""


@dataclass(frozen=True)
class OffPolicy:
    """What the members of the family differ in; the defaults are SAC's."""

    critics: int = 2
    """Networks N in the ensemble."""
    subset: int = 2
    """Random members M whose least value is the target; N takes all."""
    actor_value: Literal["min", "mean", "first"] = "min"
    """What of the members' values the actor raises."""
    entropy_in_backup: bool = True
    """Whether the entropy of what comes next counts in the target."""
    target_entropy: float = -1.0
    """Entropy that the temperature holds, for each dimension of the action."""
    critic_norm: bool = False
    """LayerNorm in the critics."""
    smoothing: float = 0.0
    """Spread of the noise on the next action in the target (TD3), cut off at ``smoothing_clip``."""
    smoothing_clip: float = 0.5
    gamma: float = 0.99
    """Discount."""
    n_step: int = 1
    """Rewards before the bootstrap."""
    tau: float = 0.005
    """How far the target networks follow at each critic step."""
    updates: int = 1
    """Critic steps for each step of the environments."""
    actor_every: int = 1
    """Critic steps for each step of the actor."""
    offline_share: float = 0.0
    """Part of every batch that is from recorded data."""


SAC = OffPolicy()
TD3 = OffPolicy(actor_value="first", entropy_in_backup=False, smoothing=0.2, actor_every=2)
REDQ = OffPolicy(critics=10, actor_value="mean", updates=20, actor_every=20)
RLPD = OffPolicy(
    critics=10, actor_value="mean", critic_norm=True, target_entropy=-0.5, updates=20, actor_every=20, offline_share=0.5
)

REDUCED: dict[str, Callable[[Tensor], Tensor]] = {
    "min": lambda value_NB: value_NB.amin(0) if len(value_NB) != 2 else torch.minimum(value_NB[0], value_NB[1]),
    "mean": lambda value_NB: value_NB.mean(0),
    "first": lambda value_NB: value_NB[0],
}


@dataclass(frozen=True, eq=False)
class CriticLoss:
    """L_Q on transitions as `Buffer.sample` gives them; ``target`` are the slow critics, ``temperature`` None is alpha = 0.

    Members of the subset are drawn from the seed of the first row: with a subset, rows are not to be cut into micro-batches.
    """

    actor: Actor
    critics: Critics
    target: Critics
    how: OffPolicy
    temperature: Multiplier | None = None

    def __call__(self, rollout: Rollout) -> Loss:
        target_B = self.backup(rollout)
        value_NB = self.critics(seen(rollout), action(rollout))
        error_NB = value_NB - target_B
        metrics = {"value": value_NB.detach().mean(0).sum(), "target": target_B.sum()}
        return Loss(0.5 * error_NB.square().sum(), _count(rollout, target_B), metrics)

    @torch.no_grad()
    def backup(self, rollout: Rollout) -> Tensor:
        """y: ``[B]``."""
        after, reward_B = seen(rollout, "next"), rollout.rewards["reward"]
        draw_BA = noise(rollout)[1]
        action_BA, logp_B = self.actor.propose(after, draw_BA)
        if self.how.smoothing:
            clip = self.how.smoothing_clip
            action_BA = (action_BA + (self.how.smoothing * draw_BA).clamp(-clip, clip)).clamp(-1, 1)
        value_B = REDUCED["min"](self.target(after, action_BA, members(rollout, self.how)))
        if self.temperature is not None and self.how.entropy_in_backup:
            value_B = value_B - self.temperature.value * logp_B
        return reward_B + rollout.extras["discount_B"] * value_B


@dataclass(frozen=True, eq=False)
class ActorLoss:
    """L_pi and, with a ``temperature``, L_alpha of the same actions: neither's gradient reaches the other's weights.

    No gradient is meant for the critics: the `Update` that has this loss names the weights of actor and temperature alone.
    """

    actor: Actor
    critics: Critics
    how: OffPolicy
    temperature: Multiplier | None = None

    def __call__(self, rollout: Rollout) -> Loss:
        now, draw_BA = seen(rollout), noise(rollout)[0]
        action_BA, logp_B = self.actor.propose(now, draw_BA)
        value_B = REDUCED[self.how.actor_value](self.critics(now, action_BA))
        count, entropy = _count(rollout, value_B), -logp_B.detach().sum()
        if self.temperature is None:
            return Loss(-value_B.sum(), count)
        alpha = self.temperature.value.detach()
        excess_B = logp_B + self.how.target_entropy * draw_BA.shape[-1]
        total = (alpha * logp_B - value_B).sum() + self.temperature.loss(excess_B).sum()
        return Loss(total, count, {"entropy": entropy, "temperature": alpha * count})


def seen(rollout: Rollout, when: Literal["seen", "next"] = "seen") -> dict[str, Tensor]:
    """What is seen at a transition, or after it, by name: ``[B, ...]``."""
    start = f"{when}."
    return {k.removeprefix(start).removesuffix("_B"): v for k, v in rollout.decisions.items() if k.startswith(start)}


def action(rollout: Rollout) -> Tensor:
    """The action that was taken: ``[B, A]``."""
    return rollout.decisions["action_BT"][:, 0]


def noise(rollout: Rollout) -> Tensor:
    """Standard normal draws of the present actions and of the next ones: ``[2, B, A]``, each row's from its seed."""
    taken = action(rollout)
    return draws.normal(rollout.extras["seed_B"], (2, *taken.shape[1:]), _NOISE).transpose(0, 1).to(taken)


def members(rollout: Rollout, how: OffPolicy) -> Tensor | None:
    """The critics whose least value is the target ``[M]``, from the first row's seed; None if all are."""
    if how.subset >= how.critics:
        return None
    return draws.uniform(rollout.extras["seed_B"][:1], (how.critics,), _MEMBERS)[0].argsort()[: how.subset]


def _count(rollout: Rollout, like_B: Tensor) -> Tensor:
    return like_B.new_tensor(float(len(rollout)))
