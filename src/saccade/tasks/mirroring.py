"""Learning from what was driven and from its mirror image, as decisions with credit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from saccade.core import Environment, Rollout
from saccade.policies.control import ActorCritic
from saccade.sampling.decisions import Credited, RewardScale
from saccade.sampling.episodes import Segments
from saccade.sampling.mirroring import Flips, mirrored
from saccade.tasks.proximal import Proximal
from saccade.training.feeds import join


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


def feed(
    cfg: Proximal, environment: Environment, policy: ActorCritic, seed: int, flips: Flips, tell: Callable[[int, Rollout], None]
) -> Credited:
    """`tasks.proximal.feed` of segments that are followed by their mirror images."""
    scale = RewardScale(2 * environment.count, cfg.gamma) if cfg.scale_rewards else None
    segments = Mirroring(Segments(environment, policy, cfg.length, seed), policy, flips)
    return Credited(segments, cfg.gamma, cfg.lam, scale, tell)
