"""Losses on freshly noised samples: flow matching, DiffusionNFT, Diffusion-DPO for flows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.core import Loss, Rollout, generator, noise, spawn
from saccade.math.forward_process import diffusion_dpo, nft, optimality, velocity_error
from saccade.math.paths import add_noise
from saccade.math.preferences import extremes
from saccade.models.snapshot import Snapshot
from saccade.policies.flow import FlowPolicy


@dataclass(frozen=True)
class NFT:
    """DiffusionNFT 2509.16117: ``5 nft(...) + beta_reference |v - v_ref|^2``, a mean over ``times`` of the grid.

    ``old`` is the policy that sampled; ``reference`` the frozen one. Sampled and trained without guidance.
    """

    policy: FlowPolicy
    old: Snapshot
    reference: Snapshot
    beta: float = 1.0
    beta_reference: float = 1e-4
    times: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.times <= self.policy.steps:
            raise ValueError(f"times {self.times} is not between 1 and the {self.policy.steps} sampling steps")

    def __call__(self, rollout: Rollout) -> Loss:
        rollout = rollout.rows(torch.arange(len(rollout)).repeat_interleave(self.times))
        x0, problems = rollout.decisions["x0_B"], rollout.problems
        t_B, eps = draw_noise(self.policy, rollout, self.times)
        x_t = add_noise(x0, eps, t_B)
        with torch.no_grad():
            with self.old:
                v_old = self.policy.velocity(x_t, t_B, problems)
            v_ref = None
            if self.beta_reference:
                with self.reference:
                    v_ref = self.policy.velocity(x_t, t_B, problems)
        v = self.policy.velocity(x_t, t_B, problems)
        advantage_B = rollout.advantage_BT[:, 0]
        contrast = nft(v, v_old, x_t, x0, t_B, optimality(advantage_B), self.beta)
        count = torch.tensor(float(len(rollout)))
        if v_ref is None:
            return Loss(5 * contrast.sum(), count)
        drift = ((v - v_ref) ** 2).flatten(1).mean(1)
        return Loss((5 * contrast + self.beta_reference * drift).sum(), count, {"kl": drift.detach().sum()})


@dataclass(frozen=True)
class DiffusionDPO:
    """Diffusion-DPO 2311.12908 in flow form: the best and the worst row of each group, under the same noise."""

    policy: FlowPolicy
    reference: Snapshot
    beta: float = 100.0

    def __call__(self, rollout: Rollout) -> Loss:
        best, worst = extremes(rollout.advantage_BT[:, 0], rollout.group_B)
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


def draw_noise(policy: FlowPolicy, rollout: Rollout, copies: int = 1) -> tuple[Tensor, Tensor]:
    """A time of the sampler's grid and fresh noise for each row, from the row's own seed.

    ``copies`` of an attempt that follow one another get different times, in an order of the attempt's own.
    """
    x0, times = rollout.decisions["x0_B"], policy.times[:-1]
    own = spawn(rollout.extras["seed_B"][::copies], 1 << 20)
    picks = [torch.randperm(len(times), generator=generator(s))[:copies] for s in own.tolist()]
    seeds_B = torch.stack([spawn(own, 1 + copy) for copy in range(copies)], 1).flatten()
    return times[torch.cat(picks)].to(x0.device), noise(seeds_B, x0.shape[1:], x0.device)
