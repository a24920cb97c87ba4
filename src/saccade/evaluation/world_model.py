"""How a world model is evaluated: test episodes, what can be read off its states, its reconstructions."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from saccade.core import LogSamples, seeds
from saccade.envs import task as control
from saccade.envs.collector import RANDOM_ACTION_REPEAT
from saccade.envs.episodes import tensors
from saccade.envs.task import ControlTask, episode_scores
from saccade.models.world_model.rssm import as_input, as_picture
from saccade.policies.dreamer import DreamerPolicy, RecurrentStateWrapper


def explained(x_ND: Tensor, y_NK: Tensor, test_x_MD: Tensor, test_y_MK: Tensor, ridge: float = 1e-2) -> float:
    """The share of the spread of ``test_y`` that a linear map fitted to (x, y) explains (R^2), the mean over its K
    numbers.

    At most 1, and below 0 for a map that does worse than the mean. ``ridge`` is relative to the standardised x; numbers
    of y that do not vary are left out (NaN if none does).
    """
    x, y, test_x, test_y = (t.double() for t in (x_ND, y_NK, test_x_MD, test_y_MK))
    middle, spread = x.mean(0), x.std(0).clamp(min=1e-6)
    bias = lambda t: torch.cat([(t - middle) / spread, torch.ones(len(t), 1, dtype=t.dtype)], 1)
    a = bias(x)
    weights = torch.linalg.solve(a.T @ a + ridge * len(x) * torch.eye(a.shape[1], dtype=a.dtype), a.T @ y)
    left = ((test_y - bias(test_x) @ weights) ** 2).mean(0)
    whole = test_y.var(0, correction=0)
    varies = whole > 1e-9
    return float((1 - left[varies] / whole[varies]).mean())


WALKS, STEPS = 192, 16
"""Random walks and their steps: what an episode draws once, such as a goal, needs many of them to be read off."""


def score(task: ControlTask, policy: DreamerPolicy, show: LogSamples | None = None) -> dict[str, float]:
    """Test episodes acted greedily, as `ControlTask.score`, and what can be read off the model's states, as
    `readings`.
    """
    world = task.make(min(task.test_rows, task.test_episodes))
    acting = policy.acting(world.count)
    episodes = task.run_episodes(RecurrentStateWrapper(world, acting), acting, show)
    walk = wander(task, policy)
    if show:
        show("reconstructions", reconstructions(policy, walk, task.shown))
    return episode_scores(episodes) | readings(walk)


def record_video(task: ControlTask, policy: DreamerPolicy, seeds_B: Tensor) -> list[dict[str, Any]]:
    """One filmed episode for each seed, acted greedily: its clip, and a few frames as "image"."""
    world, acting = task.make(len(seeds_B)), policy.acting(len(seeds_B))
    return control.record_video(RecurrentStateWrapper(world, acting), acting, seeds_B, task.place)


class Walk(NamedTuple):
    """Episodes that a model followed: its features ``[B, T, F]``, pictures uint8 ``[B, T, H, W, 3]``, facts ``[B, T,
    ...]``.
    """

    features_BTF: Tensor
    seen_BT: Tensor
    facts: dict[str, Tensor]


@torch.no_grad()
def wander(task: ControlTask, policy: DreamerPolicy, rows: int = WALKS) -> Walk:
    """The model follows random walks, the same ones whatever the policy does, for STEPS or until the first ends."""
    world, acting = task.make(rows), policy.acting(rows)
    watched = RecurrentStateWrapper(world, acting)
    own = seeds(task.test_seed, rows, key=1).tolist()
    rng = np.random.default_rng(task.test_seed)
    acting.look(tensors(watched.begin(range(rows), own)))
    features, seen, facts, ended = [], [], [], False
    while not ended and len(features) < STEPS:
        if len(features) % RANDOM_ACTION_REPEAT == 0:
            action_B = rng.uniform(-1, 1, (rows, policy.actions)).astype(np.float32)
        told = watched.step(action_B)
        shown = tensors(told.observation)
        features.append(acting.look(shown).features.cpu())
        seen.append(shown[policy.seen])
        facts.append(tensors(told.info))
        ended = bool((told.terminated_B | told.truncated_B).any())
    together = {name: torch.stack([one[name] for one in facts], 1) for name in facts[0]}
    return Walk(torch.stack(features, 1), torch.stack(seen, 1), together)


def readings(walk: Walk) -> dict[str, float]:
    """R^2 with which each fact that is a vector, and the "backdrop", can be read off the features in a line.

    The backdrop is the picture in 2 x 2 patches of even colour, which hold little of what is small. The map is fitted
    to the first half of the episodes and judged on the others.
    """
    blurred = avg_pool2d(as_input(walk.seen_BT).flatten(0, 1), walk.seen_BT.shape[2] // 2)
    backdrop = blurred.unflatten(0, walk.seen_BT.shape[:2]).flatten(2)
    told = {name: value for name, value in walk.facts.items() if value.dim() == 3} | {"backdrop": backdrop}
    half = len(walk.features_BTF) // 2
    parts = lambda x: (x[:half].flatten(0, 1), x[half:].flatten(0, 1))
    x, test_x = parts(walk.features_BTF)
    found = {}
    for name, value in told.items():
        y, test_y = parts(value)
        found[f"R2 {name}"] = explained(x, y, test_x, test_y)
    return found


@torch.no_grad()
def reconstructions(policy: DreamerPolicy, walk: Walk, count: int, moments: int = 8) -> list[dict[str, Any]]:
    """Samples of random walks: above what was seen at some moments, below what the decoder makes of the states
    there.
    """
    picked = torch.linspace(0, walk.features_BTF.shape[1] - 1, moments).long()
    seen = as_picture(as_input(walk.seen_BT[:count, picked]))
    drawn = as_picture(policy.model.decoder(walk.features_BTF[:count, picked].to(policy.device))).cpu()
    strips = torch.cat([torch.cat(list(x.unbind(1)), -1) for x in (seen, drawn)], -2)
    return [
        {"prompt": f"random walk {i + 1}, above seen, below decoded", "image": strip} for i, strip in enumerate(strips)
    ]
