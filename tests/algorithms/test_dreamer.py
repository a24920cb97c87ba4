"""Dreamer: building the policy, and the feed that collects and replays experience."""

from __future__ import annotations

import pytest
import torch

from saccade.algorithms.dreamer import ReplayConfig, SequenceFeed, build_dreamer
from saccade.core import EnvironmentFailed
from saccade.envs.task import ControlTask
from saccade.models.world_model.rssm import RSSMConfig

MODEL = RSSMConfig(depth=2, belief=6, latent=3, hidden=8)
TASK = ControlTask("reach", ("distract=0.5", "steps=8"), test_episodes=4, test_rows=4)
REPLAY = ReplayConfig(n_envs=2, random_steps=12, collect_every=2, batch_size=2, sequence_length=5)


def test_experience_is_collected_on_schedule_and_a_failed_step_is_repeated():
    policy = build_dreamer(TASK, MODEL, 1.0, seed=0)
    feed = SequenceFeed(REPLAY, TASK.make(2), policy, 0)
    feed(0)
    assert len(feed.buffer) == 2 * 13
    feed(1)
    assert len(feed.buffer) == 2 * 13, "nothing is collected before every second update only"
    batch = feed(2)
    assert len(feed.buffer) == 2 * 14 and batch.decisions["observation.image_BT"].shape == (2, 5, 32, 32, 3)

    def fail(action_B):
        raise EnvironmentFailed("reach: gone")

    feed.collector.environment.environment.step = fail
    before = {k: v.clone() for k, v in feed.actor.state_dict().items()}
    with pytest.raises(EnvironmentFailed, match="reach"):
        feed(4)
    assert all(torch.equal(before[k], v) for k, v in feed.actor.state_dict().items())


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (ControlTask("reach", ('observe="state"',)), "observes one picture"),
        (ControlTask("reach", ("pixels=40",)), "observes one picture"),
        (ControlTask("CartPole-v1", ("pixels=32",)), "takes vectors of numbers in"),
    ],
)
def test_an_environment_that_no_world_model_supports_is_refused_in_one_line(task, message):
    with pytest.raises(ValueError, match=message):
        build_dreamer(task, MODEL, 1.0, seed=0)
