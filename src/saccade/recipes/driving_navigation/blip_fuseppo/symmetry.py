"""Experience seen in a mirror: what was decided, with left and right exchanged, as further decisions to learn from.

A mirrored decision was never drawn, so its log-prob and its value are asked of the policy: in the first update its
ratio is 1, and its credit is that of the mirrored rewards. Nothing is stepped twice and no clock runs twice as fast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from saccade.core import Policy, Rollout
from saccade.training.feeds import join

SymmetryMap = Mapping[str, Callable[[Tensor], Tensor]]
"""Decisions by name ("seen.image_BT", "action_BT") -> what they are in the mirror; what is not named stays as it is."""


@torch.no_grad()
def mirror_rollout(rollout: Rollout, policy: Policy, flips: SymmetryMap) -> Rollout:
    """The segments as a mirror shows them, the same rewards, log-probs and values by the present weights.

    What a decision led to is valued as the next one is; at ends, where what was seen last is not stored, and behind the
    segment the unmirrored value stands in. ValueError for a flip of what is not there.
    """
    missing = [name for name in flips if name not in rollout.decisions]
    if missing:
        raise ValueError(f"there is no {missing[0]!r} to mirror; there are {', '.join(sorted(rollout.decisions))}")
    decisions = {name: flips[name](value) if name in flips else value for name, value in rollout.decisions.items()}
    shown = replace(rollout, decisions=decisions, outputs=[[] for _ in rollout.problems])
    parts = [policy.likelihood(shown.rows(torch.tensor([row]))) for row in range(len(shown))]
    logp_BT, value_BT = (torch.cat([getattr(part, name) for part in parts]).cpu() for name in ("logp_BT", "value_BT"))
    ended_BT = (rollout.extras["terminated_BT"] > 0) | (rollout.extras["truncated_BT"] > 0)
    ended_BT = torch.cat([ended_BT[:, :-1], torch.ones_like(ended_BT[:, -1:])], 1)
    after_BT = torch.where(ended_BT, rollout.extras["next_value_BT"], value_BT.roll(-1, 1))
    return replace(shown, logp_BT=logp_BT, extras=rollout.extras | {"value_BT": value_BT, "next_value_BT": after_BT})


class SymmetryAugmentedFeed:
    """A feed of segments and of what they are in the mirror."""

    def __init__(self, segments: Any, policy: Policy, flips: SymmetryMap):
        self.segments, self.policy, self.flips = segments, policy, flips

    def __call__(self, step: int) -> Rollout:
        rollout = self.segments(step)
        return join([rollout, mirror_rollout(rollout, self.policy, self.flips)])

    def state_dict(self) -> Mapping[str, Any]:
        return self.segments.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.segments.load_state_dict(state)
