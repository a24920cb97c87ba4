"""Rewards of others: whatever one returns, raises or closes is one line, or a number a row."""

from __future__ import annotations

import sys
import time

import pytest
import torch

from saccade.core import NothingJudged, Problem, Rollout
from saccade.rewards.registry import reward
from saccade.rewards.rubric import ask, judge


def rollout(rows: int = 3) -> Rollout:
    zero = torch.zeros(rows, 1)
    return Rollout([Problem(i, "x") for i in range(rows)], {}, ["a"] * rows, zero, zero, torch.arange(rows))


@pytest.mark.parametrize(
    "returned, why",
    [
        (torch.ones(3, 1), r"\[3\], not one of shape \[3, 1\]"),
        (torch.ones(2), r"not one of shape \[2\]"),
        (torch.tensor(1.0), r"not one of shape \[\]"),
        (torch.ones(3).numpy(), r"not ndarray of shape \[3\]"),
        ([1.0] * 3, "not list"),
        (None, "not NoneType"),
        (torch.ones(3) + 1j, "kind torch.complex64"),
        (torch.ones(3, device="meta"), "kind meta"),
        (torch.ones(3).to_sparse(), "kind torch.sparse_coo"),
        ({}, "not dict"),
        ({"": torch.ones(3)}, "by words, not by ''"),
        ({3: torch.ones(3)}, "by words, not by 3"),
        (torch.full((3,), torch.inf), "NaN or infinity for every sample"),
    ],
)
def test_what_is_no_score_is_one_line_and_asked_for_once(returned, why):
    calls = []
    with pytest.raises(NothingJudged, match=why) as caught:
        judge(rollout(), {"mine": lambda r: (calls.append(1), returned)[1]})
    assert "\n" not in str(caught.value) and len(calls) == 1


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.int64, torch.bool])
def test_scores_of_any_real_type_are_taken(kind):
    assert judge(rollout(), {"mine": lambda r: torch.ones(3, dtype=kind)}).rewards["mine"].tolist() == [1, 1, 1]


class Strange(BaseException):
    pass


@pytest.mark.parametrize(
    "error", [SystemExit(0), SystemExit("bad config"), Strange("x"), GeneratorExit(), KeyError("x")]
)
def test_an_error_of_any_kind_is_that_of_the_reward_with_file_and_line(error):
    def mine(rollout: Rollout) -> torch.Tensor:
        raise error

    with pytest.raises(NothingJudged, match=r"test_rubric.py, line \d+\)"):
        judge(rollout(), {"mine": mine})


def test_ctrl_c_still_ends_the_program():
    def mine(rollout: Rollout) -> torch.Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge(rollout(), {"mine": mine})


def test_standard_output_that_a_reward_closes_is_open_again(monkeypatch):
    class Closed:
        closed = True

    monkeypatch.setattr(sys, "stdout", Closed())
    error = ask(lambda r: torch.ones(len(r)), rollout())[1]
    assert "closed standard output" in str(error) and not sys.stdout.closed


@pytest.mark.parametrize("seconds", ["fast", 0, -1.0, float("nan"), float("inf"), True, None])
def test_an_odd_timeout_is_refused(seconds, tmp_path):
    (tmp_path / "r.py").write_text(f"inf = nan = 0.0\ndef f(rollout): ...\nf.timeout = {seconds!r}\n")
    if seconds == seconds and seconds != float("inf"):
        with pytest.raises(ValueError, match="timeout of a reward is a number of seconds above 0"):
            reward(f"{tmp_path / 'r.py'}:f")
    one = lambda r: torch.ones(len(r))
    one.timeout = seconds
    with pytest.raises(ValueError, match="timeout of a reward is a number of seconds above 0"):
        ask(one, rollout())


def test_a_client_that_retries_on_every_error_is_interrupted():
    def mine(rollout: Rollout) -> torch.Tensor:
        swallowed = 0
        while True:
            try:
                time.sleep(0.05)
                raise ConnectionError("server is away")
            except Exception:
                swallowed += 1

    mine.timeout = 0.2
    began = time.monotonic()
    with pytest.raises(NothingJudged, match="TimedOut: took longer than its patience of"):
        judge(rollout(1), {"mine": mine})
    assert time.monotonic() - began < 5


def test_a_file_may_use_dataclasses_and_neighbours_and_is_executed_once(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "parts_of_a_reward.py").write_text("WEIGHT = 2.0\n")
    (tmp_path / "r.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom pathlib import Path\n"
        "import torch\n"
        "from parts_of_a_reward import WEIGHT\nfrom .parts_of_a_reward import WEIGHT as SAME\n"
        "with open(Path(__file__).parent / 'calls', 'a') as log: log.write('x')\n"
        "@dataclass\nclass Weights:\n    a: float = WEIGHT + SAME\n"
        "def f(rollout): return torch.full((len(rollout),), Weights().a)\n"
    )
    for _ in range(3):
        assert ask(reward(f"{tmp_path / 'r.py'}:f"), rollout())[0].tolist() == [4.0] * 3
    assert (tmp_path / "calls").read_text() == "x"


@pytest.mark.parametrize("body, why", [("import sys\nsys.exit(0)", "line 2"), ("x = (", "line 1"), ("1 / 0", "line 1")])
def test_a_file_that_cannot_be_run_is_one_line_with_its_line(tmp_path, body, why):
    (tmp_path / "r.py").write_text(body)
    with pytest.raises(ValueError, match=rf"reward file '.*r.py' cannot be run: .*{why}") as caught:
        reward(f"{tmp_path / 'r.py'}:f")
    assert "\n" not in str(caught.value)
