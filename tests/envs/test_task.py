"""A control task scores a policy on its test episodes, always the same ones, and shows the first of them with their
paths.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from saccade import envs
from saccade.core import Step, mean_scores
from saccade.envs.task import ControlTask
from saccade.training.run import Run


class Line:
    """A place on a line that starts at 0 and moves by the action, to 1 within ``steps``; lengths depend on the seed."""

    name = "line"
    observation_space = spaces.Dict({"state": spaces.Box(-9, 9, (1,), np.float32)})
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, count: int, steps: int = 9, side: str = "right"):
        self.count, self.steps, self.sign = count, steps, {"right": 1, "left": -1}[side]
        self.place_B, self.time_B, self.seed_B = (
            np.zeros(count, np.float32),
            np.zeros(count, int),
            np.zeros(count, np.int64),
        )

    def begin(self, rows, seeds):
        self.place_B[rows], self.time_B[rows], self.seed_B[rows] = 0, 0, seeds
        return {"state": self.place_B[rows, None].copy()}

    def step(self, action_B):
        self.place_B = self.place_B + self.sign * action_B[:, 0] / (2 + self.seed_B % 4)
        self.time_B = self.time_B + 1
        there_B = self.place_B >= 0.999
        info = {
            "success": there_B,
            "position": np.stack([self.place_B, 0 * self.place_B], 1),
            "untold": np.full(self.count, np.nan),
        }
        return Step(
            {"state": self.place_B[:, None].copy()},
            there_B * 10.0 - 1.0,
            there_B,
            ~there_B & (self.time_B >= self.steps),
            info,
        )

    def render(self, rows):
        return np.broadcast_to(
            (self.place_B[list(rows)] * 200).clip(0, 255)[:, None, None, None], (len(rows), 6, 8, 3)
        ).astype(np.uint8)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class Right:
    """Goes right by ``speed``."""

    def __init__(self, speed: float):
        self.speed = speed

    def act(self, seen, draw_BD):
        assert draw_BD is None
        rows = len(seen["state"])
        return SimpleNamespace(
            action_B=torch.full((rows, 1), self.speed), logp_B=torch.zeros(rows), value_B=torch.zeros(rows)
        )


@pytest.fixture
def task(monkeypatch):
    monkeypatch.setitem(envs.WORLDS, "line", Line)
    return ControlTask("line", ("steps=9", "side=right"), test_episodes=7, test_rows=3, video_episodes=2)


def test_scores_do_not_depend_on_the_number_of_rows(task, monkeypatch):
    lengths = np.array([2 + seed % 4 for seed in task.seeds()])
    score = lambda task, speed: mean_scores(task.score(Right(speed)))
    found = score(task, 1.0)
    assert found == score(task, 1.0) and {"return", "return, standard error", "length", "success"} <= set(found)
    assert (
        found["return"] == pytest.approx((10 - lengths).mean())
        and found["length"] == lengths.mean()
        and found["success"] == 1
    )
    assert found["return, standard error"] == pytest.approx((10 - lengths).std(ddof=1) / 7**0.5)
    assert score(ControlTask("line", test_episodes=7, test_rows=7), 1.0) == pytest.approx(found)
    still = score(task, 0.0)
    assert (still["return"], still["return, standard error"], still["length"], still["success"]) == (-9, 0, 9, 0)
    assert score(ControlTask("line", test_episodes=1), 1.0).keys() == {"return", "length", "success"}


def test_the_first_episodes_are_logged_as_videos_with_paths(task, tmp_path):
    shown = {}
    task.score(Right(1.0), lambda name, items: shown.update({name: items}))
    (items,) = shown.values()
    for number, (item, seed) in enumerate(zip(items, task.seeds(), strict=False), 1):
        length = 2 + seed % 4
        assert (
            item["prompt"] == f"episode {number}"
            and item["note"] == f"{length} steps, success"
            and item["score"] == 10 - length
        )
        assert item["clip"].shape == (length + 1, 6, 8, 3) and np.allclose(
            item["path"][:, 0], np.arange(1, length + 1) / length
        )
    assert len(items) == 2
    with Run.start(tmp_path / "r", {"recipe": "x"}, display=False) as run:
        run.samples(0, "test", items)
    assert (tmp_path / "r" / "samples" / "test" / "000000-01.webp").is_file()


def test_settings_are_parsed_and_wrong_ones_refused(task):
    world = ControlTask("line", ("steps=3",)).make(2)
    assert (world.count, world.steps) == (2, 3) and len(set(task.seeds())) == 7
    wrong = {
        "steps": "must be name=value",
        "step=3": "nearest: steps",
        "steps=.5": "steps is a number such as 9, not '.5'",
    }
    for setting, why in wrong.items():
        with pytest.raises(ValueError, match=why):
            ControlTask("line", (setting,)).make(2)


def test_the_packages_worlds_can_be_scored():
    torch.manual_seed(0)
    task = ControlTask("reach", test_episodes=4, test_rows=2, video_episodes=1)
    world, shown = task.make(1), []
    width = world.action_space.shape[0]

    def act(seen, draw_BD):
        rows = len(next(iter(seen.values())))
        return SimpleNamespace(action_B=torch.zeros(rows, width), logp_B=torch.zeros(rows), value_B=torch.zeros(rows))

    found = task.score(SimpleNamespace(act=act), lambda name, items: shown.extend(items))
    assert {"return", "length"} <= set(found) and len(shown) == 1 and shown[0]["clip"].dtype == np.uint8


def test_several_processes_are_refused_where_all_would_act_alike(monkeypatch, task):
    monkeypatch.setattr("saccade.training.distributed.world", lambda: 2)
    with pytest.raises(ValueError, match="line is acted in by one process, not by 2: start without torchrun"):
        task.make(1)
