"""Evaluation of a world model: test episodes, linear probes of its states, its reconstructions."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from saccade.core import LogSamples, ProblemScores
from saccade.envs import task as control
from saccade.envs.collector import RANDOM_ACTION_REPEAT
from saccade.envs.episodes import tensors
from saccade.envs.recurrent import RecurrentStateWrapper
from saccade.envs.task import ControlTask, episode_scores
from saccade.models.world_model.rssm import as_input, as_picture
from saccade.policies.dreamer import DreamerPolicy
from saccade.random import numpy_generator, seeds

WALKS, STEPS = 192, 16
"""Number of random walks and of their steps: probing what is constant in an episode, such as a goal, takes many."""


def score(task: ControlTask, policy: DreamerPolicy, show: LogSamples | None = None) -> ProblemScores:
    """Scores of the test episodes, acted greedily, as `ControlTask.score`, and those of `linear_probes`."""
    environment = task.make_test()
    actor = policy.recurrent(environment.count)
    episodes = task.run_episodes(RecurrentStateWrapper(environment, actor), actor, show)
    walks = random_walks(task, policy)
    if show:
        show("reconstructions", reconstructions(policy, walks, task.video_episodes))
    return {**episode_scores(episodes), **linear_probes(walks)}


def record_video(task: ControlTask, policy: DreamerPolicy, seeds_B: Tensor) -> list[dict[str, Any]]:
    """One full episode for each seed, acted greedily, as `control.record_video`."""
    environment, actor = task.make(len(seeds_B)), policy.recurrent(len(seeds_B))
    return control.record_video(RecurrentStateWrapper(environment, actor), actor, seeds_B, task.position)


def r_squared(x_ND: Tensor, y_NK: Tensor, test_x_MD: Tensor, test_y_MK: Tensor, ridge: float = 1e-2) -> float:
    """Share of the variance of ``test_y`` that a linear map fitted to (x, y) explains (R^2), mean over its K numbers.

    At most 1, and below 0 for a map that is worse than the mean. ``ridge`` is relative to the normalized x. Numbers of
    y that do not vary are left out; NaN if none varies.
    """
    x, y, test_x, test_y = (t.double() for t in (x_ND, y_NK, test_x_MD, test_y_MK))
    mean, std = x.mean(0), x.std(0).clamp(min=1e-6)
    with_bias = lambda t: torch.cat([(t - mean) / std, torch.ones(len(t), 1, dtype=t.dtype)], 1)
    a = with_bias(x)
    weights = torch.linalg.solve(a.T @ a + ridge * len(x) * torch.eye(a.shape[1], dtype=a.dtype), a.T @ y)
    residual = ((test_y - with_bias(test_x) @ weights) ** 2).mean(0)
    variance = test_y.var(0, correction=0)
    varies = variance > 1e-9
    return float((1 - residual[varies] / variance[varies]).mean())


class Walks(NamedTuple):
    """Episodes that a model followed: its features ``[B, T, F]``, the pictures uint8 ``[B, T, H, W, 3]``, the
    environment's facts by name ``[B, T, ...]``.
    """

    features_BTF: Tensor
    picture_BT: Tensor
    facts: dict[str, Tensor]


@torch.no_grad()
def random_walks(task: ControlTask, policy: DreamerPolicy, rows: int = WALKS) -> Walks:
    """The model follows random walks, the same ones for every policy, for STEPS steps or until the first one ends."""
    actor = policy.recurrent(rows)
    environment = RecurrentStateWrapper(task.make(rows), actor)
    rng = numpy_generator(task.held_out_seed, "random actions")
    actor.observe(tensors(environment.begin(range(rows), seeds(task.held_out_seed, rows, "random walks").tolist())))
    features, pictures, facts, ended = [], [], [], False
    action_B = np.zeros((rows, policy.actions), np.float32)
    while not ended and len(features) < STEPS:
        if len(features) % RANDOM_ACTION_REPEAT == 0:
            action_B = rng.uniform(-1, 1, (rows, policy.actions)).astype(np.float32)
        step = environment.step(action_B)
        observation = tensors(step.observation)
        features.append(actor.observe(observation).features.cpu())
        pictures.append(observation[policy.picture])
        facts.append(tensors(step.info))
        ended = bool((step.terminated_B | step.truncated_B).any())
    stacked_facts = {name: torch.stack([step[name] for step in facts], 1) for name in facts[0]}
    return Walks(torch.stack(features, 1), torch.stack(pictures, 1), stacked_facts)


def linear_probes(walks: Walks) -> dict[str, float]:
    """R^2 of a linear map from the features to each fact that is a vector, and to the "backdrop".

    The backdrop is the picture in 2 x 2 patches of mean colour, which hold little of small objects. The map is fitted
    to the first half of the episodes and evaluated on the other.
    """
    patches = avg_pool2d(as_input(walks.picture_BT).flatten(0, 1), walks.picture_BT.shape[2] // 2)
    backdrop = patches.unflatten(0, walks.picture_BT.shape[:2]).flatten(2)
    targets = {name: value for name, value in walks.facts.items() if value.dim() == 3} | {"backdrop": backdrop}
    half = len(walks.features_BTF) // 2
    split = lambda x: (x[:half].flatten(0, 1), x[half:].flatten(0, 1))
    x, test_x = split(walks.features_BTF)
    scores = {}
    for name, value in targets.items():
        y, test_y = split(value)
        scores[f"R2 {name}"] = r_squared(x, y, test_x, test_y)
    return scores


@torch.no_grad()
def reconstructions(policy: DreamerPolicy, walks: Walks, count: int, columns: int = 8) -> list[dict[str, Any]]:
    """Logged samples of random walks: ``columns`` observed pictures above, their reconstructions below."""
    steps = torch.linspace(0, walks.features_BTF.shape[1] - 1, columns).long()
    observed = as_picture(as_input(walks.picture_BT[:count, steps]))
    decoded = as_picture(policy.model.decoder(walks.features_BTF[:count, steps].to(policy.device))).cpu()
    strips = torch.cat([torch.cat(list(x.unbind(1)), -1) for x in (observed, decoded)], -2)
    prompt = lambda i: f"random walk {i + 1}, observed above, reconstructed below"
    return [{"prompt": prompt(i), "image": strip} for i, strip in enumerate(strips)]
