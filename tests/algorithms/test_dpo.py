"""Losses on pairs against closed forms, pairs of groups, and offline data sets: stored, shuffled, regenerated."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from toy import PROBLEMS, Toy, height

from saccade.algorithms.dpo import DPO, PreferenceLoss, best_worst_pairs, dpo, ipo, make_pairs
from saccade.algorithms.grpo import add_reference_logprobs
from saccade.core import Problem
from saccade.models.snapshot import Snapshot
from saccade.random import seeds
from saccade.training.feeds import DatasetFeed, RegeneratedFeed, cached_rollout, join
from saccade.training.groups import sample_groups
from saccade.training.learner import Update, Updates


def test_losses_equal_their_closed_forms():
    margin = torch.tensor([0.0, 3.0, -2.0], dtype=torch.float64)
    expected = [math.log(2), math.log(1 + math.exp(-0.3)), math.log(1 + math.exp(0.2))]
    torch.testing.assert_close(dpo(margin, 0.1), torch.tensor(expected, dtype=torch.float64))
    flipped = [
        0.8 * a + 0.2 * b
        for a, b in zip(expected, [math.log(2), math.log(1 + math.exp(0.3)), math.log(1 + math.exp(-0.2))])
    ]
    torch.testing.assert_close(dpo(margin, 0.1, 0.2), torch.tensor(flipped, dtype=torch.float64))
    torch.testing.assert_close(ipo(margin, 0.25), torch.tensor([4.0, 1.0, 16.0], dtype=torch.float64))


@pytest.mark.parametrize("loss", [lambda m: dpo(m, 0.7), lambda m: dpo(m, 0.7, 0.1), lambda m: ipo(m, 0.7)])
def test_gradients_agree_with_finite_differences(loss):
    margin = torch.linspace(-4, 4, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, margin)


def test_dpo_does_not_overflow_and_label_smoothing_bounds_the_margin():
    wild = torch.tensor([-1e6, 1e6], requires_grad=True)
    dpo(wild, 1.0).sum().backward()
    assert wild.grad.tolist() == [-1.0, 0.0]
    rest = torch.tensor(math.log(0.9 / 0.1), requires_grad=True)
    dpo(rest, 1.0, 0.1).backward()
    assert abs(rest.grad.item()) < 1e-7


def test_best_and_worst_leave_out_ties_small_gaps_and_rows_without_a_score():
    nan = float("nan")
    score = torch.tensor([1.0, 3.0, 2.0, 5.0, 5.0, nan, 0.5, nan, 7.0, 7.2])
    group = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 3, 3])
    assert [x.tolist() for x in best_worst_pairs(score, group)] == [[1, 9], [0, 8]]
    assert [x.tolist() for x in best_worst_pairs(score, group, 0.5)] == [[1], [0]]
    assert [len(x) for x in best_worst_pairs(score[:0], group[:0])] == [0, 0]


def pairs_of(policy: Toy, group_size: int = 4, min_gap: float = 0.0):
    rollout = sample_groups(policy.rollout, PROBLEMS, seeds(0, len(PROBLEMS), "test"), group_size)
    rollout.rewards["total"] = height(rollout)
    found = DPO(min_gap=min_gap).pairs(rollout, rollout.rewards["total"])
    found.extras["reference_logp_BT"] = found.logp_BT
    return found


def test_pairs_are_neighbours_best_first_without_outputs():
    found = pairs_of(Toy.new())
    assert found.group_B.tolist() == [g for g in range(6) for _ in range(2)] and found.outputs.shape == (12, 0)
    assert (height(found)[0::2] > height(found)[1::2]).all()
    assert len(pairs_of(Toy.new(), min_gap=1e9)) == 0


def test_the_objective_is_the_formula_and_its_gradient_that_of_likelihood_differences():
    policy = Toy.new()
    found = pairs_of(policy)
    policy.mean.data += torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
    loss = DPO(beta=0.5).loss(policy)(found)
    change = (policy.likelihood(found).logp_BT - found.logp_BT).sum(1)
    margin = (change[0::2] - change[1::2]).detach()
    torch.testing.assert_close(loss.mean(), -torch.nn.functional.logsigmoid(0.5 * margin).mean())
    loss.mean().backward()
    drawn = found.decisions["drawn_BT"]
    pull = -0.5 * torch.sigmoid(-0.5 * margin)  # d loss / d margin; of the margin: drawn_w - drawn_l for each mean
    torch.testing.assert_close(policy.mean.grad, (pull[:, None] * (drawn[0::2] - drawn[1::2])).mean(0))
    assert float(loss.metrics["accuracy"]) == float((margin > 0).sum())


def test_the_mean_is_the_sum_with_a_smaller_beta():
    policy = Toy.new()
    found = pairs_of(policy)
    policy.mean.data += 0.4
    alike = [PreferenceLoss(policy, 0.6, average="mean")(found).total, PreferenceLoss(policy, 0.2)(found).total]
    torch.testing.assert_close(*alike)


def test_ipo_averages_over_decisions_as_published_and_dpo_adds_them_up():
    policy = Toy.new()
    found = pairs_of(policy)
    policy.mean.data += torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
    for loss_type, average in (("ipo", "mean"), ("dpo", "sum")):
        loss, other = PreferenceLoss(policy, 0.6, loss_type), {"mean": "sum", "sum": "mean"}[average]
        assert loss(found).total == replace(loss, average=average)(found).total
        assert loss(found).total != replace(loss, average=other)(found).total


def test_any_even_cut_gives_the_full_gradient_and_any_other_is_refused():
    weights = []
    for rows in (None, 2, 4):
        policy = Toy.new()
        found = pairs_of(policy)
        update = Update(
            "pairs", PreferenceLoss(policy, 0.5), policy.parameters(), torch.optim.SGD(policy.parameters(), lr=0.1)
        )
        Updates([update], micro_rows=rows).update(found)
        weights.append(policy.mean.detach().clone())
    torch.testing.assert_close(weights[0], weights[1])
    torch.testing.assert_close(weights[0], weights[2])
    assert not torch.equal(weights[0], Toy.new().mean)
    loss = PreferenceLoss(policy, 0.5)
    for wrong in (found.rows(torch.tensor([0])), found.rows(torch.tensor([1, 2]))):
        with pytest.raises(ValueError, match="pairs were cut apart"):
            loss(wrong)
    with pytest.raises(ValueError, match="decisions were cut off"):
        loss(found.columns(slice(0, 2)))
    assert float(loss(found.rows(torch.arange(0))).count) == 0


def test_masked_decisions_may_hold_anything():
    policy = Toy.new()
    found = pairs_of(policy)
    plain = PreferenceLoss(policy, 0.5)(found)
    wide = join([found, pairs_of(Toy.new(5))]).rows(torch.arange(len(found)))
    wide.decisions["place_BT"] = wide.decisions["place_BT"].clamp(max=2)
    wide.extras["reference_logp_BT"][:, 3:] = float("nan")
    torch.testing.assert_close(PreferenceLoss(policy, 0.5)(wide).total, plain.total)


def test_a_reference_may_be_a_snapshot_or_what_was_stored():
    policy = Toy.new()
    reference, found = Snapshot(policy.parameters()), pairs_of(policy)
    stored = found.extras.pop("reference_logp_BT")
    policy.mean.data += 1.0
    add_reference_logprobs(policy, reference, found, rows=4)
    torch.testing.assert_close(found.extras["reference_logp_BT"], stored)


def test_impossible_settings_are_refused():
    known = "unknown loss_type 'kto'", "unknown average 'row'", "outside", "label_smoothing is for dpo alone"
    wrong = (
        dict(loss_type="kto"),
        dict(average="row"),
        dict(label_smoothing=0.5),
        dict(loss_type="ipo", label_smoothing=0.1),
    )
    for settings, why in zip(wrong, known):
        with pytest.raises(ValueError, match=why):
            DPO(**settings).loss(Toy.new())


def test_a_stored_set_keeps_pairs_together_and_shows_each_once_a_pass():
    data = pairs_of(Toy.new())
    feed = DatasetFeed(data, 4, seed=3, pair_size=2)
    batches = [feed(step) for step in range(3)]
    assert all(torch.equal(b.group_B[0::2], b.group_B[1::2]) for b in batches)
    assert sorted(torch.cat([b.group_B for b in batches]).tolist()) == sorted(data.group_B.tolist())
    assert torch.equal(feed(1).group_B, batches[1].group_B) and not torch.equal(
        torch.cat([feed(s).group_B for s in range(3, 6)]), torch.cat([b.group_B for b in batches])
    )
    with pytest.raises(ValueError, match="not a multiple of the pair size 2"):
        DatasetFeed(data, 3, seed=0, pair_size=2)


def test_rounds_are_generated_when_they_begin_and_equal_after_a_resume():
    asked = []

    def make(round):
        asked.append(round)
        data = pairs_of(Toy.new())
        return replace(data, problems=[Problem(100 * round + p.id, "") for p in data.problems])

    feed = RegeneratedFeed(make, steps=3, rows=4, seed=1, pair_size=2)
    seen = [[p.id for p in feed(step).problems] for step in range(6)]
    assert asked == [0, 1] and all(i >= 100 for ids in seen[3:] for i in ids)
    assert [p.id for p in RegeneratedFeed(make, 3, 4, 1, 2)(4).problems] == seen[4]


def test_pairs_are_cached_on_disk(tmp_path):
    data, asked = pairs_of(Toy.new()), []
    first = cached_rollout(tmp_path / "pairs", 0, lambda: asked.append(1) or data)
    again = cached_rollout(tmp_path / "pairs", 0, lambda: asked.append(2) or data)
    assert asked == [1]
    for one in (first, again):
        assert one.problems == data.problems and torch.equal(one.rewards["total"], data.rewards["total"])
        assert all(torch.equal(one.decisions[k], v) for k, v in data.decisions.items())
        assert torch.equal(one.extras["reference_logp_BT"], data.logp_BT)


def test_a_round_with_fewer_pairs_than_a_batch_is_one_batch():
    feed = RegeneratedFeed(lambda round: pairs_of(Toy.new()), steps=2, rows=100, seed=0, pair_size=2)
    assert sorted(feed(0).group_B.tolist()) == sorted(pairs_of(Toy.new()).group_B.tolist())


def test_preferences_between_texts():
    """Rows of different lengths: a step makes the chosen ones more likely relative to the rejected ones."""
    import tiny_language

    from saccade.policies.tokens import TokenPolicy

    language = tiny_language.qwen2()
    policy = TokenPolicy(language, [p.requires_grad_(True) for p in language.model.parameters()], max_new_tokens=6)
    rollout = sample_groups(
        policy.rollout, [Problem(i, text) for i, text in enumerate(tiny_language.TEXTS[:3])], seeds(0, 3, "test"), 4
    )
    rollout.rewards["total"] = torch.tensor([float(len(text)) for text in rollout.outputs])
    found = make_pairs(rollout, rollout.rewards["total"])
    found.extras["reference_logp_BT"] = found.logp_BT
    loss = PreferenceLoss(policy, beta=0.1)
    update = Update("pairs", loss, policy.trained, torch.optim.SGD(policy.trained, lr=1e-2))
    first = Updates([update], micro_rows=2).update(found)["loss/pairs"]
    with torch.no_grad():
        after = loss(found)
    assert first == pytest.approx(math.log(2), abs=1e-4) and float(after.mean()) < first
    assert float(after.metrics["chosen"]) > float(after.metrics["rejected"])
