"""Symmetry augmentation: decisions with left and right exchanged, as further decisions to learn from.

A mirrored decision was never sampled, so its log-probability and value are computed by the policy: in the first update
its ratio is 1, and its advantage is that of the mirrored rewards. The environment is not stepped again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from saccade.core import LikelihoodPolicy, Rollout, RolloutFeed
from saccade.training.feeds import join

SymmetryMap = Mapping[str, Callable[[Tensor], Tensor]]
"""Names of decisions ("observation.image_BT", "action_BT") -> the function that mirrors them; others do not change."""


@torch.no_grad()
def mirror_rollout(rollout: Rollout, policy: LikelihoodPolicy, symmetry: SymmetryMap) -> Rollout:
    """The mirrored segments: the same rewards, log-probabilities and values by the present weights.

    The value after a decision is that of the next one; at ends, whose last observation is not stored, and behind the
    segment the unmirrored value takes its place. ValueError for a map of decisions that are not there.
    """
    missing = [name for name in symmetry if name not in rollout.decisions]
    if missing:
        raise ValueError(f"there is no {missing[0]!r} to mirror; there are {', '.join(sorted(rollout.decisions))}")
    decisions = {name: symmetry[name](x) if name in symmetry else x for name, x in rollout.decisions.items()}
    mirrored = replace(rollout, decisions=decisions, outputs=[[] for _ in rollout.problems])
    parts = [policy.likelihood(mirrored.rows(torch.tensor([row]))) for row in range(len(mirrored))]
    logp_BT, value_BT = (torch.cat([getattr(part, name) for part in parts]).cpu() for name in ("logp_BT", "value_BT"))
    ended_BT = (rollout.extras["terminated_BT"] > 0) | (rollout.extras["truncated_BT"] > 0)
    ended_BT = torch.cat([ended_BT[:, :-1], torch.ones_like(ended_BT[:, -1:])], 1)
    next_value_BT = torch.where(ended_BT, rollout.extras["next_value_BT"], value_BT.roll(-1, 1))
    values = {"value_BT": value_BT, "next_value_BT": next_value_BT}
    return replace(mirrored, logp_BT=logp_BT, extras=rollout.extras | values)


class SymmetryAugmentedFeed:
    """A feed of segments and their mirror images, B rows of each."""

    def __init__(self, segments: RolloutFeed, policy: LikelihoodPolicy, symmetry: SymmetryMap):
        self.segments, self.policy, self.symmetry = segments, policy, symmetry

    def __call__(self, step: int) -> Rollout:
        rollout = self.segments(step)
        return join([rollout, mirror_rollout(rollout, self.policy, self.symmetry)])

    def state_dict(self) -> Mapping[str, Any]:
        return self.segments.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.segments.load_state_dict(state)
