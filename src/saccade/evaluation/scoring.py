"""Scores of kept-back problems, always the same ones with the same seeds, and some of them to look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from saccade.core import LogSamples, Problem, Reward, Rollout, Sampler, seeds


def score(
    sets: Mapping[str, Sequence[Problem]], attempt: Sampler, judge: Callable[[Rollout], Tensor], rows: int = 128
) -> dict[str, tuple[list[Rollout], Tensor]]:
    """One attempt at each problem of each set, ``rows`` at once: the rollouts, judged, and the verdicts ``[P]``.

    A set without problems has no scores.
    """
    found = {}
    for name, problems in sets.items():
        if not len(problems):
            continue
        own = seeds(54_321, len(problems))
        cuts = torch.arange(len(problems)).split(rows)  # what is read from disk late is asked for one by one
        parts = [attempt([problems[i] for i in cut.tolist()], own[cut]) for cut in cuts]
        found[name] = parts, torch.cat([judge(part) for part in parts])
    return found


def logged_samples(rollout: Rollout, rewards_B: Tensor, count: int = 16) -> list[dict[str, Any]]:
    """The first pictures of a rollout as a run shows them: prompt, image, score."""
    return [
        {"prompt": str(p.inputs), "image": picture, "score": float(r)}
        for p, picture, r in zip(rollout.problems[:count], rollout.outputs, rewards_B)
    ]


@torch.no_grad()
def score_with_reward(task: Any, draw: Sampler, judge: Reward, show: LogSamples | None = None) -> dict[str, float]:
    """The task's scores of held-out prompts, and the mean of the reward that is trained on, "training reward"."""
    seen: list[Rollout] = []
    found = task.score(lambda problems, seeds_B: seen.append(draw(problems, seeds_B)) or seen[-1], show)
    return found | ({"training reward": float(torch.cat([judge(part) for part in seen]).nanmean())} if seen else {})
