"""Losses on pairs of attempts, one preferred to the other, and which pairs a batch holds.

m = (log pi(w) - log pi_ref(w)) - (log pi(l) - log pi_ref(l)), with log-probs summed over decisions.
DPO 2305.18290: -log sigmoid(beta m), with labels that are wrong at a rate s (cDPO): -(1 - s) log sigmoid(beta m) - s log
sigmoid(-beta m). IPO 2310.12036: (m - 1 / (2 beta))^2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def dpo(margin_P: Tensor, beta: float, wrong: float = 0.0) -> Tensor:
    """The loss of each pair ``[P]``; ``wrong`` is the rate at which the labels are taken to be wrong."""
    z = beta * margin_P
    return -(1 - wrong) * F.logsigmoid(z) - wrong * F.logsigmoid(-z)


def ipo(margin_P: Tensor, beta: float) -> Tensor:
    """The loss of each pair ``[P]``: the margin is drawn to 1 / (2 beta) and no further."""
    return (margin_P - 1 / (2 * beta)) ** 2


def extremes(score_B: Tensor, group_B: Tensor, least: float = 0.0) -> tuple[Tensor, Tensor]:
    """Rows with the highest and the lowest score of each group where these differ by more than ``least``; NaN takes no part."""
    best, worst = [], []
    for group in group_B.unique():
        rows = torch.nonzero((group_B == group) & score_B.isfinite()).flatten()
        if not len(rows):
            continue
        high, low = rows[score_B[rows].argmax()], rows[score_B[rows].argmin()]
        if score_B[high] - score_B[low] > least:
            best.append(high)
            worst.append(low)
    empty = torch.zeros(0, dtype=torch.long, device=group_B.device)
    return (torch.stack(best), torch.stack(worst)) if best else (empty, empty)
