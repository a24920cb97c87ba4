"""A policy small enough to check by hand: T Gaussian decisions a row, whose means are trained."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from saccade.core import Likelihood, Problem, Rollout
from saccade.random import noise


@dataclass(eq=False)
class Toy:
    """Decision t of problem i is drawn from N(mean[t] + i / 10, 1)."""

    mean: nn.Parameter

    @classmethod
    def new(cls, decisions: int = 3, dtype: torch.dtype = torch.float64) -> Toy:
        return cls(nn.Parameter(torch.linspace(-1, 1, decisions, dtype=dtype)))

    def rollout(self, problems, seeds_B: Tensor) -> Rollout:
        mean = self._mean(problems, torch.arange(len(self.mean)).expand(len(problems), -1)).detach()
        drawn = mean + noise(seeds_B, self.mean.shape, "start").to(mean.dtype)
        return Rollout(
            problems=list(problems),
            decisions={"drawn_BT": drawn, "place_BT": torch.arange(len(self.mean)).expand(len(problems), -1)},
            outputs=[float(x) for x in drawn.sum(1)],
            logp_BT=self._logp(drawn, mean),
            mask_BT=torch.ones_like(drawn),
            group_B=torch.arange(len(problems)),
            extras={"length_B": torch.full((len(problems),), float(len(self.mean))), "seed_B": seeds_B.clone()},
        )

    def likelihood(self, rollout: Rollout) -> Likelihood:
        mean = self._mean(rollout.problems, rollout.decisions["place_BT"])
        drawn = rollout.decisions["drawn_BT"]
        return Likelihood(self._logp(drawn, mean), mean[..., None], torch.ones_like(mean))

    def parameters(self) -> list[nn.Parameter]:
        return [self.mean]

    def state_dict(self) -> dict[str, Tensor]:
        return {"mean": self.mean.detach()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.mean.copy_(state["mean"])

    def _mean(self, problems, place_BT: Tensor) -> Tensor:
        return self.mean[place_BT] + torch.tensor([p.id / 10 for p in problems])[:, None]

    def _logp(self, x: Tensor, mean: Tensor) -> Tensor:
        return -0.5 * (x - mean) ** 2


def height(rollout: Rollout) -> Tensor:
    """The reward: the sum of all decisions."""
    return rollout.decisions["drawn_BT"].sum(1)


PROBLEMS = [Problem(i, f"problem {i}", {"tag": "sum"}) for i in range(6)]
