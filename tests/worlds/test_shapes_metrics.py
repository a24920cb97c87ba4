"""Kinds, modes and metrics of many pictures in the world of shapes."""

from __future__ import annotations

import pytest
import torch

from saccade.algorithms.reward_model import RewardModelConfig
from saccade.policies.flow import FlowModel, build_flow_policy
from saccade.worlds import shapes
from saccade.worlds.shapes import kinds, modes
from saccade.worlds.shapes.sample_metrics import SampleMetrics, frechet
from saccade.worlds.shapes.task import DrawingTask


def test_frechet_distance_of_gaussians():
    torch.manual_seed(0)
    x = torch.randn(4000, 3)
    assert float(frechet(x, x)) == pytest.approx(0, abs=1e-6)
    assert float(frechet(x, x + torch.tensor([1.0, 2.0, 0.0]))) == pytest.approx(5, rel=1e-6)
    white = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T
    assert float(frechet(white, 3 * white)) == pytest.approx(3 * (3 - 1) ** 2, rel=1e-5)
    with pytest.raises(ValueError, match="two or more"):
        frechet(x[:1], x)


def test_kinds_are_those_requested_and_those_present():
    meaning = {
        "tag": "color_attr",
        "include": [{"class": "ring", "count": 1, "color": "red"}, {"class": "star", "count": 1}],
    }
    requested = kinds.requested_kinds(meaning)
    assert [kinds.KINDS[k] for k in requested[0].nonzero().flatten()] == [("ring", "red")]
    assert {kinds.KINDS[k][0] for k in requested[1].nonzero().flatten()} == {"star"}
    assert requested[1].sum() == len(shapes.COLORS)
    text, cat = {"tag": "text", "include": [], "text": "GO"}, {"class": "cat", "count": 1}
    for other in (None, text, {"tag": "colors", "include": [cat]}):
        assert kinds.requested_kinds(other).isnan().all()
    scene = shapes.Scene((shapes.Object("ring", "red", 0.3, 0.5, 0.2), shapes.Object("star", "blue", 0.75, 0.5, 0.2)))
    present = kinds.present_kinds(shapes.render([scene]))[0]
    assert {kinds.KINDS[k] for k in present.nonzero().flatten()} == {("ring", "red"), ("star", "blue")}


def test_modes_count_right_answers_alone():
    ring = {"tag": "colors", "include": [{"class": "ring", "count": 1, "color": "red"}]}
    at = lambda x, shape, color: shapes.Scene((shapes.Object(shape, color, x, 0.5, 0.2),))
    scenes = [at(0.25, "ring", "red"), at(0.75, "ring", "red"), at(0.25, "ring", "blue"), at(0.5, "star", "red")]
    pictures = shapes.render(scenes)
    assert [len(found) for found in modes.modes(pictures, [ring] * 4)] == [1, 1, 0, 0]
    assert modes.mode_coverage(pictures, [ring] * 4, [0, 0, 0, 0]) == 2
    assert modes.mode_coverage(pictures, [ring] * 4, [0, 0, 1, 1]) == 1


def test_sample_metrics_are_the_same_each_time(sd3_folder):
    policy = build_flow_policy(FlowModel(str(sd3_folder), size=32, sampling_steps=1, text_length=2), ())
    reward_model = RewardModelConfig(width=8).untrained(0)
    metrics = SampleMetrics(reward_model, DrawingTask(), 32, prompts=4, scenes=32)
    one, two = (metrics(policy.greedy().rollout, group_size=2) for _ in range(2))
    assert one == two and set(one) == {"reward model", "frechet", "modes"} and one["frechet"] > 0
