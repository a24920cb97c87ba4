"""The GRPO family in float64: golden values, gradients, cuts, and dynamic sampling on a policy checked by hand."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import PROBLEMS, Toy, height

from saccade.algorithms.grpo import PolicyGradient, dynamic_sampling
from saccade.math.advantages import group_advantage, has_reward_variance, leave_one_out, zero_variance_groups
from saccade.math.kl import k2, k3
from saccade.math.surrogates import (
    cispo,
    clip_fraction,
    clipped,
    decision_weight,
    dual_clipped,
    mean_weight,
    ratio_logprobs,
)
from saccade.random import seeds
from saccade.training.feeds import join
from saccade.training.groups import sample_groups
from saccade.training.learner import Update, Updates

MASK = torch.tensor([[1.0, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]], dtype=torch.float64)
LENGTH = MASK.sum(1)


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_golden_values_of_credit_and_divergence():
    r, g, sign = doubles(1, 0, 0, 1), torch.zeros(4).long(), doubles(1, -1, -1, 1)
    torch.testing.assert_close(group_advantage(r, g, unbiased=True), 0.86588 * sign, atol=5e-6, rtol=0)
    torch.testing.assert_close(leave_one_out(r, g), 2 / 3 * sign)
    torch.testing.assert_close(group_advantage(r, g, scale="none"), 0.5 * sign)
    gap, expected = doubles(0.1, -0.1, 1, -1), doubles(0.0051709, 0.0048374, 0.7182818, 0.3678794)
    torch.testing.assert_close(k3(torch.zeros_like(gap), gap), expected, atol=5e-8, rtol=0)


@pytest.mark.parametrize("gap", [-1e28, -100.0, 19.0, 21.0, 100.0, 1e28])
def test_divergences_and_ratios_of_any_size_are_finite_and_pull_the_right_way(gap):
    """``gap`` nats more of the reference, or of the policy than of the one that sampled."""
    for divergence in (k2, k3):
        logp = torch.tensor([-gap if divergence is k3 else -gap / 1e12], requires_grad=True)
        value = divergence(logp, torch.zeros(1))
        value.sum().backward()
        assert value.isfinite().all() and logp.grad.isfinite().all()
        assert float(logp.grad) * gap < 0, "descent raises the probability of what the reference likes more"
    for surrogate in (clipped, dual_clipped, cispo):
        for advantage in (-1.0, 0.0, 1.0):
            logp = torch.tensor([gap], requires_grad=True)
            value = surrogate(logp, torch.zeros(1), torch.tensor([advantage]), 0.2)
            value.sum().backward()
            assert logp.grad.isfinite().all() and value.isfinite().all()
            assert float(clip_fraction(logp.detach(), torch.zeros(1), torch.tensor([advantage]), 0.2)) in (0, 1)


def test_k2_descends_the_divergence_from_the_reference_and_k3_the_reverse_one():
    z = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64, requires_grad=True)
    ref = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log()
    slope = lambda value: torch.autograd.grad(value, z)[0]
    p = z.log_softmax(0)
    forward, reverse = slope((p.exp() * (p - ref)).sum()), slope((ref.exp() * (ref - z.log_softmax(0))).sum())
    for divergence, expected in ((k2, forward), (k3, reverse)):
        logp = z.log_softmax(0)
        torch.testing.assert_close(slope((logp.exp().detach() * divergence(logp, ref)).sum()), expected)


def test_a_divergence_that_pulls_at_nothing_is_refused():
    rollout = judged(Toy.new())
    rollout.extras["reference_logp_BT"] = rollout.logp_BT
    with pytest.raises(ValueError, match="unknown kl 'k1': one of k2, k3, variance, drift"):
        PolicyGradient(Toy.new(), 0.2, beta=0.1, kl="k1")(rollout)


AVERAGES = [("rows", None, 0), ("decisions", None, 0.5), ("constant", 8, 0.25), ("sum", None, 2)]


@pytest.mark.parametrize("average, max_length, expected", AVERAGES)
def test_golden_aggregations(average, max_length, expected):
    """Rows of 2 and 6 decisions with A = +1, -1 and ratio 1; a row without decisions of its own changes nothing."""
    for mask in (MASK, torch.cat([MASK, torch.zeros(1, 6, dtype=torch.float64)])):
        length = mask.sum(1)
        advantage = doubles(1, -1, 99)[: len(mask), None].expand_as(mask)
        term = clipped(torch.zeros_like(mask), torch.zeros_like(mask), advantage, 0.2)
        share = mean_weight(mask, length, average)
        value = (decision_weight(mask, length, average, max_length) * term).sum() / share.sum()
        assert abs(float(value) - expected) < 1e-12
        assert float((share * torch.ones_like(mask)).sum() / share.sum()) == pytest.approx(1), (
            "a ratio of 1 is metered as 1"
        )


@pytest.mark.parametrize(
    "surrogate, ratio, advantage, expected",
    [
        (clipped, 1.5, 1, -1.28),
        (clipped, 0.5, 1, -0.5),
        (clipped, 0.5, -1, 0.8),
        (clipped, 9.0, -1, 9.0),
        (dual_clipped, 9.0, -1, 3.0),
        (dual_clipped, 9.0, -2, 6.0),
        (dual_clipped, 2.0, -1, 2.0),
        (dual_clipped, 0.5, -1, 0.8),
        (dual_clipped, 9.0, 1, -1.28),
        (partial(dual_clipped, bound=10.0), 9.0, -1, 9.0),
        (partial(dual_clipped, bound=10.0), 11.0, -1, 10.0),
    ],
)
def test_values_with_a_range_of_0_2_and_0_28(surrogate, ratio, advantage, expected):
    value = surrogate(doubles(ratio).log(), doubles(0), doubles(advantage), 0.2, 0.28)
    assert abs(float(value) - expected) < 1e-12


def test_cispo_weighs_every_decision_and_bounds_the_weight():
    ratio, advantage = doubles(0.5, 1, 6, 6), doubles(1, -1, 1, -1)
    logp = ratio.log().requires_grad_(True)
    loss = cispo(logp, torch.zeros(4).double(), advantage, 1.0, 4.0)
    torch.testing.assert_close(loss, -doubles(0.5, 1, 5, 5) * advantage * logp)
    loss.sum().backward()
    torch.testing.assert_close(logp.grad, -doubles(0.5, 1, 5, 5) * advantage)
    assert clip_fraction(logp.detach(), torch.zeros(4).double(), advantage, 1.0, 4.0).tolist() == [0, 0, 1, 0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-2, 2), st.floats(-3, 3)), min_size=1, max_size=8))
def test_gradients_are_those_of_the_formulas(pairs):
    gap, advantage = (doubles(*x) for x in zip(*pairs))
    ratio = gap.exp()
    kept = clip_fraction(gap, torch.zeros_like(gap), advantage, 0.2, 0.3) == 0
    expected = torch.where(kept, -advantage * ratio, 0.0)
    for surrogate, wanted in (
        (clipped, expected),
        (dual_clipped, torch.where((advantage < 0) & (ratio > 3), 0.0, expected)),
        (cispo, -advantage * ratio.clamp(0.8, 1.3)),
    ):
        logp = gap.clone().requires_grad_(True)
        surrogate(logp, torch.zeros_like(gap), advantage, 0.2, 0.3).sum().backward()
        torch.testing.assert_close(logp.grad, wanted)


def sequence(logp, old, advantage_B, low, high):
    """GSPO written row by row: the mean over rows of -min(s A, clip(s) A)."""
    losses = []
    for row, row_old, own, a in zip(logp, old, MASK.bool(), advantage_B):
        s = (row[own] - row_old[own]).mean().exp()
        losses.append(-torch.minimum(s * a, s.clamp(1 - low, 1 + high) * a))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("level", ["row", "row_decision"])
@pytest.mark.parametrize("spread", [1e-4, 1e-3, 0.5])
def test_gspo_is_its_formula_in_value_and_gradient(level, spread):
    g = torch.Generator().manual_seed(0)
    old = torch.randn(2, 6, generator=g, dtype=torch.float64)
    start, advantage_B = old + spread * torch.randn(2, 6, generator=g, dtype=torch.float64), doubles(0.7, -1.3)
    gradients, values = [], []
    for ours in (True, False):
        logp = start.clone().requires_grad_(True)
        if ours:
            pair = ratio_logprobs(logp, old, MASK, LENGTH, level)
            term = clipped(*pair, advantage_B[:, None].expand_as(MASK), 3e-4, 4e-4)
            loss = (decision_weight(MASK, LENGTH, "rows") * term).sum() / 2
        else:
            loss = sequence(logp, old, advantage_B, 3e-4, 4e-4)
        loss.backward()
        values.append(loss.detach())
        gradients.append(logp.grad)
    torch.testing.assert_close(values[0], values[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-12)


def test_gspo_token_lets_credit_differ_within_a_row_at_the_rows_ratio():
    old, advantage = torch.zeros(1, 3).double(), doubles(1, -2, 0.5)[None]
    logp = doubles(0.3, -0.1, 0.1)[None].requires_grad_(True)
    pair = ratio_logprobs(logp, old, torch.ones(1, 3).double(), doubles(3), "row_decision")
    loss = clipped(*pair, advantage, 0.5)
    torch.testing.assert_close(loss, -advantage * doubles(0.1).exp())
    loss.sum().backward()
    torch.testing.assert_close(logp.grad, -advantage * doubles(0.1).exp())


def test_a_row_that_was_cut_has_no_ratio_of_its_own():
    x, part = torch.zeros(2, 3).double(), MASK[:, :3]
    with pytest.raises(ValueError, match="needs all its 6 decisions and 3 are here; cut batches by rows alone"):
        ratio_logprobs(x, x, part, LENGTH, "row")
    ratio_logprobs(x, x, part * doubles(1, 0)[:, None], LENGTH, "row")  # a row with none of its own here is not missed
    with pytest.raises(ValueError, match="unknown ratio 'token': one of decision, row, row_decision"):
        ratio_logprobs(x, x, part, LENGTH, "token")


def test_averages_say_what_they_lack():
    with pytest.raises(ValueError, match="average 'constant' needs `max_length`"):
        decision_weight(MASK, LENGTH, "constant")
    with pytest.raises(ValueError, match="unknown average 'mean': one of decisions, rows, constant, sum"):
        decision_weight(MASK, LENGTH, "mean")


def judged(policy: Toy):
    rollout = sample_groups(policy.rollout, PROBLEMS, seeds(0, 6, "test"), 4)
    rollout.mask_BT[::3, 2] = 0
    rollout.extras["length_B"] = rollout.mask_BT.sum(1)
    rollout.advantage_BT = rollout.broadcast(group_advantage(height(rollout), rollout.group_B))
    with torch.no_grad():
        policy.mean += 0.2
    return rollout


def gradient_of(policy: Toy, rollout, options: dict, **cuts) -> torch.Tensor:
    seen = []
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.0)
    optimizer.register_step_pre_hook(lambda *_: seen.append(policy.mean.grad.clone()))
    loss = PolicyGradient(policy, 0.2, **options)
    Updates([Update("toy", loss, policy.parameters(), optimizer)], **cuts).update(rollout)
    return seen[0]


BY_ROW = [
    {"ratio": "row", "average": "rows"},
    {"ratio": "row_decision", "average": "rows"},
]
BY_DECISION = [
    {"average": "sum"},
    {"average": "constant", "max_length": 8},
    {"surrogate": cispo},
    {"surrogate": partial(dual_clipped, bound=1.1), "average": "rows"},
]


@pytest.mark.parametrize("options", BY_ROW + BY_DECISION)
def test_any_allowed_cut_gives_the_gradient_of_the_full_batch(options):
    policy = Toy.new()
    rollout = judged(policy)
    whole = gradient_of(policy, rollout, options)
    assert whole.abs().sum() > 0
    torch.testing.assert_close(gradient_of(policy, rollout, options, micro_rows=5), whole)
    if options in BY_DECISION:
        torch.testing.assert_close(gradient_of(policy, rollout, options, micro_rows=5, micro_decisions=1), whole)
    else:
        with pytest.raises(ValueError, match="cut batches by rows alone"):
            gradient_of(policy, rollout, options, micro_decisions=1)


@pytest.mark.parametrize("options", [{}] + BY_ROW + BY_DECISION)
def test_the_first_ratio_is_metered_as_one_whatever_the_average(options):
    policy = Toy.new()
    rollout = judged(policy)
    with torch.no_grad():
        policy.mean -= 0.2
    loss = PolicyGradient(policy, 0.2, **options)(rollout)
    assert float(loss.metrics["ratio"] / loss.count) == pytest.approx(1, abs=1e-9)


def test_a_group_tells_its_attempts_apart_by_their_verdicts_alone():
    nan = float("nan")
    reward, group = torch.tensor([1.0, 1, 0, 1, nan, nan, 1, nan]), torch.tensor([5, 5, 2, 2, 0, 0, 9, 9])
    assert has_reward_variance(reward, group).tolist() == [False, False, True, True, False, False, False, False]
    assert float(zero_variance_groups(reward, group)) == pytest.approx(3 / 4)


def test_dynamic_sampling_draws_until_enough_groups_tell_and_counts_what_it_made():
    policy, drawn = Toy.new(), []

    def attempt(problems, seeds_P):
        drawn.append([p.id for p in problems])
        return sample_groups(policy.rollout, problems, seeds_P, 4)

    def even_ids_tell(rollout):
        tells = torch.tensor([p.id % 2 == 0 for p in rollout.problems])
        rollout.rewards["height"] = torch.where(tells, height(rollout), torch.zeros(len(rollout)).double())
        return rollout.rewards["height"]

    rounds = lambda: ((PROBLEMS[i : i + 3], seeds(7, 3, "problems", i)) for i in (0, 3, 0, 3))
    kept = dynamic_sampling(attempt, even_ids_tell, rounds(), groups=4)
    assert drawn == [[0, 1, 2], [3, 4, 5], [0, 1, 2]] and (kept.groups, kept.generated) == (4, 36)
    batch = join(kept.parts)
    assert [p.id for p in batch.problems[::4]] == [0, 2, 4, 0] and len(batch) == 16
    assert batch.group_B.unique_consecutive(return_counts=True)[1].tolist() == [4] * 4
    assert torch.equal(batch.rewards["height"], height(batch))
    short = dynamic_sampling(attempt, even_ids_tell, rounds(), groups=50)
    assert (short.groups, short.generated) == (6, 48)
    silent = dynamic_sampling(attempt, lambda r: torch.ones(len(r)), rounds(), groups=2)
    assert silent.groups == 0 and silent.generated == 48 and len(join(silent.parts)) == 12
    with pytest.raises(ValueError, match="there is no round"):
        dynamic_sampling(attempt, even_ids_tell, [], groups=2)
