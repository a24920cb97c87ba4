"""Losses on pairs of attempts, one preferred to the other, and which pairs a batch holds.

m = (log pi(w) - log pi_ref(w)) - (log pi(l) - log pi_ref(l)), with log-probs summed over decisions.
DPO 2305.18290: -log sigmoid(beta m), with labels that are wrong at a rate s (cDPO): -(1 - s) log sigmoid(beta m) - s
log sigmoid(-beta m). IPO 2310.12036: (m - 1 / (2 beta))^2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.algorithms.forward_process import draw_noise, velocity_error
from saccade.core import Loss, Policy, Rollout
from saccade.math.flow import add_noise
from saccade.models.snapshot import Snapshot
from saccade.policies.flow import FlowPolicy


def dpo(margin_P: Tensor, beta: float, wrong: float = 0.0) -> Tensor:
    """The loss of each pair ``[P]``; ``wrong`` is the rate at which the labels are taken to be wrong."""
    z = beta * margin_P
    return -(1 - wrong) * F.logsigmoid(z) - wrong * F.logsigmoid(-z)


def ipo(margin_P: Tensor, beta: float) -> Tensor:
    """The loss of each pair ``[P]``: the margin is drawn to 1 / (2 beta) and no further."""
    return (margin_P - 1 / (2 * beta)) ** 2


def best_worst_pairs(score_B: Tensor, group_B: Tensor, least: float = 0.0) -> tuple[Tensor, Tensor]:
    """Rows with the highest and the lowest score of each group where these differ by more than ``least``; NaN takes
    no part.
    """
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


def make_pairs(rollout: Rollout, score_B: Tensor, least: float = 0.0) -> Rollout:
    """The best and the worst attempt of each group whose scores differ by more than ``least``, side by side, best
    first.

    Outputs are left behind: they have been judged, and a set of pairs may be large.
    """
    best, worst = best_worst_pairs(score_B, rollout.group_B, least)
    chosen = rollout.rows(torch.stack([best, worst], 1).flatten())
    chosen.outputs = torch.zeros(len(chosen), 0)
    return chosen


@dataclass(frozen=True)
class PreferenceLoss:
    """DPO and its kin on `pairs`, with what the reference thinks of them in ``extras["reference_logp_BT"]``.

    ``loss``: "dpo" or "ipo"; ``wrong``: the rate at which DPO takes labels to be wrong. ``average``: "sum" over the
    decisions of an attempt as published, or "mean", which is beta over the number of decisions. Micro-batches take an
    even number of rows; ValueError where a pair or an attempt was cut apart.
    """

    policy: Policy
    beta: float = 0.1
    loss: str = "dpo"
    wrong: float = 0.0
    average: str = "sum"

    def __post_init__(self) -> None:
        for name, value, known in (("loss", self.loss, ("dpo", "ipo")), ("average", self.average, ("sum", "mean"))):
            if value not in known:
                raise ValueError(f"unknown {name} '{value}': one of {', '.join(known)}")
        if self.loss == "ipo" and self.wrong:
            raise ValueError("wrong labels are a matter of dpo; ipo has no rate of them")
        if not 0 <= self.wrong < 0.5:
            raise ValueError(f"wrong {self.wrong} is outside [0, 0.5)")

    def __call__(self, rollout: Rollout) -> Loss:
        if not len(rollout):
            return Loss(torch.zeros(()), torch.zeros(()))
        check_whole(rollout)
        own, length_B = rollout.mask_BT > 0, rollout.extras["length_B"].to(rollout.logp_BT.device)
        change_BT = self.policy.likelihood(rollout).logp_BT - rollout.extras["reference_logp_BT"]
        change_B = torch.where(own, change_BT, 0.0).sum(1)
        if self.average == "mean":
            change_B = change_B / length_B
        won_P, lost_P = change_B.unflatten(0, (-1, 2)).unbind(1)
        loss_P = dpo(won_P - lost_P, self.beta, self.wrong) if self.loss == "dpo" else ipo(won_P - lost_P, self.beta)
        told = {"won": won_P, "lost": lost_P, "ranked_right": (won_P > lost_P).float()}
        count = torch.tensor(float(len(loss_P)))
        return Loss(loss_P.sum(), count, {name: value.detach().sum() for name, value in told.items()})


def check_whole(rollout: Rollout) -> None:
    """ValueError if rows are not pairs side by side, with all of their decisions."""
    one_B, other_B = rollout.group_B[0::2], rollout.group_B[1::2]
    if len(rollout) % 2 or not torch.equal(one_B, other_B):
        raise ValueError(
            "pairs were cut apart: micro-batches take an even number of rows, minibatches must not divide groups"
        )
    if not torch.equal(rollout.mask_BT.sum(1), rollout.extras["length_B"].to(rollout.mask_BT)):
        raise ValueError("decisions were cut off: a preference is about whole attempts, cut by rows alone")


@dataclass(frozen=True)
class DiffusionDPO:
    """Diffusion-DPO 2311.12908 in flow form: the best and the worst row of each group, under the same noise."""

    policy: FlowPolicy
    reference: Snapshot
    beta: float = 100.0

    def __call__(self, rollout: Rollout) -> Loss:
        best, worst = best_worst_pairs(rollout.advantage_BT[:, 0], rollout.group_B)
        if not len(best):
            return Loss(torch.zeros(()), torch.zeros(()))
        won, lost = rollout.rows(best), rollout.rows(worst)
        t_B, eps = draw_noise(self.policy, won)
        error = lambda part: self._error(part, t_B, eps)
        with torch.no_grad(), self.reference:
            ref_won, ref_lost = error(won), error(lost)
        loss = diffusion_dpo(error(won), ref_won, error(lost), ref_lost, self.beta)
        return Loss(loss.sum(), torch.tensor(float(len(loss))))

    def _error(self, part: Rollout, t_B: Tensor, eps: Tensor) -> Tensor:
        x0 = part.decisions["x0_B"]
        v = self.policy.velocity(add_noise(x0, eps, t_B), t_B, part.problems)
        return velocity_error(v, x0, eps)


def diffusion_dpo(error_w: Tensor, ref_w: Tensor, error_l: Tensor, ref_l: Tensor, beta: float) -> Tensor:
    """-log sigmoid(-beta / 2 [(e_w - e_w_ref) - (e_l - e_l_ref)]), e = mean squared velocity error: ``[B]``."""
    return -F.logsigmoid(-0.5 * beta * ((error_w - ref_w) - (error_l - ref_l)))
