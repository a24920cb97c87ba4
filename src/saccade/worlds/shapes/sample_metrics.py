"""Metrics of many generated pictures of the same prompts together: mean reward, Frechet distance, mode coverage."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from saccade.core import Sampler
from saccade.math.pixels import to_float
from saccade.random import numpy_generator, seeds
from saccade.rewards.learned.reward_model import RewardModel
from saccade.training.groups import repeat_for_groups
from saccade.worlds import shapes
from saccade.worlds.shapes.modes import mode_coverage
from saccade.worlds.shapes.task import DrawingTask


def frechet(a_ND: Tensor, b_MD: Tensor) -> Tensor:
    """Frechet distance of Gaussians fitted to two sets of rows, a scalar in float64; 0 for equal sets (1706.08500).

    |mean_a - mean_b|^2 + trace(cov_a + cov_b - 2 (cov_a cov_b)^(1/2)). ValueError for a set of fewer than two rows,
    which has no covariance.
    """
    if min(len(a_ND), len(b_MD)) < 2:
        raise ValueError(f"sets of {len(a_ND)} and {len(b_MD)} rows: two or more are needed for a covariance")
    a, b = a_ND.double(), b_MD.double()
    cov_a, cov_b = torch.cov(a.T).reshape(a.shape[1], -1), torch.cov(b.T).reshape(b.shape[1], -1)
    root = _matrix_sqrt(cov_a)
    shared = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + cov_a.trace() + cov_b.trace() - 2 * shared


def _matrix_sqrt(matrix: Tensor) -> Tensor:
    """The symmetric square root of a positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


@dataclass(frozen=True)
class SampleMetrics:
    """Metrics of many pictures of the same held-out prompts; prompts and seeds are the same in every call.

    "reward model": mean reward. "frechet": distance of the reward model's features from those of rendered scenes.
    "modes": different right answers that the pictures of a prompt show.
    """

    reward_model: RewardModel
    task: DrawingTask
    size: int
    """Edge of a picture in pixels."""
    prompts: int = 64
    """Number of held-out prompts."""
    scenes: int = 2048
    """Number of rendered scenes that pictures are compared with."""
    rows: int = 128
    """Pictures that are sampled at a time."""
    eval_seed: int = 98_765
    """Seed of the noise of the pictures."""
    scenes_seed: int = 54_321
    """Seed of the rendered scenes."""

    @torch.no_grad()
    def __call__(self, sampler: Sampler, group_size: int = 16) -> dict[str, float]:
        """The metrics of ``group_size`` pictures of each prompt."""
        prompts = replace(self.task, held_out_size=self.prompts).held_out_problems()["held out"]
        problems, seeds_B, group_B = repeat_for_groups(
            prompts, seeds(self.eval_seed, len(prompts), "sample metrics"), group_size
        )
        cuts = torch.arange(len(problems)).split(self.rows)
        parts = [sampler([problems[i] for i in cut.tolist()], seeds_B[cut]) for cut in cuts]
        pictures = torch.cat([part.outputs for part in parts])
        features = self.reward_model.features
        return {
            "reward model": float(torch.cat([self.reward_model(part) for part in parts]).nanmean()),
            "frechet": float(frechet(features(pictures), features(self._rendered()))),
            "modes": mode_coverage(pictures, [p.answer for p in problems], group_B.tolist()),
        }

    def _rendered(self) -> Tensor:
        """Pictures ``[scenes, 3, size, size]`` of held-out scenes."""
        scenes, _ = shapes.sample_scenes(
            self.scenes, numpy_generator(self.scenes_seed, "real scenes"), self.task.tags, "held_out"
        )
        return to_float(shapes.render(scenes, self.size))
