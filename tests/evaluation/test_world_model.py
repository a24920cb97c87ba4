"""Evaluation of world models: random walks and linear probes of the states."""

from __future__ import annotations

import torch

from saccade.algorithms.dreamer import build_dreamer
from saccade.envs.task import ControlTask
from saccade.evaluation.world_model import linear_probes, r_squared, random_walks
from saccade.models.world_model.rssm import RSSMConfig
from saccade.random import generator

MODEL = RSSMConfig(depth=2, belief=6, latent=3, hidden=8)
TASK = ControlTask("reach", ("distract=0.5", "steps=8"), test_episodes=4, test_rows=4)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed, "test"))


def test_a_linear_map_is_explained_and_noise_is_not():
    x, test_x = normal(400, 6), normal(300, 6, seed=1)
    w = normal(6, 2, seed=2)
    assert abs(r_squared(x, x @ w, test_x, test_x @ w, ridge=1e-8) - 1) < 1e-6
    assert abs(r_squared(x, normal(400, 2, seed=3), test_x, normal(300, 2, seed=4))) < 0.1


def test_probes_find_the_facts_of_the_world():
    walks = random_walks(TASK, build_dreamer(TASK, MODEL, 1.0, seed=0), rows=6)
    assert walks.features_BTF.shape == (6, 8, 9) and walks.facts["position"].shape == (6, 8, 2)
    scores = linear_probes(walks._replace(features_BTF=walks.facts["position"].float()))
    assert scores["R2 position"] > 0.95 and {"R2 goal", "R2 phase", "R2 backdrop"} <= set(scores)
    others = random_walks(TASK, build_dreamer(TASK, MODEL, 1.0, seed=1), rows=6)
    assert torch.equal(others.picture_BT, walks.picture_BT), "a walk does not depend on the policy"
