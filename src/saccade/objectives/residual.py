"""The error of an ensemble of critics in the forms that residual learning on a base policy uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from saccade.core import Loss, Rollout
from saccade.objectives.off_policy import CriticLoss, action, seen

Across = Literal["mean of squares", "squared mean of absolutes"]


@dataclass(frozen=True, eq=False)
class EnsembleError:
    """Mean over rows of an error across the N members of ``critic``'s ensemble, against the target y that ``critic`` computes.

    ``across`` is "mean of squares", mean_k (Q_k - y)^2, or "squared mean of absolutes", (mean_k |Q_k - y|)^2, in which a
    member's slope also depends on how far off the others are; ResFiT's reference has the latter. ``bounds`` cut the target
    off where returns are known to lie between them; the metric "target" is what it was before.
    """

    critic: CriticLoss
    across: Across = "mean of squares"
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.across not in ("mean of squares", "squared mean of absolutes"):
            raise ValueError(f"unknown error '{self.across}': one of mean of squares, squared mean of absolutes")

    def __call__(self, rollout: Rollout) -> Loss:
        target_B = self.critic.backup(rollout)
        bounded_B = target_B if self.bounds is None else target_B.clamp(*self.bounds)
        value_NB = self.critic.critics(seen(rollout), action(rollout))
        error_NB = value_NB - bounded_B
        error_B = error_NB.square().mean(0) if self.across == "mean of squares" else error_NB.abs().mean(0).square()
        metrics = {"value": value_NB.detach().mean(0).sum(), "target": target_B.sum()}
        return Loss(error_B.sum(), torch.tensor(float(len(rollout)), device=error_B.device), metrics)
