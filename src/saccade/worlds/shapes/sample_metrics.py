"""What many generated pictures of the same prompts are like together: reward, Frechet distance, modes covered."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from saccade.core import Sampler, seeds
from saccade.math.pixels import to_unit
from saccade.rewards.learned.reward_model import RewardModel
from saccade.training.groups import repeat_for_groups
from saccade.worlds import shapes
from saccade.worlds.shapes.modes import covered
from saccade.worlds.shapes.task import DrawingTask


def frechet(a_ND: Tensor, b_MD: Tensor) -> Tensor:
    """Distance of the means and covariances of two sets of rows, in float64; one number, 0 for equal sets.

    ValueError for a set of fewer than two rows, which has no covariance.
    """
    if min(len(a_ND), len(b_MD)) < 2:
        raise ValueError(f"sets of {len(a_ND)} and {len(b_MD)} rows: two or more are needed for a covariance")
    a, b = a_ND.double(), b_MD.double()
    cov_a, cov_b = torch.cov(a.T).reshape(a.shape[1], -1), torch.cov(b.T).reshape(b.shape[1], -1)
    root = _root(cov_a)
    shared = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + cov_a.trace() + cov_b.trace() - 2 * shared


def _root(matrix: Tensor) -> Tensor:
    """The symmetric square root of a positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


@dataclass(frozen=True)
class SampleMetrics:
    """What many pictures of the same kept-back prompts are like together; always the same prompts and seeds.

    "critic": the learned reward. "frechet": distance of the critic's features from those of rendered scenes. "modes":
    different right answers that the pictures of a prompt show.
    """

    critic: RewardModel
    task: DrawingTask
    size: int
    prompts: int = 64
    real: int = 2048
    rows: int = 128

    @torch.no_grad()
    def __call__(self, draw: Sampler, each: int = 16) -> dict[str, float]:
        """The measures of ``each`` pictures a prompt."""
        asked = replace(self.task, held_out_size=self.prompts).held_out_problems()["train wording"]
        problems, seeds_B, group_B = repeat_for_groups(asked, seeds(98_765, len(asked)), each)
        parts = [
            draw([problems[i] for i in cut.tolist()], seeds_B[cut])
            for cut in torch.arange(len(problems)).split(self.rows)
        ]
        pictures = torch.cat([part.outputs for part in parts])
        return {
            "critic": float(torch.cat([self.critic(part) for part in parts]).nanmean()),
            "frechet": float(frechet(self.critic.features(pictures), self.critic.features(self._real()))),
            "modes": covered(pictures, [p.answer for p in problems], group_B.tolist()),
        }

    def _real(self) -> Tensor:
        scenes, _ = shapes.sample(self.real, np.random.default_rng(54_321), self.task.tags, "held_out")
        return to_unit(shapes.render(scenes, self.size))
