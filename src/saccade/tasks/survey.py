"""What is measured of a generator besides its scores: the learned reward, distance from real pictures, diversity."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from saccade.core import Reward, Rollout, Sampler, seeds
from saccade.math.frechet import frechet
from saccade.math.pixels import to_unit
from saccade.rewards.critic import CriticReward
from saccade.sampling.layout import spread
from saccade.tasks.drawing import DrawingTask
from saccade.tasks.scoring import Show
from saccade.worlds import shapes
from saccade.worlds.shapes.modes import covered


@torch.no_grad()
def measured(task: DrawingTask, draw: Sampler, judge: Reward, show: Show | None = None) -> dict[str, float]:
    """The task's scores of kept-back prompts, and the mean over them of the reward that is trained on, "scorer"."""
    seen: list[Rollout] = []
    found = task.score(lambda problems, seeds_B: seen.append(draw(problems, seeds_B)) or seen[-1], show)
    return found | ({"scorer": float(torch.cat([judge(part) for part in seen]).nanmean())} if seen else {})


@dataclass(frozen=True)
class Survey:
    """What many pictures of the same kept-back prompts are like together; always the same prompts and seeds.

    "critic": the learned reward. "frechet": distance of the critic's features from those of rendered scenes. "modes":
    different right answers that the pictures of a prompt show.
    """

    critic: CriticReward
    task: DrawingTask
    size: int
    prompts: int = 64
    real: int = 2048
    rows: int = 128

    @torch.no_grad()
    def __call__(self, draw: Sampler, each: int = 16) -> dict[str, float]:
        """The measures of ``each`` pictures a prompt."""
        asked = replace(self.task, held_out_size=self.prompts).kept_back()["train wording"]
        problems, seeds_B, group_B = spread(asked, seeds(98_765, len(asked)), each)
        parts = [draw([problems[i] for i in cut.tolist()], seeds_B[cut]) for cut in torch.arange(len(problems)).split(self.rows)]
        pictures = torch.cat([part.outputs for part in parts])
        return {
            "critic": float(torch.cat([self.critic(part) for part in parts]).nanmean()),
            "frechet": float(frechet(self.critic.features(pictures), self.critic.features(self._real()))),
            "modes": covered(pictures, [p.answer for p in problems], group_B.tolist()),
        }

    def _real(self) -> Tensor:
        scenes, _ = shapes.sample(self.real, np.random.default_rng(54_321), self.task.tags, "held_out")
        return to_unit(shapes.render(scenes, self.size))
