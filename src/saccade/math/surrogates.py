"""Policy-gradient losses on stored decisions, and how their terms are weighed.

Clipped surrogate: PPO 1707.06347, with DAPO's separate upper range 2503.14476 and the dual clip of 1912.09729.
CISPO: 2506.13585. Ratios of whole rows: GSPO 2507.18071. Weights: the aggregations of the GRPO family (token mean,
sequence mean, constant 2503.20783, sequence sum).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Surrogate = Callable[[Tensor, Tensor, Tensor, float, float | None], Tensor]
"""logp, old, advantage (one shape), low, high -> a loss of that shape; ``high`` None is ``low``."""


def clipped(logp: Tensor, old: Tensor, advantage: Tensor, low: float, high: float | None = None) -> Tensor:
    """max(-A rho, -A clip(rho, 1 - low, 1 + high)), rho = exp(logp - old): a loss of the same shape."""
    ratio = (logp - old).exp()
    return torch.maximum(-advantage * ratio, -advantage * _bounded(ratio, low, high))


def dual_clipped(
    logp: Tensor, old: Tensor, advantage: Tensor, low: float, high: float | None = None, most: float = 3.0
) -> Tensor:
    """As `clipped`, but where A < 0 at most -A ``most``: a bad decision that grew much likelier pulls no further."""
    loss = clipped(logp, old, advantage, low, high)
    return torch.where(advantage < 0, torch.minimum(loss, -advantage * most), loss)


def cispo(logp: Tensor, old: Tensor, advantage: Tensor, low: float, high: float | None = None) -> Tensor:
    """-stop(clip(rho, 1 - low, 1 + high)) A logp: the weight is bounded, no decision loses its gradient.

    ``low`` 1 leaves the weight unbounded from below; a cap of 5 is ``high`` 4.
    """
    weight = _bounded((logp - old).exp(), low, high).detach()
    return -weight * advantage * logp


def clipped_share(logp: Tensor, old: Tensor, advantage: Tensor, low: float, high: float | None = None) -> Tensor:
    """1 where the ratio has left its range on the side that the advantage pushes to, else 0.

    There `clipped` and `dual_clipped` cut the gradient and `cispo` bounds its weight.
    """
    ratio = (logp - old).exp()
    above = (ratio > 1 + (low if high is None else high)) & (advantage > 0)
    return (above | ((ratio < 1 - low) & (advantage < 0))).to(logp.dtype)


def at_level(logp_BT: Tensor, old_BT: Tensor, mask_BT: Tensor, length_B: Tensor, level: str) -> tuple[Tensor, Tensor]:
    """The log-probs whose difference is the log-ratio of each decision: two ``[B, T]``.

    "decision": as they are (PPO). "row": their means over the row, one ratio for all its decisions (GSPO).
    "row_decision": the row's ratio in value, with the gradient of the decision's own log-prob, so that credit may
    differ within a row (GSPO-token). Rows must be whole: ValueError if some of a row's decisions were cut off.
    """
    if level == "decision":
        return logp_BT, old_BT
    if level not in ("row", "row_decision"):
        raise ValueError(f"unknown ratio '{level}': one of decision, row, row_decision")
    row_BT, old_row_BT = (_row_mean(x, mask_BT, length_B) for x in (logp_BT, old_BT))
    if level == "row_decision":
        row_BT = row_BT.detach() + logp_BT - logp_BT.detach()
    return row_BT, old_row_BT


def decision_weight(mask_BT: Tensor, length_B: Tensor, average: str, longest: int | None = None) -> Tensor:
    """What each decision weighs in the sum: ``[B, T]``; ``length_B`` counts a row's own decisions before any cut.

    "decisions": every decision alike (token mean). "rows": every row alike (mean of the row's mean).
    "constant": a row weighs its length over ``longest``, a constant of the run (Dr. GRPO). "sum": a row weighs its
    length.
    """
    if average in ("decisions", "sum"):
        return mask_BT
    if average == "rows":
        return mask_BT / length_B[:, None].clamp(min=1)
    if average == "constant":
        if not longest:
            raise ValueError("average 'constant' needs `longest`, the length of the longest row that the run allows")
        return mask_BT / float(longest)
    raise ValueError(f"unknown average '{average}': one of decisions, rows, constant, sum")


def mean_weight(mask_BT: Tensor, length_B: Tensor, average: str) -> Tensor:
    """Weights of the plain mean, over decisions or over rows, that goes with an average: ``[B, T]``.

    Their sum is what a weighted sum is divided by; it adds up over cuts by rows and by decisions.
    """
    return decision_weight(mask_BT, length_B, "decisions" if average == "decisions" else "rows")


def _bounded(ratio: Tensor, low: float, high: float | None) -> Tensor:
    return ratio.clamp(1 - low, 1 + (low if high is None else high))


def _row_mean(values_BT: Tensor, mask_BT: Tensor, length_B: Tensor) -> Tensor:
    """The mean over each row's own decisions, given to all of them."""
    here_B = mask_BT.sum(1)
    cut_B = (here_B > 0) & (here_B != length_B)
    if cut_B.any():
        have, of = int(here_B[cut_B][0]), int(length_B[cut_B][0])
        raise ValueError(
            f"the ratio of a row needs all its {of} decisions and {have} are here; cut batches by rows alone"
        )
    return ((values_BT * mask_BT).sum(1) / here_B.clamp(min=1))[:, None].expand_as(values_BT)
