"""Learning given answers: their negative log-likelihood under a policy, -log pi(answer | question).

With texts from `policies.dictation.dictated` this is supervised fine-tuning: teacher-forced, the answer's tokens and its end
token alone. Any rollout will do, so the best of a policy's own attempts can be learnt too (rejection sampling, RAFT).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from saccade.core import Loss, Policy, Rollout
from saccade.math.surrogates import decision_weight, mean_weight


@dataclass(frozen=True)
class Supervised:
    """Mean of -log pi over the decisions whose mask is 1; neither the stored log-probs nor any credit is read.

    ``average``: "decisions" (each token alike, the usual one), "rows" (each answer alike), "constant" (over ``longest``) or
    "sum". Micro-batches may cut rows and decisions. Metrics: the mean probability of a token, and the entropy.
    """

    policy: Policy
    average: str = "decisions"
    longest: int | None = None

    def __call__(self, rollout: Rollout) -> Loss:
        seen = self.policy.likelihood(rollout)
        own, length_B = rollout.mask_BT > 0, rollout.extras["length_B"].to(seen.logp_BT.device)
        logp = torch.where(own, seen.logp_BT, 0.0)
        weight = decision_weight(rollout.mask_BT, length_B, self.average, self.longest)
        share = mean_weight(rollout.mask_BT, length_B, self.average)
        metrics = {"probability": logp.exp()} | ({} if seen.entropy_BT is None else {"entropy": seen.entropy_BT})
        return Loss(-(weight * logp).sum(), share.sum(), {k: (share * m.detach()).sum() for k, m in metrics.items()})
