"""Policy-gradient losses on stored decisions, and how their terms are weighed.

Clipped surrogate: PPO 1707.06347, with DAPO's separate upper range 2503.14476. Weights: the five aggregations of the
GRPO family (token mean, sequence mean, constant, sequence sum).
"""

from __future__ import annotations

import torch
from torch import Tensor


def clipped(logp: Tensor, old: Tensor, advantage: Tensor, low: float, high: float | None = None) -> Tensor:
    """max(-A rho, -A clip(rho, 1 - low, 1 + high)), rho = exp(logp - old): a loss of the same shape."""
    ratio = (logp - old).exp()
    bounded = ratio.clamp(1 - low, 1 + (low if high is None else high))
    return torch.maximum(-advantage * ratio, -advantage * bounded)


def clipped_share(logp: Tensor, old: Tensor, advantage: Tensor, low: float, high: float | None = None) -> Tensor:
    """1 where the clip acts (the gradient is cut), else 0."""
    ratio = (logp - old).exp()
    above = (ratio > 1 + (low if high is None else high)) & (advantage > 0)
    return (above | ((ratio < 1 - low) & (advantage < 0))).to(logp.dtype)


def decision_weight(mask_BT: Tensor, length_B: Tensor, average: str, longest: int | None = None) -> Tensor:
    """What each decision weighs in the sum: ``[B, T]``; ``length_B`` counts a row's own decisions before any cut.

    "decisions": every decision alike (token mean). "rows": every row alike (mean of the row's mean).
    "constant": a row weighs its length over ``longest`` (Dr. GRPO).
    """
    if average == "decisions":
        return mask_BT
    if average == "rows":
        return mask_BT / length_B[:, None].clamp(min=1)
    if average == "constant":
        return mask_BT / float(longest or mask_BT.shape[1])
    raise ValueError(f"unknown average '{average}': one of decisions, rows, constant")


def weight_count(weight_BT: Tensor, mask_BT: Tensor, length_B: Tensor, average: str) -> Tensor:
    """What the weighted sum is divided by; adds up over cuts by rows and by decisions."""
    if average == "constant":
        return (mask_BT / length_B[:, None].clamp(min=1)).sum()
    return weight_BT.sum()
