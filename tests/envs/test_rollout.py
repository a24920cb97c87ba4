"""Episodes: each depends on its seed alone, resumes bit for bit, bootstraps what was truly seen; failures cost
nothing.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy import stats
from torch import Tensor

from saccade.core import Action, EnvironmentFailed, Step
from saccade.envs import environment
from saccade.envs.action_noise import AHEAD, ActionNoise
from saccade.envs.rollout import RolloutCollector, run_episodes
from saccade.random import stream
from saccade.training.checkpoint import read, write


class Toy:
    """Pushes at random; a state is worth the sum of its numbers, added up in one order whatever the number of rows."""

    def __init__(self, discrete: bool = False):
        self.discrete = discrete

    def act(self, seen, draw_BD):
        value = self.value(seen)
        if self.discrete:
            action = torch.zeros(len(value), dtype=torch.int64) if draw_BD is None else (draw_BD[:, 0] < 0.5).long()
            return Action(action, torch.full_like(value, -0.7), value)
        action = torch.zeros(len(value), 2) if draw_BD is None else draw_BD
        return Action(action, -(action**2).sum(1) / 2, value)

    def value(self, seen):
        return sum(seen["state"][:, i] for i in range(seen["state"].shape[1]))


class Count:
    """Shows how many steps there were, in units of the seed; ends by itself if the seed is even, is cut off if it is
    odd.
    """

    name = "count"
    observation_space = spaces.Dict({"state": spaces.Box(0, 1e6, (1,), np.float32)})
    action_space = spaces.Discrete(2)

    def __init__(self, count: int, last: int = 3, fails_at: int | None = None):
        self.count, self.last, self.fails_at, self.calls = count, last, fails_at, 0
        self.seed_B, self.step_B = np.ones(count, np.int64), np.zeros(count, np.int64)

    def begin(self, rows, seeds):
        for row, seed in zip(rows, seeds):
            self.seed_B[row], self.step_B[row] = int(seed) % 100, 0
        return {"state": self.observation()[list(rows)]}

    def observation(self):
        return np.float32(self.seed_B + 100 * self.step_B)[:, None]

    def step(self, action_B):
        self.calls += 1
        if self.calls == self.fails_at:
            raise EnvironmentFailed("environment 'count': gave up")
        self.step_B += 1
        over_B = self.step_B >= self.last
        even_B = self.seed_B % 2 == 0
        info = {"steps": self.step_B, "pair": np.stack([self.step_B, self.seed_B], 1)}
        return Step({"state": self.observation()}, np.float32(action_B), over_B & even_B, over_B & ~even_B, info)

    def render(self, rows):
        return np.stack([np.full((4, 4, 3), self.step_B[row], np.uint8) for row in rows])

    def state_dict(self):
        return {"seed_B": torch.tensor(self.seed_B), "step_B": torch.tensor(self.step_B)}

    def load_state_dict(self, state):
        self.seed_B, self.step_B = state["seed_B"].numpy().copy(), state["step_B"].numpy().copy()


def flat(rollout) -> list[Tensor]:
    parts = {**rollout.decisions, **rollout.extras, **rollout.rewards, "logp": rollout.logp_BT}
    return [parts[name] for name in sorted(parts)]


def same(one, other) -> bool:
    ended = [[[(e.seed, e.total, e.length, e.info) for e in row] for row in r.outputs] for r in (one, other)]
    return all(map(torch.equal, flat(one), flat(other))) and ended[0] == ended[1]


def test_a_segment_stores_observations_actions_and_results():
    rollout = RolloutCollector(Count(3), Toy(discrete=True), length=7, seed=1)(0)
    extras, seen = rollout.extras, rollout.decisions["observation.state_BT"]
    assert rollout.logp_BT.shape == rollout.mask_BT.shape == rollout.rewards["reward"].shape == (3, 7)
    assert seen.shape == (3, 7, 1) and rollout.decisions["action_BT"].dtype == torch.int64
    assert extras["terminated_BT"].dtype == extras["truncated_BT"].dtype == torch.bool
    assert (seen[..., 0] // 100 == torch.tensor([0, 1, 2, 0, 1, 2, 0])).all()
    assert (extras["info.steps_BT"] == torch.tensor([1, 2, 3, 1, 2, 3, 1])).all() and extras["info.pair_BT"].shape == (
        3,
        7,
        2,
    )
    assert torch.equal(rollout.rewards["reward"], rollout.decisions["action_BT"].float())
    own = [[stream(1, "episode", i)] for i in range(9)]
    assert [e.seed for row in rollout.outputs for e in row] == [own[i][0] for i in (0, 3, 1, 4, 2, 5)]
    assert all(e.length == 3 and e.info["steps"] == 3 for row in rollout.outputs for e in row)
    assert rollout.rows(torch.tensor([1])).columns(slice(0, 2)).extras["value_BT"].shape == (1, 2)


def test_ends_are_bootstrapped_from_the_true_last_observation():
    rollout = RolloutCollector(Count(4), Toy(discrete=True), length=8, seed=3)(0)
    steps_T = torch.tensor([1, 2, 3, 1, 2, 3, 1, 2])
    seed_BT = rollout.decisions["observation.state_BT"][..., 0] % 100
    assert torch.equal(rollout.extras["next_value_BT"], seed_BT + 100 * steps_T)
    ends = rollout.extras["terminated_BT"] | rollout.extras["truncated_BT"]
    assert torch.equal(ends, (steps_T == 3).expand(4, 8)) and rollout.extras["truncated_BT"].any()
    assert torch.equal(rollout.extras["terminated_BT"][ends], seed_BT[ends] % 2 == 0)


def test_consecutive_segments_equal_one_long_segment():
    long = RolloutCollector(Count(2, last=5), Toy(discrete=True), length=12, seed=4)(0)
    cut = RolloutCollector(Count(2, last=5), Toy(discrete=True), length=4, seed=4)
    parts = [cut(i) for i in range(3)]
    for name, value in {**long.decisions, **long.extras}.items():
        if name.endswith("_BT"):
            assert torch.equal(value, torch.cat([{**p.decisions, **p.extras}[name] for p in parts], 1)), name


@pytest.mark.parametrize("name, settings", [("reach", {"observe": "state", "distract": 1.0}), ("CartPole-v1", {})])
def test_an_episode_depends_on_its_seed_alone(name, settings):
    policy, own = Toy(discrete=name != "reach"), list(range(100, 107))
    film = 2 if name == "reach" else 0
    found = [
        run_episodes(environment(name, rows, **settings), policy, own, greedy=False, videos=film) for rows in (1, 3, 16)
    ]
    assert [e.seed for e in found[0]] == own and len({e.total for e in found[0]}) > 3
    for other in found[1:]:
        assert [(e.seed, e.total, e.length, e.info) for e in other] == [
            (e.seed, e.total, e.length, e.info) for e in found[0]
        ]
        for one, two in zip(found[0][:film], other):
            assert len(one.frames) == one.length + 1 and np.array_equal(one.frames, two.frames)
        assert all(e.frames is None for e in other[film:])


def test_training_and_evaluation_run_the_same_episodes():
    feed = RolloutCollector(environment("CartPole-v1", 3), Toy(discrete=True), length=64, seed=9)
    ended = [e for row in feed(0).outputs for e in row]
    again = run_episodes(environment("CartPole-v1", 2), Toy(discrete=True), [e.seed for e in ended], greedy=False)
    assert len(ended) > 3 and [(e.total, e.length) for e in ended] == [(e.total, e.length) for e in again]


def test_fewer_seeds_than_rows_give_as_many_episodes():
    assert run_episodes(Count(3), Toy(discrete=True), []) == []
    few = run_episodes(Count(3), Toy(discrete=True), torch.tensor([8, 7]), videos=1)
    assert [e.seed for e in few] == [8, 7] and [f[0, 0, 0] for f in few[0].frames] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "name, settings", [("reach", {"observe": "both", "distract": 1.0}), ("CartPole-v1", {}), ("Pendulum-v1", {})]
)
def test_collection_resumes_from_a_checkpoint_bit_for_bit(name, settings, tmp_path):
    def feed():
        world = environment(name, 3, **settings)
        return RolloutCollector(
            world, Toy(discrete=name == "CartPole-v1") if name != "Pendulum-v1" else Narrow(), length=23, seed=2
        )

    one = feed()
    first = [one(i) for i in range(5)]
    two = feed()
    assert all(same(two(i), first[i]) for i in range(2))
    path = write(tmp_path, 2, {"feed": two.state_dict()})
    three = feed()
    three.load_state_dict(read(path)[1]["feed"])
    assert all(same(three(i), first[i]) for i in range(2, 5))


class Narrow(Toy):
    def act(self, seen, draw_BD):
        acted = super().act(seen, draw_BD)
        return acted._replace(action_B=acted.action_B[:, :1])


def test_a_failed_call_leaves_the_state_unchanged():
    good, bad = (
        RolloutCollector(Count(2, last=4, fails_at=at), Toy(discrete=True), length=5, seed=6) for at in (None, 8)
    )
    wanted = [good(i) for i in range(3)]
    assert same(bad(0), wanted[0])
    before = bad.state_dict()
    with pytest.raises(EnvironmentFailed, match="gave up"):
        bad(1)
    fresh = RolloutCollector(Count(2, last=4), Toy(discrete=True), length=5, seed=6)
    fresh.load_state_dict(bad.state_dict())
    assert fresh.state_dict()["begun"] == before["begun"]
    assert same(fresh(1), wanted[1]) and same(bad(1), wanted[1]) and same(bad(2), wanted[2])
    never = RolloutCollector(Count(2, fails_at=1), Toy(discrete=True), length=5, seed=6)
    with pytest.raises(EnvironmentFailed):
        never(0)
    assert never.state_dict() == {"begun": 0, "running": None}


def test_action_noise_follows_from_seed_and_step_alone():
    own, steps = [5, 2**62 + 1, 0], np.array([0, AHEAD - 1, 5 * AHEAD + 3])
    together = ActionNoise(own, 4)
    found = together.at(steps)
    assert found.shape == (3, 4) and found.dtype == torch.float32
    for row in range(3):
        alone = ActionNoise([own[row]], 4)
        passed = [alone.at(np.array([step])) for step in range(steps[row] + 1)]
        assert torch.equal(passed[-1][0], found[row])
    together.begin([1], [5])
    assert torch.equal(together.at(np.array([0, 0, 0]))[1], found[0])
    assert not torch.equal(found[0], ActionNoise([6], 4).at(np.array([0]))[0])
    space = ActionNoise.of(spaces.Discrete(7), [1, 2]), ActionNoise.of(spaces.Box(-1, 1, (2, 3)), [1, 2])
    assert [d.at(np.zeros(2, np.int64)).shape for d in space] == [(2, 1), (2, 6)]


def test_action_noise_is_normal_or_uniform():
    many = lambda **k: torch.cat(
        [d.at(np.full(200, s)) for d in [ActionNoise(range(200), 2, **k)] for s in range(100)]
    ).flatten()
    assert stats.kstest(many().numpy(), "norm").pvalue > 1e-3
    even = many(uniform=True)
    assert stats.kstest(even.numpy(), "uniform").pvalue > 1e-3 and 0 <= even.min() and even.max() < 1


def test_segments_without_steps_are_refused():
    with pytest.raises(ValueError, match="segments of 0 steps"):
        RolloutCollector(Count(1), Toy(discrete=True), length=0, seed=0)


def test_an_endless_episode_is_cut_off_and_told():
    with pytest.warns(UserWarning, match="an episode of count did not end and was cut off after 5 steps"):
        cut = run_episodes(Count(2, last=10**9), Toy(discrete=True), [8, 7, 6], longest=5)
    assert [(e.seed, e.length) for e in cut] == [(8, 5), (7, 5), (6, 5)]


def test_a_long_video_keeps_few_frames_evenly_spaced_and_the_last():
    drawn = []

    class Filmed(Count):
        def render(self, rows):
            drawn.extend(rows)
            return np.stack([np.full((400, 2, 3), self.step_B[row] % 256, np.uint8) for row in rows])

    (episode,) = run_episodes(Filmed(1, last=250), Toy(discrete=True), [8], videos=1)
    steps = episode.frames[:, 0, 0, 0].tolist()
    assert steps == [*range(0, 251, 2)] and episode.frames.shape[1] == 192
    assert len(drawn) < 251
