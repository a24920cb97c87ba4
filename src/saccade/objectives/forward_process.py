"""Losses on freshly noised samples: flow matching, DiffusionNFT, Diffusion-DPO for flows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.core import Loss, Rollout, generator, noise, spawn
from saccade.math.forward_process import diffusion_dpo, nft, optimality, velocity_error
from saccade.math.paths import add_noise
from saccade.models.snapshot import Snapshot
from saccade.policies.flow import FlowPolicy


@dataclass(frozen=True)
class NFT:
    """DiffusionNFT 2509.16117: ``5 nft(...) + beta_reference |v - v_ref|^2`` at one time of the grid a sample.

    ``old`` is the policy that sampled; ``reference`` the frozen one. Sampled and trained without guidance.
    """

    policy: FlowPolicy
    old: Snapshot
    reference: Snapshot
    beta: float = 1.0
    beta_reference: float = 1e-4

    def __call__(self, rollout: Rollout) -> Loss:
        x0, problems = rollout.decisions["x0_B"], rollout.problems
        t_B, eps = draw_noise(self.policy, rollout)
        x_t = add_noise(x0, eps, t_B)
        with torch.no_grad():
            with self.old:
                v_old = self.policy.velocity(x_t, t_B, problems)
            with self.reference:
                v_ref = self.policy.velocity(x_t, t_B, problems)
        v = self.policy.velocity(x_t, t_B, problems)
        advantage_B = rollout.advantage_BT[:, 0]
        contrast = nft(v, v_old, x_t, x0, t_B, optimality(advantage_B), self.beta)
        drift = ((v - v_ref) ** 2).flatten(1).mean(1)
        total = (5 * contrast + self.beta_reference * drift).sum()
        return Loss(total, torch.tensor(float(len(rollout))), {"kl": drift.detach().sum()})


@dataclass(frozen=True)
class DiffusionDPO:
    """Diffusion-DPO 2311.12908 in flow form: the best and the worst row of each group, under the same noise."""

    policy: FlowPolicy
    reference: Snapshot
    beta: float = 100.0

    def __call__(self, rollout: Rollout) -> Loss:
        best, worst = extremes(rollout)
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


def extremes(rollout: Rollout) -> tuple[Tensor, Tensor]:
    """Rows with the highest and the lowest advantage of each group that tells them apart."""
    score = rollout.advantage_BT[:, 0]
    best, worst = [], []
    for group in rollout.group_B.unique():
        rows = torch.nonzero(rollout.group_B == group).flatten()
        high, low = rows[score[rows].argmax()], rows[score[rows].argmin()]
        if score[high] > score[low]:
            best.append(high)
            worst.append(low)
    empty = torch.zeros(0, dtype=torch.long)
    return (torch.stack(best), torch.stack(worst)) if best else (empty, empty)


def draw_noise(policy: FlowPolicy, rollout: Rollout) -> tuple[Tensor, Tensor]:
    """A time of the sampler's grid and fresh noise for each row, from the row's own seed."""
    x0, seeds_B = rollout.decisions["x0_B"], spawn(rollout.extras["seed_B"], 1 << 20)
    times = policy.times[:-1]
    picks = [int(torch.randint(len(times), (1,), generator=generator(s))) for s in seeds_B.tolist()]
    return times[picks].to(x0.device), noise(spawn(seeds_B, 1), x0.shape[1:], x0.device)
