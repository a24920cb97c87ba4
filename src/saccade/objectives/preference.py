"""Learning from pairs: the better and the worse attempt at one problem, of the same record that GRPO learns from.

Pairs are rows side by side, so whatever makes attempts and weighs them serves; the reference's log-probs are stored with
them (`remember_reference`), by a `Snapshot` as pairs are made, or long before.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.core import Loss, Policy, Rollout
from saccade.math.preferences import dpo, extremes, ipo


def pairs(rollout: Rollout, score_B: Tensor, least: float = 0.0) -> Rollout:
    """The best and the worst attempt of each group whose scores differ by more than ``least``, side by side, best first.

    Outputs are left behind: they have been judged, and a set of pairs may be large.
    """
    best, worst = extremes(score_B, rollout.group_B, least)
    chosen = rollout.rows(torch.stack([best, worst], 1).flatten())
    chosen.outputs = torch.zeros(len(chosen), 0)
    return chosen


@dataclass(frozen=True)
class Preference:
    """DPO and its kin on `pairs`, with what the reference thinks of them in ``extras["reference_logp_BT"]``.

    ``loss``: "dpo" or "ipo"; ``wrong``: the rate at which DPO takes labels to be wrong. ``average``: "sum" over the decisions
    of an attempt as published, or "mean", which is beta over the number of decisions. Micro-batches take an even number of
    rows; ValueError where a pair or an attempt was cut apart.
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
        raise ValueError("pairs were cut apart: micro-batches take an even number of rows, minibatches must not divide groups")
    if not torch.equal(rollout.mask_BT.sum(1), rollout.extras["length_B"].to(rollout.mask_BT)):
        raise ValueError("decisions were cut off: a preference is about whole attempts, cut by rows alone")
