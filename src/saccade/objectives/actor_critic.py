"""PPO: a surrogate on stored decisions, the error of the critic, and a reward for staying undecided.

PPO 1707.06347. Advantages are standardised over each minibatch before it is cut (`normalised`, an update's ``prepare``), so that
micro-batches still add up to the gradient of the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from saccade.core import Likelihood, Loss, Policy, Rollout
from saccade.math.divergence import k3
from saccade.math.surrogates import Surrogate, clipped, clipped_share


@dataclass(frozen=True)
class ActorCriticLoss:
    """Mean over decisions of ``surrogate + value (V - R)^2 - entropy H``; reads ``extras["return_BT"]``.

    ``clip_value`` bounds how far a value may move from the stored ``extras["value_BT"]``: the larger error of the two counts.
    Micro-batches may cut rows and decisions.
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
        metrics = {"clipped": clipped_share(*compared), "kl": k3(old_BT, logp_BT), "entropy": entropy_BT, "value_error": error_BT}
        return Loss((mask_BT * term_BT).sum(), mask_BT.sum(), {k: (mask_BT * m.detach()).sum() for k, m in metrics.items()})

    def error(self, seen: Likelihood, rollout: Rollout) -> Tensor:
        """Squared error of each value: ``[B, T]``."""
        return_BT, value_BT = rollout.extras["return_BT"], seen.value_BT
        error_BT = (value_BT - return_BT) ** 2
        if self.clip_value is None:
            return error_BT
        old_BT = rollout.extras["value_BT"]
        near_BT = old_BT + (value_BT - old_BT).clamp(-self.clip_value, self.clip_value)
        return torch.maximum(error_BT, (near_BT - return_BT) ** 2)


def normalised(rollout: Rollout, all_sum: Callable[[Tensor], Tensor] = lambda x: x) -> Rollout:
    """The same decisions with advantages of mean 0 and spread 1 (n - 1) over those whose mask is 1, in all processes."""
    mask_BT = rollout.mask_BT
    advantage_BT = torch.where(mask_BT > 0, rollout.advantage_BT, 0.0)
    count = all_sum(mask_BT.sum())
    centred_BT = advantage_BT - all_sum((mask_BT * advantage_BT).sum()) / count
    spread = (all_sum((mask_BT * centred_BT**2).sum()) / (count - 1).clamp(min=1)).sqrt()
    return replace(rollout, advantage_BT=centred_BT / (spread + 1e-8))
