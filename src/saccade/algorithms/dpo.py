"""DPO on any policy, and Diffusion-DPO on flows: losses on pairs of samples, the chosen one preferred to the rejected.

With the margin m = (log pi(w) - log pi_ref(w)) - (log pi(l) - log pi_ref(l)), log-probabilities summed over decisions:

    DPO  2305.18290  -log sigmoid(beta m)
    cDPO             -(1 - s) log sigmoid(beta m) - s log sigmoid(-beta m), for labels that are wrong at a rate s
    IPO  2310.12036  (m - 1 / (2 beta))^2, log-probabilities averaged over decisions
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.algorithms.forward_process import draw_noise, velocity_error
from saccade.core import Loss, Policy, Rollout
from saccade.math.flow import add_noise
from saccade.models.snapshot import Snapshot
from saccade.policies.flow import FlowPolicy


@dataclass(frozen=True)
class DPO:
    """How direct preference optimization makes pairs of a group's samples, and what its loss is."""

    beta: float = 0.1
    """Inverse temperature: the larger, the closer the policy stays to the reference."""
    loss_type: Literal["dpo", "ipo"] = "dpo"
    """Loss of a margin: -log sigmoid (DPO) or squared distance from 1 / (2 beta) (IPO)."""
    label_smoothing: float = 0.0
    """Rate at which preferences are assumed to be wrong (cDPO); below 0.5, and 0 for IPO."""
    average: Literal["published", "sum", "mean"] = "published"
    """Log-probability of a sample: as published, the sum over its decisions for DPO and their mean for IPO; or always
    the sum, or the mean.
    """
    min_gap: float = 0.0
    """Difference of rewards that the best and the worst sample of a group must exceed to make a pair."""

    def pairs(self, rollout: Rollout, reward_B: Tensor) -> Rollout:
        """The best and the worst sample of each group, see `make_pairs`."""
        return make_pairs(rollout, reward_B, self.min_gap)

    def loss(self, policy: Policy) -> PreferenceLoss:
        """The loss of the policy on pairs that hold the reference's log-probabilities."""
        return PreferenceLoss(policy, self.beta, self.loss_type, self.label_smoothing, self.average)


@dataclass(frozen=True)
class DiffusionDPO:
    """How Diffusion-DPO makes pairs of a group's samples, and what its loss is."""

    beta: float = 100.0
    """Weight of the mean squared error of velocities in the margin; the larger, the closer to the reference."""
    min_gap: float = 0.0
    """Difference of rewards that the best and the worst sample of a group must exceed to make a pair."""

    def pairs(self, rollout: Rollout, reward_B: Tensor) -> Rollout:
        """The best and the worst sample of each group, see `make_pairs`, with advantages 1 and -1."""
        return preferred(make_pairs(rollout, reward_B, self.min_gap))

    def loss(self, policy: FlowPolicy, reference: Snapshot) -> DiffusionDPOLoss:
        """The loss of the policy; ``reference`` is frozen."""
        return DiffusionDPOLoss(policy, reference, self.beta)


def dpo(margin_P: Tensor, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """Loss of each pair ``[P]``; ``label_smoothing`` is the rate at which labels are assumed to be wrong."""
    z = beta * margin_P
    return -(1 - label_smoothing) * F.logsigmoid(z) - label_smoothing * F.logsigmoid(-z)


def ipo(margin_P: Tensor, beta: float) -> Tensor:
    """Loss of each pair ``[P]``, least at the margin 1 / (2 beta)."""
    return (margin_P - 1 / (2 * beta)) ** 2


def best_worst_pairs(score_B: Tensor, group_B: Tensor, min_gap: float = 0.0) -> tuple[Tensor, Tensor]:
    """Rows with the highest and with the lowest score of each group whose scores differ by more than ``min_gap``.

    Rows whose score is not finite take no part.
    """
    best, worst = [], []
    for group in group_B.unique():
        rows = torch.nonzero((group_B == group) & score_B.isfinite()).flatten()
        if not len(rows):
            continue
        high, low = rows[score_B[rows].argmax()], rows[score_B[rows].argmin()]
        if score_B[high] - score_B[low] > min_gap:
            best.append(high)
            worst.append(low)
    empty = torch.zeros(0, dtype=torch.long, device=group_B.device)
    return (torch.stack(best), torch.stack(worst)) if best else (empty, empty)


def make_pairs(rollout: Rollout, score_B: Tensor, min_gap: float = 0.0) -> Rollout:
    """The best and the worst sample of each group whose scores differ by more than ``min_gap``, best first.

    Rows of a pair are neighbours. Outputs are dropped: they have been scored, and a set of pairs may be large.
    """
    best, worst = best_worst_pairs(score_B, rollout.group_B, min_gap)
    pairs = rollout.rows(torch.stack([best, worst], 1).flatten())
    pairs.outputs = torch.zeros(len(pairs), 0)
    return pairs


def preferred(pairs: Rollout) -> Rollout:
    """Rows in pairs, the chosen sample first, with advantages 1 and -1."""
    pairs.advantage_BT = torch.tensor([1.0, -1.0]).repeat(len(pairs) // 2)[:, None]
    return pairs


@dataclass(frozen=True)
class PreferenceLoss:
    """DPO, cDPO or IPO on pairs of `make_pairs` with the reference's ``extras["reference_logp_BT"]``.

    Micro-batches take an even number of rows. ValueError where a pair or the decisions of a sample were cut apart.
    """

    policy: Policy
    beta: float = 0.1
    loss_type: str = "dpo"
    label_smoothing: float = 0.0
    average: str = "published"

    def __post_init__(self) -> None:
        known = {"loss_type": ("dpo", "ipo"), "average": ("published", "sum", "mean")}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise ValueError(f"unknown {name} '{getattr(self, name)}': one of {', '.join(values)}")
        if self.loss_type == "ipo" and self.label_smoothing:
            raise ValueError("label_smoothing is for dpo alone; ipo has none")
        if not 0 < self.beta < math.inf:
            raise ValueError(f"beta {self.beta} is not a positive number")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing {self.label_smoothing} is outside [0, 0.5)")

    def __call__(self, rollout: Rollout) -> Loss:
        if not len(rollout):
            return Loss(torch.zeros(()), torch.zeros(()))
        check_whole(rollout)
        mask, length_B = rollout.mask_BT > 0, rollout.extras["length_B"].to(rollout.logp_BT.device)
        logratio_BT = self.policy.likelihood(rollout).logp_BT - rollout.extras["reference_logp_BT"]
        logratio_B = torch.where(mask, logratio_BT, 0.0).sum(1)
        if self.average == "mean" or (self.average == "published" and self.loss_type == "ipo"):
            logratio_B = logratio_B / length_B.clamp(min=1)
        chosen_P, rejected_P = logratio_B.unflatten(0, (-1, 2)).unbind(1)
        margin_P = chosen_P - rejected_P
        loss_P = ipo(margin_P, self.beta) if self.loss_type == "ipo" else dpo(margin_P, self.beta, self.label_smoothing)
        metrics = {"chosen": chosen_P, "rejected": rejected_P, "accuracy": (chosen_P > rejected_P).float()}
        count = torch.tensor(float(len(loss_P)))
        return Loss(loss_P.sum(), count, {name: value.detach().sum() for name, value in metrics.items()})


def check_whole(rollout: Rollout) -> None:
    """ValueError unless rows are pairs of neighbours with all of their decisions."""
    even_B, odd_B = rollout.group_B[0::2], rollout.group_B[1::2]
    if len(rollout) % 2 or not torch.equal(even_B, odd_B):
        raise ValueError(
            "pairs were cut apart: micro-batches take an even number of rows, minibatches must not divide groups"
        )
    if not torch.equal(rollout.mask_BT.sum(1), rollout.extras["length_B"].to(rollout.mask_BT)):
        raise ValueError("decisions were cut off: a preference is about complete samples, cut by rows alone")


@dataclass(frozen=True)
class DiffusionDPOLoss:
    """Diffusion-DPO 2311.12908 in flow form: best and worst row of each group by advantage, under the same noise."""

    policy: FlowPolicy
    reference: Snapshot
    beta: float = 100.0

    def __call__(self, rollout: Rollout) -> Loss:
        if rollout.advantage_BT is None:
            raise ValueError("the loss needs advantages, but the rollout has none")
        best, worst = best_worst_pairs(rollout.advantage_BT[:, 0], rollout.group_B)
        if not len(best):
            return Loss(torch.zeros(()), torch.zeros(()))
        chosen, rejected = rollout.rows(best), rollout.rows(worst)
        t_B, eps = draw_noise(self.policy, chosen)
        error = lambda part: self._error(part, t_B, eps)
        with torch.no_grad(), self.reference:
            ref_chosen, ref_rejected = error(chosen), error(rejected)
        loss_P = diffusion_dpo(error(chosen), ref_chosen, error(rejected), ref_rejected, self.beta)
        return Loss(loss_P.sum(), torch.tensor(float(len(loss_P))))

    def _error(self, part: Rollout, t_B: Tensor, eps: Tensor) -> Tensor:
        x0 = part.decisions["x0_B"]
        v = self.policy.velocity(add_noise(x0, eps, t_B), t_B, part.problems)
        return velocity_error(v, x0, eps)


def diffusion_dpo(error_w: Tensor, ref_w: Tensor, error_l: Tensor, ref_l: Tensor, beta: float) -> Tensor:
    """-log sigmoid(-beta / 2 [(e_w - e_w_ref) - (e_l - e_l_ref)]), e = mean squared velocity error: ``[B]``."""
    return -F.logsigmoid(-0.5 * beta * ((error_w - ref_w) - (error_l - ref_l)))
