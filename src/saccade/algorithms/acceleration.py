"""The one place where the hand-written gradients of `saccade.algorithms.fast` are chosen.

Each function falls back where they do not apply: for networks that they do not cover, in distributed training, and
where that folder is deleted. The generic learners make the same updates within rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from saccade.core import Learner
from saccade.policies.actor_critic import ActorCritic
from saccade.training import distributed
from saccade.training.settings import AdamW

if TYPE_CHECKING:
    from saccade.algorithms.off_policy import Agent, OffPolicy
    from saccade.algorithms.ppo import PPO


def accelerate(policy: ActorCritic) -> ActorCritic:
    """The same policy, with ``fused`` networks where they apply; its weights are then views of one vector."""
    try:
        from saccade.algorithms.fast.fused_actor_critic import fuse
    except ModuleNotFoundError:
        return policy
    policy.fused = fuse(policy)
    return policy


def ppo_learner(
    cfg: PPO, policy: ActorCritic, optim: AdamW, minibatches: int, optimizer_steps: int, seed: int
) -> Learner | None:
    """The learner of a policy with fused networks; None where the generic one is needed."""
    try:
        from saccade.algorithms.fast.ppo import analytic_learner
    except ModuleNotFoundError:
        return None
    if distributed.world() > 1:
        return None
    return analytic_learner(cfg, policy, optim, minibatches, optimizer_steps, seed)


def off_policy_learner(agent: Agent, algo: OffPolicy, optim: AdamW) -> Learner | None:
    """The learner of a squashed Gaussian actor on vectors; None where the generic one is needed."""
    try:
        from saccade.algorithms.fast.off_policy import analytic_learner
    except ModuleNotFoundError:
        return None
    if distributed.world() > 1:
        return None
    return analytic_learner(agent, algo, optim)
