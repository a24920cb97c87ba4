"""A critic taught what pictures show: cross-entropy of its logits with what is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.core import Loss, Rollout


@dataclass(frozen=True)
class Recognition:
    """-sum_k [y_k log p_k + (1 - y_k) log(1 - p_k)], p = sigmoid of ``critic(pictures)``, y = ``rollout.extras["present_B"]``.

    A mean over pictures. Metric: the share of kinds present that have p > 1/2, "found".
    """

    critic: Callable[[Tensor], Tensor]

    def __call__(self, rollout: Rollout) -> Loss:
        logit_BK, present_BK = self.critic(rollout.outputs), rollout.extras["present_B"]
        loss = F.binary_cross_entropy_with_logits(logit_BK, present_BK, reduction="sum")
        found_B = ((logit_BK.detach() > 0) * present_BK).sum(1) / present_BK.sum(1).clamp(min=1)
        return Loss(loss, torch.tensor(float(len(rollout))), {"found": found_B.sum()})
