"""From segments of experience to single decisions with credit: what a learner shuffles that has a critic.

GAE 1506.02438. Rewards may be scaled by the running spread of the discounted return, as is usual where their size is arbitrary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from saccade.core import Rollout
from saccade.math.values import gae
from saccade.models.control import Standardise


class Credited:
    """A feed of decisions: segments of another feed with advantages and returns, each (row, step) a row of one decision.

    ``tell`` is called with the training step and each segment, before its rows come apart: that is where finished episodes are told of.
    """

    def __init__(
        self,
        segments: Callable[[int], Rollout],
        gamma: float,
        lam: float,
        scale: RewardScale | None = None,
        tell: Callable[[int, Rollout], None] = lambda step, rollout: None,
    ):
        self.segments, self.gamma, self.lam, self.scale, self.tell = segments, gamma, lam, scale, tell

    def __call__(self, step: int) -> Rollout:
        rollout = self.segments(step)
        self.tell(step, rollout)
        reward_BT = self.scale(rollout) if self.scale else rollout.rewards["reward"]
        return each_decision(credited(rollout, reward_BT, self.gamma, self.lam))

    def state_dict(self) -> dict[str, Any]:
        scale = {"scale": self.scale.state_dict()} if self.scale else {}
        return {"segments": self.segments.state_dict(), **scale}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.segments.load_state_dict(state["segments"])
        if self.scale:
            self.scale.load_state_dict(state["scale"])


class RewardScale:
    """Divides rewards by the running spread of the discounted return of ``rows`` rows, and clips them to +-10."""

    def __init__(self, rows: int, gamma: float):
        self.gamma, self.return_B, self.spread = gamma, torch.zeros(rows, dtype=torch.float64), Standardise(1)

    def __call__(self, rollout: Rollout) -> Tensor:
        """``[B, T]``, after the segment's own rewards were taken into the spread."""
        reward_BT, ended_BT = rollout.rewards["reward"], ended(rollout)
        found = []
        for reward_B, ended_B in zip(reward_BT.double().unbind(1), ended_BT.unbind(1)):
            found.append(self.return_B * self.gamma + reward_B)
            self.return_B = torch.where(ended_B, 0.0, found[-1])
        self.spread.follow(torch.stack(found, 1).reshape(-1, 1))
        return (reward_BT / (self.spread.variance + 1e-8).sqrt().to(reward_BT.dtype)).clamp(-10, 10)

    def state_dict(self) -> dict[str, Tensor]:
        return {"return_B": self.return_B, **{name: x.clone() for name, x in self.spread.state_dict().items()}}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.return_B = state["return_B"]
        self.spread.load_state_dict({name: x for name, x in state.items() if name != "return_B"})


def credited(rollout: Rollout, reward_BT: Tensor, gamma: float, lam: float) -> Rollout:
    """The segment with the advantage of each decision and, as ``extras["return_BT"]``, what its state was worth after all."""
    extras = rollout.extras
    value_BT, terminated_BT = extras["value_BT"], extras["terminated_BT"]
    advantage_BT = gae(reward_BT, value_BT, extras["next_value_BT"], terminated_BT, ended(rollout), gamma, lam)
    return replace(rollout, advantage_BT=advantage_BT, extras=extras | {"return_BT": advantage_BT + value_BT})


def ended(rollout: Rollout) -> Tensor:
    """Where an episode ended, one way or the other: bool ``[B, T]``."""
    return (rollout.extras["terminated_BT"] > 0) | (rollout.extras["truncated_BT"] > 0)


def each_decision(rollout: Rollout) -> Rollout:
    """B rows of T decisions as B T rows of one, row after row; what belonged to a row now belongs to each of its decisions."""
    rows, width = rollout.logp_BT.shape
    apart = lambda x: x.reshape(rows * width, 1, *x.shape[2:])
    spread = lambda named: {k: apart(x) if k.endswith("_BT") else x.repeat_interleave(width, 0) for k, x in named.items()}
    reward = lambda x: x.reshape(-1) if x.dim() > 1 else x.repeat_interleave(width)
    repeated = lambda values: [value for value in values for _ in range(width)]
    return Rollout(
        problems=repeated(rollout.problems),
        decisions=spread(rollout.decisions),
        outputs=rollout.outputs.repeat_interleave(width, 0) if isinstance(rollout.outputs, Tensor) else repeated(rollout.outputs),
        logp_BT=apart(rollout.logp_BT),
        mask_BT=apart(rollout.mask_BT),
        group_B=rollout.group_B.repeat_interleave(width),
        rewards={name: reward(x) for name, x in rollout.rewards.items()},
        advantage_BT=None if rollout.advantage_BT is None else apart(rollout.advantage_BT),
        extras=spread(rollout.extras) | {"length_B": rollout.mask_BT.flatten()},
    )
