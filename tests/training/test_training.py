"""The training loop, the learner and the feeds, on a policy whose results can be computed by hand."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from toy import PROBLEMS, Toy, height

from saccade.algorithms.grpo import PolicyGradient, add_reference_logprobs, random_window, sliding_window
from saccade.core import BadProblem, Diverged, Interrupted, Loss, NothingJudged, Rollout, RunFailed
from saccade.evaluation.scoring import score
from saccade.math.advantages import group_advantage
from saccade.models.snapshot import Snapshot
from saccade.random import generator, noise, seeds, stream
from saccade.rewards.rubric import ask, gated, judge, per_tag, weighted
from saccade.training.feeds import DatasetFeed, OnPolicy, join
from saccade.training.groups import repeat_for_groups, sample_groups
from saccade.training.learner import Update, Updates, linear_decay, minibatch
from saccade.training.loop import _Window, fit
from saccade.training.run import Run
from saccade.training.settings import AdamW, Schedule


def collect_with(policy: Toy, reward=height):
    def collect(problems, seeds_P, step) -> Rollout:
        rollout = judge(sample_groups(policy.rollout, problems, seeds_P, 4), {"height": reward})
        rollout.advantage_BT = rollout.broadcast(group_advantage(rollout.rewards["height"].double(), rollout.group_B))
        return rollout

    return collect


def make(policy: Toy, **options) -> Updates:
    loss = PolicyGradient(policy, clip=0.2, average="rows")
    return Updates(
        [Update("toy", loss, policy.parameters(), torch.optim.AdamW(policy.parameters(), lr=0.05))], **options
    )


def run_for(
    steps: int, folder: Path, policy: Toy, reward=height, resume: bool = False, feed=None, save_every=50
) -> dict:
    run = Run.resume(folder, display=False) if resume else Run.start(folder, {"recipe": "toy"}, display=False)
    feed = feed or OnPolicy(PROBLEMS, collect_with(policy, reward), per_step=3, seed=1)
    evaluate = lambda step: {"height": float(policy.mean.detach().sum())}
    with run:
        schedule = Schedule(steps, save_every=save_every)
        return fit(feed, make(policy, minibatches=2), run, schedule, state={"policy": policy}, evaluate=evaluate)


def gradient_of(policy: Toy, learner_options: dict, rollout: Rollout) -> torch.Tensor:
    """The gradient of an optimizer step."""
    gradients = []
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.0)
    optimizer.register_step_pre_hook(lambda *_: gradients.append(policy.mean.grad.clone()))
    loss = PolicyGradient(policy, clip=0.2, average="rows", beta=0.3, kl="k3")
    Updates([Update("toy", loss, policy.parameters(), optimizer)], **learner_options).update(rollout)
    return gradients[0]


def test_learning_raises_the_reward_and_only_the_reward(tmp_path):
    policy = Toy.new()
    result = run_for(40, tmp_path / "run", policy)
    assert result["after"]["height"] > result["before"]["height"] + 1


def test_ten_steps_equal_five_and_five_bit_for_bit(tmp_path):
    whole, halves = Toy.new(), Toy.new()
    run_for(10, tmp_path / "whole", whole)
    run_for(5, tmp_path / "halves", halves)
    fresh = Toy.new()
    result = run_for(10, tmp_path / "halves", fresh, resume=True)
    assert torch.equal(fresh.mean, whole.mean)
    assert result["before"] == {"height": 0.0}, "before stays the first evaluation of all"
    rewards = lambda lines: [(x["step"], x.get("reward/height")) for x in lines]
    assert rewards(_metrics(tmp_path / "whole")) == rewards(_deduplicated(_metrics(tmp_path / "halves")))


def _metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _deduplicated(lines: list[dict]) -> list[dict]:
    # The run that was stopped at 5 evaluated there, as its last step; the whole one did not.
    return [x for x in lines if not (x["step"] == 5 and "eval/height" in x)]


@pytest.mark.parametrize(
    "options", [{"micro_rows": 5}, {"micro_decisions": 2}, {"micro_rows": 1, "micro_decisions": 1}]
)
def test_any_cut_gives_the_gradient_of_the_full_batch(options):
    policy = Toy.new()
    rollout = collect_with(policy)(PROBLEMS, seeds(0, 6, "test"), 0)
    rollout.mask_BT = (torch.rand(rollout.mask_BT.shape, generator=generator(0, "test")) > 0.3).double()
    rollout.extras["length_B"] = rollout.mask_BT.sum(1)
    add_reference_logprobs(policy, Snapshot(policy.parameters()), rollout)
    with torch.no_grad():
        policy.mean += 0.1
    torch.testing.assert_close(gradient_of(policy, options, rollout), gradient_of(policy, {}, rollout))


class OutOfMemoryLoss:
    """A loss that runs out of memory with more than ``room`` rows at once, after some gradients were computed."""

    def __init__(self, loss, room: int):
        self.loss, self.room, self.rows = loss, room, []

    def __call__(self, part: Rollout) -> Loss:
        self.rows.append(len(part))
        loss = self.loss(part)
        if len(part) > self.room:
            loss.total.backward()
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss


def test_out_of_memory_repeats_the_step_in_smaller_parts():
    policy = Toy.new()
    batch = collect_with(policy)(PROBLEMS, seeds(0, 6, "test"), 0)
    add_reference_logprobs(policy, Snapshot(policy.parameters()), batch)
    whole = gradient_of(policy, {}, batch)
    seen, optimizer = [], torch.optim.SGD(policy.parameters(), lr=0.0)
    optimizer.register_step_pre_hook(lambda *_: seen.append(policy.mean.grad.clone()))
    loss = OutOfMemoryLoss(PolicyGradient(policy, clip=0.2, average="rows", beta=0.3, kl="k3"), room=7)
    learner = Updates([Update("toy", loss, policy.parameters(), optimizer)])
    assert learner.update(batch)["health/rows_that_fit"] == 6
    torch.testing.assert_close(seen[0], whole)
    assert loss.rows == [24, 12, 6, 6, 6, 6]
    assert "health/rows_that_fit" not in learner.update(batch) and loss.rows[6:] == [6] * 4, "the size is kept"
    again = Updates([Update("toy", loss, policy.parameters(), optimizer)])
    again.load_state_dict(learner.state_dict())
    assert again.micro_rows == 6


def test_out_of_memory_with_one_row_ends_the_run_with_advice(tmp_path):
    policy = Toy.new()
    update = Update(
        "toy",
        OutOfMemoryLoss(PolicyGradient(policy, clip=0.2), 0),
        policy.parameters(),
        torch.optim.SGD(policy.parameters(), lr=0.1),
    )
    feed = OnPolicy(PROBLEMS, collect_with(policy), per_step=3, seed=1)

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    for name, given in (("learning", feed), ("drawing", OnPolicy(PROBLEMS, full, per_step=3, seed=1))):
        run = Run.start(tmp_path / name, {"recipe": "toy"}, display=False)
        with pytest.raises(RunFailed, match="step 1: the GPU's memory is full.*fewer samples"), run:
            fit(given, Updates([update]), run, Schedule(2), state={"policy": policy})
    run = Run.start(tmp_path / "evaluation", {"recipe": "toy"}, display=False)
    with pytest.raises(RunFailed, match="evaluation at step 0: the GPU's memory is full"), run:
        fit(feed, Updates([update]), run, Schedule(2), state={"policy": policy}, evaluate=full)


def test_a_masked_decision_is_not_trained_whatever_it_holds():
    policy = Toy.new()
    rollout = collect_with(policy)(PROBLEMS[:1], seeds(0, 1, "test"), 0)
    rollout.mask_BT[:, 1] = 0
    rollout.decisions["drawn_BT"][:, 1] = 1e300
    add_reference_logprobs(policy, Snapshot(policy.parameters()), rollout)
    rollout.logp_BT[:, 1] = -1e300
    grad = gradient_of(policy, {}, rollout)
    assert grad[1] == 0 and grad[0] != 0 and grad.isfinite().all()


def test_updates_do_not_leak_into_each_others_weights():
    a, b = (torch.nn.Parameter(torch.ones(())) for _ in range(2))
    product = lambda batch: Loss((a * b).reshape(()), torch.ones(()))
    both = [Update(n, product, [p], torch.optim.SGD([p], lr=0.5)) for n, p in (("a", a), ("b", b))]
    Updates(both).update({})
    assert float(a.detach()) == 0.5 and float(b.detach()) == 0.75, (
        "b's gradient is a after a's step, and a got none from b's loss"
    )
    assert a.requires_grad and b.requires_grad and a.grad is None


def test_update_clocks_every_repeats_and_after():
    p, taken = torch.nn.Parameter(torch.zeros(())), []
    loss = lambda batch: Loss(p.reshape(()), torch.ones(()))
    update = Update("p", loss, [p], torch.optim.SGD([p], lr=1.0), every=2, repeats=3, after=taken.append)
    learner = Updates([update])
    for _ in range(3):
        learner.update({})
    assert float(p.detach()) == pytest.approx(-6, abs=1e-4) and taken == [1, 2, 3, 4, 5, 6]


def test_minibatches_take_an_equal_part_of_every_group():
    policy = Toy.new()
    rollout = sample_groups(policy.rollout, PROBLEMS, seeds(0, 6, "test"), 4)
    for part in range(2):
        mini = minibatch(rollout, part, 2)
        assert mini.group_B.bincount().tolist() == [2] * 6


def test_groups_that_do_not_divide_give_minibatches_of_one_size_and_every_row_once():
    rollout = sample_groups(Toy.new().rollout, PROBLEMS[:4], seeds(0, 4, "test"), 5)
    parts = [minibatch(rollout, part, 4) for part in range(4)]
    assert [len(part) for part in parts] == [5] * 4
    rows = torch.cat([part.logp_BT.flatten() for part in parts])
    torch.testing.assert_close(rows.sort().values, rollout.logp_BT.flatten().sort().values)


def test_a_gradient_that_is_no_number_ends_the_run_with_its_name(tmp_path):
    policy = Toy.new()

    def poisoned(rollout: Rollout) -> torch.Tensor:
        return height(rollout)

    def collect(problems, seeds_P, step):
        rollout = collect_with(policy, poisoned)(problems, seeds_P, step)
        if step == 3:
            rollout.advantage_BT = rollout.advantage_BT * math.inf
        return rollout

    with pytest.raises(RunFailed, match="step 4: the gradient of update 'toy' is"):
        run_for(5, tmp_path / "run", policy, feed=OnPolicy(PROBLEMS, collect, 3, 1), save_every=2)
    again = Toy.new()
    run = Run.resume(tmp_path / "run", display=False)
    with run:
        assert run.load({"policy": again, "learner": make(again), "scores": _Any()}) == 2


class _Any:
    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def test_the_learning_rate_warms_up_and_decays_linearly():
    def rate(warmup: int, decay) -> Callable[[int], float]:
        return AdamW(warmup=warmup).update("weights", lambda part: None, [torch.nn.Parameter()], decay=decay).schedule

    both = rate(5, linear_decay(100, 0.1))
    assert both(0) == 0.2 and both(5) == pytest.approx(0.95) and both(99) == 0.1
    assert rate(0, linear_decay(4))(4) == 0 and rate(4, None)(1) == 0.5


def test_weights_that_run_away_are_told_and_are_not_the_newest_checkpoint(tmp_path):
    policy = Toy.new()

    ruined = lambda steps: policy.mean.data.fill_(math.inf) if steps == 3 else None
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    update = Update("toy", PolicyGradient(policy, clip=0.2), policy.parameters(), optimizer, after=ruined)
    run = Run.start(tmp_path / "weights", {"recipe": "toy"}, display=False)
    line = "step 3: policy holds numbers that are not finite.*smaller learning rate"
    with pytest.raises(Diverged, match=line) as told, run:
        fit(
            OnPolicy(PROBLEMS, collect_with(policy), 3, 1),
            Updates([update]),
            run,
            Schedule(9, save_every=1),
            state={"policy": policy},
        )
    assert f"the last good checkpoint is {tmp_path}/weights/checkpoints/step-000002" in str(told.value)
    assert "resume with" not in str(told.value)
    policy.mean.data.fill_(0.0)

    def samples_of_the_third_are_none(problems, seeds_P, now):
        rollout = collect_with(policy)(problems, seeds_P, now)
        rollout.logp_BT[0, 0] = math.nan if now == 3 else 0.0
        return rollout

    feed = OnPolicy(PROBLEMS, samples_of_the_third_are_none, 3, 1)
    with pytest.raises(Diverged, match="step 4: log-probabilities of samples are not finite: .*step-000002, but"):
        run_for(9, tmp_path / "samples", policy, feed=feed, save_every=1)


def test_a_reward_is_not_blamed_for_pictures_that_are_not_finite():
    rollout = Toy.new().rollout(PROBLEMS[:2], seeds(0, 2, "test"))
    rollout.outputs = torch.full((2, 3, 4, 4), math.nan)
    with pytest.raises(FloatingPointError, match="none of 2 pictures is finite"):
        judge(rollout, {"height": height})
    rollout.outputs[1] = 0.5
    judge(rollout, {"height": height})


@pytest.mark.parametrize("error", [SystemExit(), SystemExit("no key"), ValueError("odd"), IndexError(3), KeyError("x")])
def test_whatever_ends_a_step_the_steps_before_it_are_saved(tmp_path, error):
    policy = Toy.new()

    def collect(problems, seeds_P, step):
        if step == 2:
            raise error
        return collect_with(policy)(problems, seeds_P, step)

    told = IndexError if isinstance(error, IndexError) else KeyError if isinstance(error, KeyError) else RunFailed
    with pytest.raises(told) as caught:
        run_for(9, tmp_path / "run", policy, feed=OnPolicy(PROBLEMS, collect, 3, 1), save_every=50)
    if isinstance(error, SystemExit):
        assert "step 3: code of this run called sys.exit(" in str(caught.value)
    run_for(9, tmp_path / "run", Toy.new(), resume=True)
    assert [x["step"] for x in _metrics(tmp_path / "run") if "reward/height" in x] == list(range(1, 10))


def test_a_switch_that_a_reward_leaves_behind_is_undone_and_told(tmp_path):
    def careless(rollout: Rollout) -> torch.Tensor:
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        return height(rollout)

    policy, usual = Toy.new(), Toy.new()
    run_for(3, tmp_path / "usual", usual)
    with pytest.warns(UserWarning, match=r"torch.set_grad_enabled\(False\) was left behind"):
        run_for(3, tmp_path / "run", policy, careless)
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32
    assert torch.equal(policy.mean, usual.mean)


def test_a_gradient_of_zero_in_spite_of_advantages_is_told():
    policy = Toy.new()
    batch = collect_with(policy)(PROBLEMS, seeds(0, 6, "test"), 0)
    cut_off = lambda part: Loss((policy.mean.detach() * 1.0).sum(), torch.ones(()))
    update = Update("toy", cut_off, policy.parameters(), torch.optim.SGD(policy.parameters(), lr=0.1))
    with pytest.warns(UserWarning, match="the gradient of update 'toy' is exactly zero, though"):
        Updates([update]).update(batch)
    batch.advantage_BT = batch.advantage_BT * 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Updates([update]).update(batch)


class Shelf:
    """Problems of which some cannot be loaded."""

    def __init__(self, broken: set[int]):
        self.broken = broken

    def __len__(self) -> int:
        return len(PROBLEMS)

    def __getitem__(self, index: int):
        if index in self.broken:
            raise ValueError(f"picture {index} is broken")
        return PROBLEMS[index]


def test_a_problem_that_cannot_be_loaded_or_tried_is_skipped_and_counted(tmp_path):
    policy = Toy.new()

    def collect(problems, seeds_P, step):
        if long := [p.id for p in problems if p.id == 4]:
            raise BadProblem("a question without room", long)
        return collect_with(policy)(problems, seeds_P, step)

    feed = OnPolicy(Shelf({1, 2}), collect, 3, 1)
    with pytest.warns(UserWarning, match="skipped: (picture . is broken|a question without room)"):
        run_for(4, tmp_path / "run", policy, feed=feed)
    steps = [x for x in _metrics(tmp_path / "run") if "reward/height" in x]
    assert len(steps) == 4 and sum(x.get("health/skipped_problems", 0) for x in steps) >= 6
    assert [feed.draw(step) for step in range(2)] == [OnPolicy(Shelf({1, 2}), collect, 3, 1).draw(s) for s in range(2)]
    with pytest.raises(ValueError, match="picture . is broken"), pytest.warns(UserWarning):
        OnPolicy(Shelf(set(range(6))), collect, 3, 1)(0)
    with pytest.raises(BadProblem, match="without room"):
        OnPolicy([PROBLEMS[4]], collect, 1, 1)(0)


def test_a_reward_that_fails_on_some_rows_costs_only_those(tmp_path):
    def moody(rollout: Rollout) -> torch.Tensor:
        if any(p.id == 0 for p in rollout.problems):
            raise OSError("broken picture")
        return height(rollout)

    policy = Toy.new()
    rollout = sample_groups(policy.rollout, PROBLEMS[:2], seeds(0, 2, "test"), 2)
    values, error = ask(moody, rollout)
    assert values.isnan().tolist() == [True, True, False, False] and str(error) == "broken picture"
    run_for(2, tmp_path / "run", policy, moody)
    steps = [x for x in _metrics(tmp_path / "run") if "reward/height" in x]
    assert sorted(x.get("health/unjudged_height", 0) for x in steps) == [0, 4]


def test_a_reward_that_hangs_on_some_rows_costs_only_those():
    def stuck(rollout: Rollout) -> torch.Tensor:
        while any(p.id == 0 for p in rollout.problems):
            time.sleep(0.01)
        return height(rollout)

    stuck.timeout = 0.4
    rollout = sample_groups(Toy.new().rollout, PROBLEMS[:2], seeds(0, 2, "test"), 2)
    began = time.monotonic()
    values, error = ask(stuck, rollout)
    assert values.isnan().tolist() == [True, True, False, False] and time.monotonic() - began < 2
    assert "took longer than its patience of 0.4 s" in str(error)


def test_a_reward_that_judges_nothing_stops_the_run_with_its_own_error_and_a_checkpoint(tmp_path):
    calls = []

    def dies(rollout: Rollout) -> torch.Tensor:
        calls.append(1)
        if len(calls) > 2:
            raise ConnectionError("the reward server is gone")
        return height(rollout)

    policy = Toy.new()
    with pytest.raises(
        RunFailed, match="step 3: reward 'height' judged none of 12 samples: ConnectionError: the reward server is gone"
    ):
        run_for(9, tmp_path / "run", policy, dies)
    run_for(9, tmp_path / "run", Toy.new(), resume=True)
    assert [x["step"] for x in _metrics(tmp_path / "run") if "reward/height" in x] == list(range(1, 10))


def test_infinite_and_misshapen_verdicts_are_none():
    rollout = Toy.new().rollout(PROBLEMS[:2], seeds(0, 2, "test"))
    assert ask(lambda r: torch.tensor([math.inf, 1.0]), rollout)[0].isnan().tolist() == [True, False]
    with pytest.raises(NothingJudged, match="one score a row"):
        judge(rollout, {"r": lambda r: torch.ones(5)})
    with pytest.raises(NothingJudged, match="a reward must return a tensor with one score a row, \\[2\\], not list"):
        judge(rollout, {"r": lambda r: [1.0, 1.0]})


def test_a_reward_may_name_several_verdicts():
    def two(rollout: Rollout) -> dict[str, torch.Tensor]:
        if len(rollout) > 1 and rollout.problems[0].id == 0:
            raise OSError("broken picture")
        second = torch.tensor([math.nan if p.id == 1 else 1.0 for p in rollout.problems])
        return {"first": torch.zeros(len(rollout)), "second": second}

    rollout = judge(Toy.new().rollout(PROBLEMS[:3], seeds(0, 3, "test")), {"both": two})
    assert set(rollout.rewards) == {"both", "both.first", "both.second"}
    assert rollout.rewards["both"].tolist() == [0.5, 0.0, 0.5] and rollout.rewards["both.first"].tolist() == [0, 0, 0]
    with pytest.raises(NothingJudged, match="none of 3 samples: a reward must return a tensor with one score a row"):
        judge(rollout, {"both": lambda r: {"a": torch.ones(7)}})


def test_combinations_of_rewards():
    nan = math.nan
    rewards = {"a": torch.tensor([1.0, nan, nan]), "b": torch.tensor([2.0, 3.0, nan])}
    apart = torch.arange(3)
    found = weighted(rewards, {"a": 1.0, "b": 0.5}, apart)
    torch.testing.assert_close(found, torch.tensor([2.0, 1.5, nan]), equal_nan=True)
    torch.testing.assert_close(
        gated(rewards["b"], torch.tensor([1.0, 0, 1])), torch.tensor([2.0, 0, nan]), equal_nan=True
    )
    torch.testing.assert_close(per_tag(rewards, ["a", "b", "b"]), torch.tensor([1.0, 3.0, nan]), equal_nan=True)
    with pytest.raises(ValueError, match="no reward for tag 'c'; there are a, b"):
        per_tag(rewards, ["a", "c", "b"])


def test_a_missing_score_is_not_the_score_0():
    """One of two rewards could not judge one of four equal samples; in the second group one judges nobody."""
    nan, group = math.nan, torch.tensor([0, 0, 0, 0, 1, 1])
    rewards = {"a": torch.ones(6), "b": torch.tensor([1.0, 1, 1, nan, nan, nan])}
    total = weighted(rewards, {"a": 1.0, "b": 1.0}, group)
    assert total[:3].tolist() == [2, 2, 2] and total[3].isnan() and total[4:].tolist() == [1, 1]
    assert (group_advantage(total, group) == 0).all()
    rollout = sample_groups(Toy.new().rollout, PROBLEMS[:2], seeds(0, 2, "test"), 3)
    named = {"first": torch.tensor([1.0, 0, 1, 1, 1, 1]), "second": torch.tensor([1.0, 0, nan, nan, nan, nan])}
    found = judge(rollout, {"both": lambda r: named}).rewards["both"]
    torch.testing.assert_close(found, torch.tensor([1.0, 0, nan, 1, 1, 1]), equal_nan=True)


def test_a_step_in_which_a_reward_judged_nothing_has_no_part_in_the_mean_of_a_line():
    window = _Window()
    for value in (0.5, math.nan, 0.8, 0.7):
        window.add({"reward/b": value, "reward/c": math.nan, "cost/images": 2.0})
    line = window.take()
    assert line["reward/b"] == pytest.approx(2 / 3) and math.isnan(line["reward/c"]) and line["cost/images"] == 8


def test_interrupt_saves_and_resumes(tmp_path):
    policy = Toy.new()
    run = Run.start(tmp_path / "run", {"recipe": "toy"}, display=False)
    feed = OnPolicy(PROBLEMS, collect_with(policy), 3, 1)

    def look(step: int) -> dict[str, float]:
        if step == 3:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGINT)
        return {"height": float(policy.mean.detach().sum())}

    with pytest.raises(Interrupted), run:
        schedule = Schedule(8, evaluate_every=3)
        fit(feed, make(policy, minibatches=2), run, schedule, state={"policy": policy}, evaluate=look)
    whole, again = Toy.new(), Toy.new()
    run_for(8, tmp_path / "whole", whole)
    run_for(8, tmp_path / "run", again, resume=True)
    assert torch.equal(again.mean, whole.mean)


def test_steps_groups_and_intervals_of_zero_raise_an_error(tmp_path):
    with pytest.raises(ValueError, match="a step takes 1 problem or more, not 0"):
        OnPolicy(PROBLEMS, lambda *_: None, 0, 0)
    with pytest.raises(ValueError, match="a group has 1 sample or more, not 0"):
        repeat_for_groups(PROBLEMS[:2], seeds(0, 2, "test"), 0)
    run = Run.start(tmp_path / "run", {}, display=False)
    with pytest.raises(ValueError, match="save_every must be 1 or more, not 0"), run:
        fit(lambda step: None, None, run, Schedule(2, save_every=0), state={})


def test_feeds_draw_every_problem_once_per_pass():
    policy = Toy.new()
    feed = OnPolicy(PROBLEMS, collect_with(policy), 3, 1)
    assert sorted(p.id for step in range(2) for p in feed.draw(step)) == list(range(6))
    assert [p.id for p in feed.draw(5)] == [p.id for p in OnPolicy(PROBLEMS, collect_with(policy), 3, 1).draw(5)]
    data = join([feed(0), feed(1)])
    stored = DatasetFeed(data, rows=8, seed=0)
    ids = [i for step in range(3) for i in stored(step).extras["seed_B"].tolist()]
    assert len(set(ids)) == 24
    with pytest.raises(ValueError, match="a batch of 30 rows cannot be drawn from a dataset of 24"):
        DatasetFeed(data, rows=30, seed=0)
    with pytest.raises(ValueError, match="there are no problems"):
        OnPolicy([], collect_with(policy), 3, 1)


def test_join_pads_shorter_rows_with_masked_decisions():
    long, short = (
        Toy.new(3).rollout(PROBLEMS[:1], seeds(0, 1, "test")),
        Toy.new(2).rollout(PROBLEMS[:1], seeds(0, 1, "test")),
    )
    joined = join([long, short])
    assert joined.mask_BT.tolist() == [[1, 1, 1], [1, 1, 0]] and joined.group_B.tolist() == [0, 1]


def test_seeds_are_independent_and_the_same_again():
    many = torch.cat([stream(seeds(s, 100, "test"), "sample", k) for s in range(3) for k in range(3)])
    assert len(set(many.tolist())) == 900 and (many >= 0).all()
    assert torch.equal(noise(seeds(1, 2, "test"), (3,), "test"), noise(seeds(1, 2, "test"), (3,), "test"))


def test_windows():
    assert sliding_window(0, 4, 10) == (0, 1, 2, 3) and sliding_window(25, 4, 10) == (1, 2, 3, 4)
    assert sliding_window(25 * 6, 4, 10)[-1] == 9 and sliding_window(25 * 7, 4, 10)[0] == 0
    starts = {random_window(0, step, 2, 10)[0] for step in range(200)}
    assert starts == set(range(6))
    assert {random_window(0, step, 5, 8)[-1] for step in range(200)} == {4, 5, 6, 7}


@pytest.mark.parametrize("name", ["epochs", "minibatches", "micro_rows", "micro_decisions"])
def test_a_learner_cut_into_nothing_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be 1 or more, not 0"):
        Updates([], **{name: 0})


def test_a_set_without_problems_has_no_scores():
    assert score({"none": []}, lambda problems, seeds_B: 1 / 0, lambda rollout: rollout) == {}
