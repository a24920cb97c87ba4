"""The world "push": what its contacts do, that its expert succeeds, that an episode follows from seed and actions
alone.
"""

from __future__ import annotations

import numpy as np
import pytest

from saccade.envs.push import BLOCK, CONTACT, DEPTH, PEG, SPEED, TOP, Push, dynamics


def place(x=0.0, y=0.5, block=0.5, hole=-0.5) -> np.ndarray:
    """One row: peg at rest, block, hole."""
    return np.array([[x, y, 0.0, 0.0, block, hole]])


def held(state_B6: np.ndarray, action: tuple[float, float], steps: int = 30, clearance: float = 0.02) -> np.ndarray:
    """The row after the same action many times."""
    for _ in range(steps):
        state_B6 = dynamics(state_B6, np.array([action]), clearance)
    return state_B6[0]


def success(noise: float, count: int = 200) -> np.ndarray:
    """Whether the expert with Gaussian noise succeeds, for each of so many episodes."""
    env, rng = Push(count), np.random.default_rng(7)
    env.begin(range(count), range(count))
    running, won = np.ones(count, bool), np.zeros(count, bool)
    for _ in range(env.steps):
        action = env.expert()
        step = env.step(action + noise * rng.standard_normal(action.shape))
        won |= step.info["success"] & running
        running &= ~(step.terminated_B | step.truncated_B)
    assert not running.any()
    return won


def test_the_expert_succeeds_and_random_actions_do_not():
    assert success(0.0).mean() > 0.99
    assert success(0.3).mean() > 0.9
    assert success(2.0).mean() < 0.05


def test_bench_block_and_hole_constrain_the_peg():
    assert held(place(x=0.0), (0, -1))[1] == 0, "the bench holds the peg"
    assert held(place(x=0.5), (0, -1))[1] == TOP, "so does the block"
    assert held(place(x=-0.5), (0, -1))[1] == -DEPTH, "the hole lets it in"
    assert held(place(x=-0.475), (0, -1))[1] == 0, "a quarter of a clearance beside it is too far"
    pushed = held(place(x=0.0, y=0.1), (1, 0))
    assert pushed[4] == 1 - BLOCK and np.isclose(pushed[0], 1 - BLOCK - CONTACT), (
        "the block slides to the end and stops the peg"
    )
    over = held(place(x=0.0, y=0.3), (1, 0))
    assert over[4] == 0.5 and over[0] == 1 - PEG, "above the block nothing is pushed"
    inside = held(place(x=-0.5, y=-0.1), (1, 0))
    assert np.isclose(inside[0], -0.48) and inside[1] == -0.1, "in the hole there is the clearance and no more"
    free, pressed = (held(place(y=0.0), (1, down), 5)[0] for down in (0, -1))
    assert 0 < pressed < 0.5 * free, "under pressure the peg slides half as far"


def test_the_first_move_by_hand():
    after = dynamics(place(), np.array([[1.0, -0.5]]), 0.02)[0]
    assert np.allclose(after, [0.6 * SPEED, 0.5 - 0.3 * SPEED, 0.6 * SPEED, -0.3 * SPEED, 0.5, -0.5])


def test_an_episode_follows_from_its_seed_and_its_actions():
    many, one, rng = Push(5, observe="image"), Push(1, observe="image"), np.random.default_rng(0)
    many.begin(range(5), range(5)), one.begin([0], [3])
    for k in range(20):
        action = rng.uniform(-1, 1, (5, 2)).astype(np.float32)
        if k == 10:
            state, many = many.state_dict(), Push(5, observe="image")
            many.load_state_dict(state)
        far, near = many.step(action), one.step(action[3:4])
        assert all(np.array_equal(far.observation[name][3], near.observation[name][0]) for name in far.observation)
    assert np.array_equal(many.begin([1], [3])["image"], Push(1, observe="image").begin([0], [3])["image"])


def test_success_is_rewarded_once_and_episodes_are_truncated():
    env = Push(2, steps=3)
    env.begin([0, 1], [0, 1])
    env.state_B6[0] = [0.0, -0.15, 0.0, 0.0, 0.9, 0.0]
    won = env.step(np.array([[0.0, -1.0], [0.0, 0.0]]))
    assert won.reward_B.tolist() == [1.0, 0.0] and won.terminated_B.tolist() == [True, False]
    env.begin([0], [0])
    ends = [env.step(np.zeros((2, 2))).truncated_B.tolist() for _ in range(2)]
    assert ends == [[False, False], [False, True]]


def test_pictures_show_where_things_are():
    env = Push(2, "image", pixels=64)
    seen = env.begin([0, 1], [5, 6])
    assert seen["body"].shape == (2, 4) and seen["image"].shape == (2, 64, 64, 3) and seen["image"].dtype == np.uint8
    env.state_B6[0] = [0.0, 0.0, 0.0, 0.0, 0.5, -0.5]
    picture = env.render([0])[0]
    row = lambda y: int((1.5 - y) * 48)
    column = lambda x: int((x + 1) * 48)
    assert picture[row(0.1), column(0.5)].tolist() == [214, 140, 62]
    assert picture[row(0.1), column(0.0)].tolist() == [40, 110, 190]
    assert picture[row(-0.1), column(-0.5)].tolist() == [236, 240, 245]
    assert picture[row(-0.1), column(0.3)].tolist() == [92, 98, 110]


def test_settings_outside_their_range_are_refused():
    for wrong in (
        {"count": 0},
        {"count": 1, "clearance": 0.0},
        {"count": 1, "steps": 0},
        {"count": 1, "pixels": 0},
        {"count": 1, "observe": "sound"},
    ):
        with pytest.raises(ValueError):
            Push(**wrong)
