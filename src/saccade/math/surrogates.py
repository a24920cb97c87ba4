"""Policy-gradient losses on stored decisions, and the weights of their terms.

Clipped surrogate: PPO 1707.06347, with DAPO's separate upper range 2503.14476 and the dual clip of 1912.09729.
CISPO: 2506.13585. Ratios of rows: GSPO 2507.18071. Weights: the aggregations of the GRPO family (token mean,
sequence mean, constant 2503.20783, sequence sum).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from saccade.math.exponential import bounded_exp

Surrogate = Callable[[Tensor, Tensor, Tensor, float, float | None], Tensor]
"""logp, old, advantage (one shape), low, high -> a loss of that shape; ``high`` None is ``low``."""


def clipped(logp: Tensor, old: Tensor, advantage: Tensor, low: float, high: float | None = None) -> Tensor:
    """max(-A rho, -A clip(rho, 1 - low, 1 + high)), rho = exp(logp - old): a loss of the same shape."""
    ratio = bounded_exp(logp - old)
    return torch.maximum(-advantage * ratio, -advantage * _bounded(ratio, low, high))


def dual_clipped(
    logp: Tensor, old: Tensor, advantage: Tensor, low: float, high: float | None = None, bound: float = 3.0
) -> Tensor:
    """As `clipped`, but where A < 0 at most -A ``bound``: the loss of a bad decision with a large ratio is bounded."""
    loss = clipped(logp, old, advantage, low, high)
    return torch.where(advantage < 0, torch.minimum(loss, -advantage * bound), loss)


def cispo(logp: Tensor, old: Tensor, advantage: Tensor, low: float, high: float | None = None) -> Tensor:
    """-stop_gradient(clip(rho, 1 - low, 1 + high)) A logp: the weight is bounded, every decision keeps its gradient.

    ``low`` 1 leaves the weight unbounded from below; a cap of 5 is ``high`` 4.
    """
    weight = _bounded(bounded_exp(logp - old), low, high).detach()
    return -weight * advantage * logp


def clip_fraction(logp: Tensor, old: Tensor, advantage: Tensor, low: float, high: float | None = None) -> Tensor:
    """1 where the ratio is outside of its range in the direction of the advantage, else 0.

    There `clipped` and `dual_clipped` have no gradient and `cispo` bounds its weight.
    """
    ratio = bounded_exp(logp - old)
    above = (ratio > 1 + (low if high is None else high)) & (advantage > 0)
    return (above | ((ratio < 1 - low) & (advantage < 0))).to(logp.dtype)


def ratio_logprobs(
    logp_BT: Tensor, old_BT: Tensor, mask_BT: Tensor, length_B: Tensor, level: str
) -> tuple[Tensor, Tensor]:
    """The log-probs whose difference is the log-ratio of each decision: two ``[B, T]``.

    "decision": unchanged (PPO). "row": their means over the row, one ratio for all its decisions (GSPO).
    "row_decision": the value of the row's ratio, with the gradient of the decision's log-prob, so that advantages may
    differ within a row (GSPO-token). ValueError if some of a row's decisions were cut off.
    """
    if level == "decision":
        return logp_BT, old_BT
    if level not in ("row", "row_decision"):
        raise ValueError(f"unknown ratio '{level}': one of decision, row, row_decision")
    row_BT, old_row_BT = (_row_mean(x, mask_BT, length_B) for x in (logp_BT, old_BT))
    if level == "row_decision":
        row_BT = row_BT.detach() + logp_BT - logp_BT.detach()
    return row_BT, old_row_BT


def decision_weight(mask_BT: Tensor, length_B: Tensor, average: str, max_length: int | None = None) -> Tensor:
    """Weight of each decision in the sum ``[B, T]``; ``length_B`` counts a row's decisions before any cut.

    "decisions": equal weight of decisions (token mean). "rows": equal weight of rows (mean of the rows' means).
    "constant": a row has the weight length / ``max_length``, a constant of the run (Dr. GRPO). "sum": a row has its
    length as weight.
    """
    if average in ("decisions", "sum"):
        return mask_BT
    if average == "rows":
        return mask_BT / length_B[:, None].clamp(min=1)
    if average == "constant":
        if not max_length:
            raise ValueError("average 'constant' needs `max_length`, the length of the longest row that the run allows")
        return mask_BT / float(max_length)
    raise ValueError(f"unknown average '{average}': one of decisions, rows, constant, sum")


def mean_weight(mask_BT: Tensor, length_B: Tensor, average: str) -> Tensor:
    """Weights of the plain mean, over decisions or over rows, that goes with an average: ``[B, T]``.

    A weighted sum is divided by their sum, which adds up over cuts by rows and by decisions.
    """
    return decision_weight(mask_BT, length_B, "decisions" if average == "decisions" else "rows")


def _bounded(ratio: Tensor, low: float, high: float | None) -> Tensor:
    return ratio.clamp(1 - low, 1 + (low if high is None else high))


def _row_mean(values_BT: Tensor, mask_BT: Tensor, length_B: Tensor) -> Tensor:
    """The mean over the decisions of each row, broadcast to all of them."""
    count_B = mask_BT.sum(1)
    cut_B = (count_B > 0) & (count_B != length_B)
    if cut_B.any():
        have, of = int(count_B[cut_B][0]), int(length_B[cut_B][0])
        raise ValueError(
            f"the ratio of a row needs all its {of} decisions and {have} are here; cut batches by rows alone"
        )
    return ((values_BT * mask_BT).sum(1) / count_B.clamp(min=1))[:, None].expand_as(values_BT)
