"""The training loop, the learner and the feeds, on a policy whose results can be computed by hand."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest
import torch
from toy import PROBLEMS, Toy, height

from saccade.algorithms.grpo import PolicyGradient, add_reference_logprobs, random_window, sliding_window
from saccade.core import Interrupted, Loss, NothingJudged, Rollout, RunFailed
from saccade.evaluation.scoring import score
from saccade.math.advantages import group_advantage
from saccade.models.snapshot import Snapshot
from saccade.random import generator, noise, seeds, stream
from saccade.rewards.rubric import ask, gated, judge, per_tag, weighted
from saccade.training.claims import Claim, level
from saccade.training.claims import judge as judge_claim
from saccade.training.feeds import DatasetFeed, OnPolicy, join
from saccade.training.groups import repeat_for_groups, sample_groups
from saccade.training.learner import Update, Updates, minibatch, rise_and_fall
from saccade.training.loop import fit
from saccade.training.run import Run


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


def run_for(steps: int, folder: Path, policy: Toy, reward=height, resume: bool = False, feed=None, **kwargs) -> dict:
    run = Run.resume(folder, display=False) if resume else Run.start(folder, {"recipe": "toy"}, display=False)
    feed = feed or OnPolicy(PROBLEMS, collect_with(policy, reward), per_step=3, seed=1)
    evaluate = lambda step: {"height": float(policy.mean.detach().sum())}
    with run:
        return fit(feed, make(policy, minibatches=2), run, steps, state={"policy": policy}, evaluate=evaluate, **kwargs)


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
            fit(given, Updates([update]), run, 2, state={"policy": policy})
    run = Run.start(tmp_path / "evaluation", {"recipe": "toy"}, display=False)
    with pytest.raises(RunFailed, match="evaluation at step 0: the GPU's memory is full"), run:
        fit(feed, Updates([update]), run, 2, state={"policy": policy}, evaluate=full)


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


def test_rates_rise_and_fall():
    rate = rise_and_fall(100, 5, 0.1)
    assert rate(0) == 0.2 and rate(5) == pytest.approx(0.95) and rate(99) == 0.1 and rise_and_fall(4, 0)(4) == 0


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
    with pytest.raises(NothingJudged, match="a reward must return a tensor with one score a row, not list"):
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
    with pytest.raises(NothingJudged, match="none of 3 samples: ValueError: a reward must return one score a row"):
        judge(rollout, {"both": lambda r: {"a": torch.ones(7)}})


def test_combinations_of_rewards():
    nan = math.nan
    rewards = {"a": torch.tensor([1.0, nan, nan]), "b": torch.tensor([2.0, 3.0, nan])}
    torch.testing.assert_close(weighted(rewards, {"a": 1.0, "b": 0.5}), torch.tensor([2.0, 1.5, nan]), equal_nan=True)
    torch.testing.assert_close(
        gated(rewards["b"], torch.tensor([1.0, 0, 1])), torch.tensor([2.0, 0, nan]), equal_nan=True
    )
    torch.testing.assert_close(per_tag(rewards, ["a", "b", "b"]), torch.tensor([1.0, 3.0, nan]), equal_nan=True)
    with pytest.raises(ValueError, match="no reward for tag 'c'; there are a, b"):
        per_tag(rewards, ["a", "c", "b"])


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
        fit(feed, make(policy, minibatches=2), run, 8, state={"policy": policy}, evaluate=look, evaluate_every=3)
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
        fit(lambda step: None, None, run, 2, state={}, save_every=0)


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


def test_who_began_elsewhere_is_judged_by_where_it_ended():
    other = {"return@0": -1000.0, "return": 0.0}
    assert level({"return@0": -500.0, "return": -40.0}, other, "return", within=0.05) == 10.0
    assert level({"return@0": -5000.0, "return": -60.0}, other, "return", within=0.05) == -10.0


def test_claims_need_the_mean_and_two_thirds_of_the_seeds():
    results = {"a": {s: {"x": v} for s, v in enumerate((0.3, 0.3, -0.5))}, "b": {s: {"x": 0.0} for s in range(3)}}
    claim = Claim("a beats b", lambda arm: arm["a"]["x"] - arm["b"]["x"])
    assert judge_claim(claim, results)["holds"], "mean +0.03 and two of three"
    assert not judge_claim(Claim("a beats b by 0.1", claim.margin, least=0.1), results)["holds"]
    assert not judge_claim(Claim("always", claim.margin, every_seed=True), results)["holds"]
    results["a"][0]["x"] = math.nan
    assert judge_claim(claim, results)["holds"] is None


@pytest.mark.parametrize("name", ["epochs", "minibatches", "micro_rows", "micro_decisions"])
def test_a_learner_cut_into_nothing_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be 1 or more, not 0"):
        Updates([], **{name: 0})


def test_a_set_without_problems_has_no_scores():
    assert score({"none": []}, lambda problems, seeds_B: 1 / 0, lambda rollout: rollout) == {}
