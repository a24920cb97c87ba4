"""The lane world: episodes, its mirror image, its reward, captions of the road ahead."""

from __future__ import annotations

import time
from dataclasses import fields

import numpy as np
import pytest

from saccade.envs import environment
from saccade.envs.lane import HELD_OUT, LENGTH, SWAPPED, WORDS, Lane, Weights, captions, lidar, rewards, roads, vision
from saccade.envs.lane.driving import MAX_STEER, TIME_STEP, WHEELBASE, Cars, drive
from saccade.envs.lane.scenes import scenes

FULL_SPEED = np.array([0.0, 1.0])


def steered(lane: Lane) -> np.ndarray:
    """Drives well: feedback on error and angle, and the road's own curvature."""
    curvature = lane.roads.at(lane.roads.curvature_BN, lane.cars.s[:, None] + 1.7)[:, 0]
    wanted = np.arctan(WHEELBASE * curvature) - 0.25 * lane.cars.d - 0.9 * lane.cars.psi
    return np.stack([np.clip(wanted / MAX_STEER, -1, 1), np.ones(lane.count)], 1)


def test_an_episode_does_not_depend_on_the_other_rows():
    many, alone = Lane(3), Lane(1)
    seen, own = many.begin([0, 1, 2], [5, 7, 9]), alone.begin([0], [7])
    for step in range(30):
        assert all(np.array_equal(seen[k][1], own[k][0]) for k in own)
        action = np.array([[0.1, 1.0], [0.02 * (step % 3), 0.5], [-0.1, 1.0]])
        result, single = many.step(action), alone.step(action[1:2])
        seen, own = result.observation, single.observation
        assert result.reward_B[1] == single.reward_B[0] and all(
            np.array_equal(result.info[k][1], v[0]) for k, v in single.info.items()
        )
        if step == 20:
            many.begin([0, 2], [1, 2])


def test_a_saved_state_continues_bit_for_bit():
    lane, again = Lane(2), Lane(2)
    lane.begin([0, 1], [3, 4])
    for _ in range(12):
        lane.step(steered(lane))
    again.load_state_dict(lane.state_dict())
    for _ in range(12):
        one, two = lane.step(steered(lane)), again.step(steered(again))
    assert all(np.array_equal(one.observation[k], two.observation[k]) for k in one.observation) and np.array_equal(
        one.reward_B, two.reward_B
    )
    assert np.array_equal(lane.render([0, 1]), again.render([0, 1]))


def test_a_constant_bend_is_followed_at_the_geometric_steering_angle():
    """On a bend of constant radius, steering by arctan(wheelbase / radius) keeps error and angle at 0."""
    lane = Lane(1)
    lane.roads.curvature_BN[:] = 0.04
    steer = np.arctan(WHEELBASE * 0.04)
    cars = Cars(*(np.array([x]) for x in (10.0, 0.0, 0.0, 5.0, steer)))
    for _ in range(40):
        cars = drive(cars, lane.roads, np.array([[steer / MAX_STEER, 2 * 5 * 3.6 / 20 - 1]]))
    assert abs(cars.d[0]) < 1e-9 and abs(cars.psi[0]) < 1e-9 and cars.s[0] == pytest.approx(10 + 40 * TIME_STEP * 5)


def test_a_controller_arrives_and_constant_steering_leaves_the_road():
    for driver, share in ((steered, 1.0), (lambda lane: np.tile(FULL_SPEED, (lane.count, 1)), 0.0)):
        lane = Lane(12)
        lane.begin(range(12), HELD_OUT[:12])
        running, arrived, error = np.ones(12, bool), np.zeros(12, bool), np.zeros(12)
        while running.any():
            result = lane.step(driver(lane))
            ended = running & (result.terminated_B | result.truncated_B)
            arrived[ended], error[ended] = result.info["success"][ended], result.info["offset_square"][ended]
            assert not (result.info["success"] & result.terminated_B).any(), "the end of the road is a truncation"
            running &= ~ended
        assert arrived.mean() == share
        assert (np.sqrt(error.mean()) < 0.15) == bool(share)


def test_the_mirrored_world_shows_mirrored_pictures_rays_and_captions():
    lane, other = Lane(6), Lane(6)
    for world in (lane, other):
        world.begin(range(6), range(40, 46))
        world.cars = Cars(np.linspace(10, 90, 6), np.full(6, 0.6), np.full(6, 0.1), np.ones(6), np.zeros(6))
    for part in ("y_BN", "heading_BN", "curvature_BN"):
        setattr(other.roads, part, -getattr(other.roads, part))
    other.roads.object_BM4[:, :, [1, 3]] *= -np.where(other.roads.object_BM4[:, :, [1, 3]] == roads.AWAY, -1, 1)
    other.roads.marking_B2N = other.roads.marking_B2N[:, ::-1]
    other.cars.d, other.cars.psi = -other.cars.d, -other.cars.psi
    for world in (lane, other):
        world.roads.thickness_B[:] = 0  # noise is not mirrored
    rows = np.arange(6)
    one, two = lane._observe(rows), other._observe(rows)
    assert np.abs(one["image"].astype(int) - two["image"][:, :, ::-1]).max() <= 1
    assert np.allclose(one["lidar"], two["lidar"][:, ::-1], atol=1e-5)
    assert np.abs(lane.camera(rows).astype(int) - other.camera(rows)[:, :, ::-1]).mean() < 0.5
    swap = lambda result: " ".join(SWAPPED.get(word, word) for word in result.split())
    assert [swap(result) for result in lane.captions(rows)] == other.captions(rows)


def test_reward_terms_equal_the_formula():
    found = rewards.terms(np.array([0.5, -1.0]), np.array([10 / 3.6, 20 / 3.6]), np.array([3.5, 6.0]))
    assert np.allclose(found["lane"], [1 - 35 / 100, 1 - 70 / 100]) and np.allclose(found["speed"], [-0.25, 0])
    assert np.allclose(found["center"], [-2.5 * (35 / 80) ** 2, -2.5 * (70 / 80) ** 2])
    assert np.allclose(found["lidar"], [0.5, -0.25])
    points = {1.0: -8, 2.9: 0, 3.0: 5, 4.0: 0, 6.0: -2.5, 8.0: 5, 9.0: 5, 10.0: 0, 50.0: 0}
    assert np.allclose(rewards.distance(np.array(list(points))), list(points.values()))
    assert np.allclose(
        rewards.total(found, Weights()),
        0.3 * found["lane"] + 0.2 * found["speed"] + 0.3 * found["lidar"] + 0.2 * found["center"],
    )
    assert rewards.crash_reward(np.array([10.0])) == -2.8, "the time is that of the episode"


def test_the_lane_is_left_at_85_pixels_and_closeness_counts_over_twenty_steps():
    lane = Lane(2)
    lane.begin([0, 1], [3, 4])
    lane.cars.d[:] = 1.2, 1.23
    lane.cars.psi[:] = 0
    result = lane.step(np.array([[0.0, -1.0]] * 2))
    assert (
        result.info["lost"].tolist() == [False, True]
        and result.terminated_B[1]
        and result.reward_B[1] == pytest.approx(-3 + 0.1 / 50)
    )
    ends = [bool(lane._crashed(np.array([1.9, 5.0]))[0]) for lane.progress.steps[0] in range(2, 12)]
    assert ends == [False] * 9 + [True]


def test_rays_meet_boxes_where_they_stand():
    lane = Lane(1)
    lane.roads.kind_BM[:] = 0
    lane.roads.kind_BM[0, 0], lane.roads.heading_BN[:] = 2, 0.0
    angle = lidar.directions(5)
    seen = (np.full((1, roads.OBJECTS), 4.0), np.zeros((1, roads.OBJECTS)), np.zeros((1, roads.OBJECTS)))
    assert np.allclose(angle, np.pi * np.array([0.4, 0.2, 0, -0.2, -0.4]))
    assert np.allclose(lidar.ranges(angle, seen, lane.roads.kind_BM), [[10, 10, 3.75, 10, 10]])
    near = (np.full((1, roads.OBJECTS), 2.2), *seen[1:])
    assert lidar.collides(near, lane.roads.kind_BM).tolist() == [True] and lidar.collides(
        seen, lane.roads.kind_BM
    ).tolist() == [False]


def test_captions_describe_the_road_and_held_out_weather_is_more_intense():
    lane = Lane(64)
    _, result = scenes(lane, 0)
    assert all(len(caption.split()) == LENGTH and set(caption.split()) <= set(WORDS) for caption in result)
    assert len({c.split()[0] for c in result}) == 4 and {"sharply", "gently", "straight"} == {
        c.split()[2] for c in result
    }
    assert lane.roads.thickness_B.max() <= 0.75
    scenes(lane, 0, held_out=True)
    assert lane.roads.thickness_B.min() >= 0.75 and set(lane.seed_B) <= set(HELD_OUT)
    lane.roads.curvature_BN[:], lane.roads.kind_BM[:], lane.roads.weather_B[:] = 0, 0, 2
    lane.cars.s[:] = 50.0
    ahead = np.arange(lane.roads.curvature_BN.shape[1]) * roads.SPACING - 50
    lane.roads.curvature_BN[0, (ahead >= 1) & (ahead <= 8)] = 0.02
    lane.roads.curvature_BN[1, (ahead >= 7) & (ahead <= 15)] = -0.04
    result = captions.captions(lane.roads, lane.cars.s)
    assert result[:3] == [
        f"fog road {run} nothing ahead"
        for run in ("gently left then straight", "straight ahead then right", "straight ahead then straight")
    ]


def test_classical_vision_finds_the_lane_on_a_clear_road():
    lane = Lane(8, image=(64, 244), weathers=("clear",), error="vision")
    lane.begin(range(8), range(8))
    lane.roads.marking_B2N[:], lane.roads.kind_BM[:] = 1.0, 0
    lane.cars = Cars(np.full(8, roads.START + 1), np.linspace(-0.8, 0.8, 8), np.zeros(8), np.zeros(8), np.zeros(8))
    lane.progress.columns[:] = np.nan
    lane._observe(np.arange(8))
    assert np.abs(lane.error() - lane.cars.d).max() < 0.35 and np.corrcoef(lane.error(), lane.cars.d)[0, 1] > 0.95
    assert vision.lane_error(np.array([[np.nan, np.nan]]), 4.0, 5.0).tolist() == [0.0]


def test_settings_outside_their_range_are_refused():
    with pytest.raises(ValueError, match="'snow' is not one of clear, rain, fog, night"):
        Lane(1, weathers=("snow",))
    with pytest.raises(ValueError, match="neither exact nor vision"):
        Lane(1, error="gps")
    assert environment("lane", 2, rays=9).observation_space["lidar"].shape == (9,)
    assert {f.name for f in fields(Weights)} == set(rewards.terms(*np.ones((3, 1))))


def test_a_core_steps_750_lanes_a_second():
    lane = Lane(4)
    lane.begin(range(4), range(4))
    began = time.process_time()
    for _ in range(100):
        lane.step(np.tile(FULL_SPEED, (4, 1)))
    assert 400 / (time.process_time() - began) > 750, (
        "1,500 steps a second on a core of its own, half of it beside others"
    )
