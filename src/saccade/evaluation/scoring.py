"""Scores of held-out problems, always the same ones with the same sampling seeds, and logged samples of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from saccade.core import LogSamples, Problem, ProblemScores, Reward, Rollout, Sampler
from saccade.random import seeds

HELD_OUT_SEED = 12_345
"""Seed of the held-out problems of embedded worlds: the same ones in every run."""


class ScoredTask(Protocol):
    """A task that scores samplers on its held-out problems."""

    def score(self, sampler: Sampler, log_samples: LogSamples | None = None, /) -> ProblemScores: ...


def score(
    sets: Mapping[str, Sequence[Problem]], sampler: Sampler, judge: Reward, rows: int = 128
) -> dict[str, tuple[list[Rollout], Tensor]]:
    """One sample of each problem of each set, ``rows`` at once: the rollouts, and the scores of all problems ``[P]``.

    A set without problems is left out.
    """
    found = {}
    for name, problems in sets.items():
        if not len(problems):
            continue
        seeds_P = seeds(HELD_OUT_SEED, len(problems), "evaluation")
        chunks = torch.arange(len(problems)).split(rows)  # problems on disk are loaded when their chunk comes
        parts = [sampler([problems[i] for i in chunk.tolist()], seeds_P[chunk]) for chunk in chunks]
        found[name] = parts, torch.cat([judge(part) for part in parts])
    return found


def logged_samples(rollout: Rollout, reward_B: Tensor, count: int = 16) -> list[dict[str, Any]]:
    """The first pictures of a rollout as `Run.samples` takes them: prompt, image, score."""
    return [
        {"prompt": str(problem.inputs), "image": picture, "score": float(reward)}
        for problem, picture, reward in zip(rollout.problems[:count], rollout.outputs, reward_B)
    ]


@torch.no_grad()
def score_with_reward(
    task: ScoredTask, sampler: Sampler, reward: Reward, log_samples: LogSamples | None = None
) -> ProblemScores:
    """The task's scores of held-out prompts, and the trained reward of all of them, "training reward"."""
    rollouts: list[Rollout] = []

    def recorded(problems: Sequence[Problem], seeds_B: Tensor) -> Rollout:
        rollouts.append(sampler(problems, seeds_B))
        return rollouts[-1]

    scores = task.score(recorded, log_samples)
    if rollouts:
        scores["training reward"] = torch.cat([reward(rollout) for rollout in rollouts])
    return scores
