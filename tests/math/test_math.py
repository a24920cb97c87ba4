"""Identities and golden values of the mathematics, in float64 where it matters."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade.algorithms.dpo import diffusion_dpo
from saccade.algorithms.nft import nft, optimality
from saccade.math import advantages, flow, kl, surrogates

TIMES = {10: (0.431, 0.479, 0.441, 0.369), 40: (0.482, 0.498, 0.484, 0.408), 200: (0.495, 0.502, 0.498, 0.421)}


@pytest.mark.parametrize("steps", [10, 40, 200])
def test_kernels_reach_the_known_spread_of_gaussian_data(steps):
    """Data N(0, 0.5^2) with its exact velocity field: final standard deviations of the base sheet, +-0.01."""
    names = [("ode", 0.0), ("flow_sde", 0.7), ("dance_sde", 0.3), ("cps", 0.7)]
    for (name, noise), expected in zip(names, TIMES[steps]):
        assert abs(_final_std(name, noise, steps) - expected) < 0.01, name


def _final_std(name: str, noise: float, steps: int, count: int = 40_000) -> float:
    g = torch.Generator().manual_seed(0)
    times = flow.flow_times(steps)
    kernel = flow.flow_kernel(name, noise, times)
    x = torch.randn(count, 1, generator=g)
    for t, t_next in itertools.pairwise(times):
        variance = (1 - t) ** 2 * 0.25 + t**2
        v = (t - (1 - t) * 0.25) / variance * x  # E[eps - x0 | x_t]
        mean, std = kernel(x, v, t.expand(count), t_next.expand(count))
        x = mean + std * torch.randn(count, 1, generator=g)
    return float(x.std())


def test_velocity_to_data_to_noise_and_back():
    x0, eps = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    t = torch.rand(5, dtype=torch.float64)
    x, v = flow.add_noise(x0, eps, t), eps - x0
    torch.testing.assert_close(flow.to_data(x, v, t), x0)
    torch.testing.assert_close(flow.to_noise(x, v, t), eps)


def test_every_kernel_without_noise_is_the_ode():
    x, v = torch.randn(4, 2), torch.randn(4, 2)
    t, t_next = torch.tensor([1.0, 0.8, 0.5, 0.2]), torch.tensor([0.9, 0.6, 0.3, 0.0])
    expected = flow.ode(x, v, t, t_next)[0]
    for name in ("flow_sde", "dance_sde", "cps"):
        kernel = flow.flow_kernel(name, 0.0, torch.tensor([1.0, 0.9]))
        torch.testing.assert_close(kernel(x, v, t, t_next)[0], expected, atol=1e-5, rtol=1e-5)


def test_flow_sde_is_finite_at_pure_noise_and_uses_its_guard():
    kernel = flow.flow_kernel("flow_sde", 0.7, torch.tensor([1.0, 0.9, 0.0]))
    _, std = kernel(torch.zeros(1, 1), torch.zeros(1, 1), torch.tensor([1.0]), torch.tensor([0.9]))
    assert math.isclose(float(std), 0.7 * math.sqrt(1 / 0.1) * math.sqrt(0.1), rel_tol=1e-5)


def test_a_time_that_is_one_within_rounding_counts_as_pure_noise():
    for start in (1.0, 1.0 - 6e-8, 1.0 + 1.2e-7):
        kernel = flow.flow_kernel("flow_sde", 0.7, torch.tensor([start, 0.9, 0.0]))
        _, std = kernel(torch.zeros(1, 1), torch.zeros(1, 1), torch.tensor([start]), torch.tensor([0.9]))
        assert float(std) == pytest.approx(0.7 * math.sqrt(start / 0.1 * (start - 0.9)), rel=1e-4)


def test_the_log_prob_of_cps_is_the_published_one_and_finite_in_the_last_step():
    x, v, x_next = (torch.tensor(rows)[None] for rows in (
        [[0.5, -0.2], [0.1, 0.3]], [[0.2, 0.1], [-0.3, 0.4]], [[0.4, 0.0], [0.2, 0.1]]
    ))  # fmt: skip
    mean, std = flow.cps(x, v, torch.tensor([0.8]), torch.tensor([0.6]), a=0.7)
    logp, spread = flow.kernel_logp("cps", x_next, mean, std, 2)
    assert float(logp) == pytest.approx(-0.010610, abs=5e-7) and float(spread) == pytest.approx(math.sqrt(0.5))
    mean, std = flow.cps(x, v, torch.tensor([0.2]), torch.tensor([0.0]), a=0.7)
    assert float(std) == 0 and float(flow.kernel_logp("cps", mean, mean, std, 2)[0]) == 0
    gauss, deviation = flow.kernel_logp("flow_sde", x_next, mean, std + 0.3, 2)
    assert float(gauss) == float(flow.gaussian_logp(x_next, mean, std + 0.3, 2)) and float(deviation) == 0.3 + std


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([("flow_sde", 0.01, 4.0), ("dance_sde", 0.01, 4.0), ("cps", 0.01, 1.0), ("renoise", 0.5, 0.5)]),
    st.floats(0, 1),
    st.integers(1, 64),
    st.floats(0.2, 1e6),
    st.integers(-6, 3),
    st.integers(0, 2**32),
)
def test_no_kernel_has_a_nan_in_any_step_for_any_noise_shift_or_latent(kernel, share, steps, shift, size, seed):
    name, least, most = kernel
    g = torch.Generator().manual_seed(seed)
    times = flow.flow_times(steps, shift)
    times = times[torch.cat([times.diff() < 0, torch.ones(1, dtype=torch.bool)])]  # a policy refuses equal times
    t, t_next = times[:-1], times[1:]
    x, v, z = (10.0**size * torch.randn(len(t), 2, 3, generator=g) for _ in range(3))
    v.requires_grad_()
    mean, std = flow.flow_kernel(name, least + share * (most - least), times)(x, v, t, t_next)
    x_next = (mean + std * z / 10.0**size).detach()
    logp, spread = flow.kernel_logp(name, x_next, mean, std, 2)
    (slope,) = torch.autograd.grad(logp.sum(), v)
    assert logp.isfinite().all() and slope.isfinite().all() and (spread > 0).all()


def test_unknown_kernel_names_the_known_ones():
    with pytest.raises(ValueError, match="unknown kernel 'sde': one of flow_sde"):
        flow.flow_kernel("sde", 0.7, torch.tensor([1.0, 0.5]))


def test_log_prob_mean_and_sum_and_their_density():
    x, m, s = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4), torch.rand(3, 1, 1, 1) + 0.5
    total = flow.gaussian_logp(x, m, s, 3, "sum")
    expected = torch.distributions.Normal(m, s.expand_as(m)).log_prob(x).sum((1, 2, 3))
    torch.testing.assert_close(total, expected, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(flow.gaussian_logp(x, m, s, 3), expected / 32, atol=1e-5, rtol=1e-5)


def test_golden_advantages():
    r, g = torch.tensor([1.0, 0, 0, 1], dtype=torch.float64), torch.zeros(4, dtype=torch.long)
    sign = torch.tensor([1.0, -1, -1, 1], dtype=torch.float64)
    torch.testing.assert_close(advantages.group_advantage(r, g, unbiased=True), 0.86588 * sign, atol=1e-5, rtol=0)
    torch.testing.assert_close(advantages.leave_one_out(r, g), 0.6666667 * sign, atol=1e-5, rtol=0)
    torch.testing.assert_close(advantages.group_advantage(r, g, scale="none"), 0.5 * sign)
    torch.testing.assert_close(advantages.group_advantage(r, g), 0.5 / (0.5 + 1e-4) * sign)


def test_global_spread_divides_by_that_of_the_batch():
    r, g = torch.tensor([0.0, 1, 10, 14]), torch.tensor([0, 0, 1, 1])
    expected = torch.tensor([-0.5, 0.5, -2, 2]) / (r.std(unbiased=False) + 1e-4)
    torch.testing.assert_close(advantages.group_advantage(r, g, scale="batch"), expected)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-10, 10) | st.just(math.nan)), min_size=1, max_size=24))
def test_advantages_sum_to_0_in_a_group_and_a_nan_reward_has_none(rows):
    group, reward = (torch.tensor(x) for x in zip(*rows))
    reward = reward.double()
    for a in (advantages.group_advantage(reward, group, clip=1e9), advantages.leave_one_out(reward, group)):
        assert a.isfinite().all() and (a[reward.isnan()] == 0).all()
        for g in group.unique():
            assert abs(float(a[group == g].sum())) < 1e-6


@given(st.permutations(list(range(6))))
def test_advantages_do_not_depend_on_the_order_of_rows(order):
    reward, group = torch.tensor([0.0, 1, 3, 2, 5, 5]).double(), torch.tensor([0, 0, 1, 1, 2, 2])
    index = torch.tensor(order)
    a = advantages.group_advantage(reward, group)
    torch.testing.assert_close(advantages.group_advantage(reward[index], group[index]), a[index])


@pytest.mark.parametrize("size", [0.0, 1e-30, 0.1, 25.3, 100.7, -3e4, 1e12, 3e38])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_equal_rewards_of_any_size_give_no_advantage(size, dtype):
    reward, group = torch.full((7,), size, dtype=dtype), torch.zeros(7, dtype=torch.long)
    for scale, eps in (("group", 1e-4), ("batch", 1e-4), ("none", 0.0), ("group", 0.0), ("batch", 0.0)):
        assert (advantages.group_advantage(reward, group, scale=scale, eps=eps) == 0).all()
    assert (advantages.leave_one_out(reward, group) == 0).all()
    assert (advantages.per_reward(torch.stack([reward, reward]), torch.ones(2), group) == 0).all()
    assert not advantages.has_reward_variance(reward, group).any()


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2), st.sampled_from([math.nan, math.inf, 0.0, 1.0]) | st.floats(-(2.0**100), 2.0**100)
        ),
        min_size=1,
        max_size=12,
    ),
    st.sampled_from(["group", "batch", "none"]),
    st.sampled_from([0.0, 1e-4]),
    st.booleans(),
    st.sampled_from([5.0, math.inf]),
)
def test_no_reward_and_no_setting_gives_an_advantage_that_is_not_finite(rows, scale, eps, unbiased, clip):
    group, reward = torch.tensor([g for g, _ in rows]), torch.tensor([r for _, r in rows])
    for found in (
        advantages.group_advantage(reward, group, scale=scale, eps=eps, unbiased=unbiased, clip=clip),
        advantages.leave_one_out(reward, group),
        advantages.per_reward(torch.stack([reward, reward.flip(0)]), torch.tensor([1.0, -0.5]), group, eps=eps),
    ):
        assert found.isfinite().all()


def test_rewards_normalized_apart_have_the_values_of_trl():
    group = torch.tensor([0] * 4 + [1] * 4)
    rewards = torch.tensor([[1.0, 0, 0, 1, 0, 0, 1, 0], [0.2, 0.4, 0.6, 0.8, 0.1, 0.1, 0.3, 0.5]])
    expected = torch.tensor([0.2664, -0.9898, -0.6281, 1.3515, -0.8328, -0.8328, 1.5230, 0.1425])
    found = advantages.per_reward(rewards, torch.tensor([1.0, 0.5]), group)
    torch.testing.assert_close(found, expected, atol=5e-5, rtol=0)


def test_a_missing_score_of_one_reward_stays_where_it_is():
    rewards = torch.tensor([[1.0, 0, 1, 0, 1], [1, math.nan, 0, 0, math.nan]])
    rewards[0, 4] = math.nan
    found = advantages.per_reward(rewards, torch.ones(2), torch.zeros(5, dtype=torch.long))
    assert found.isfinite().all() and found[4] == 0 and found[0] > found[1]


def test_per_reward_normalisation_keeps_a_small_reward_alive():
    group, scale = torch.zeros(4, dtype=torch.long), torch.tensor([[100.0], [0.1]])
    rewards = torch.tensor([[1.0, 0, 1, 0], [0, 1, 1, 0]])
    expected = advantages.per_reward(rewards, torch.ones(2), group)
    found = advantages.per_reward(scale * rewards, torch.ones(2), group)
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)
    assert float(found[2]) > 1 and abs(float(found[1])) < 0.01


def test_golden_k3_and_signs_of_the_estimators():
    gap = torch.tensor([0.1, -0.1, 1.0, -1.0], dtype=torch.float64)  # l_ref - l
    expected = torch.tensor([0.0051709, 0.0048374, 0.7182818, 0.3678794], dtype=torch.float64)
    torch.testing.assert_close(kl.k3(torch.zeros(4).double(), gap), expected, atol=1e-7, rtol=0)
    torch.testing.assert_close(kl.k2(torch.zeros(4).double(), gap), gap**2 / 2)


def test_gaussian_divergence_is_the_closed_form_per_dimension():
    p, q = torch.distributions.Normal(0.3, 0.7), torch.distributions.Normal(-0.2, 0.7)
    ours = kl.gaussian(torch.full((1, 3), 0.3), torch.full((1, 3), -0.2), torch.tensor([[0.49]]), 1)
    assert float(ours) == pytest.approx(float(torch.distributions.kl_divergence(p, q)))


def test_clip_cuts_the_gradient_only_where_it_should():
    logp = torch.tensor([0.5, 0.5, -0.5, -0.5], requires_grad=True)
    a = torch.tensor([1.0, -1, 1, -1])
    surrogates.clipped(logp, torch.zeros(4), a, 0.2).sum().backward()
    assert (logp.grad != 0).tolist() == [False, True, True, False]
    assert surrogates.clip_fraction(logp.detach(), torch.zeros(4), a, 0.2).tolist() == [1, 0, 0, 1]


def test_golden_aggregations():
    """Two rows of 2 and 6 decisions with A = +1, -1 and ratio 1: losses -A."""
    mask = torch.tensor([[1.0, 1, 0, 0, 0, 0], [1] * 6])
    term, length = torch.tensor([-1.0, 1.0])[:, None].expand(2, 6), mask.sum(1)
    for average, max_length, expected in (("rows", None, 0.0), ("decisions", None, 0.5), ("constant", 8, 0.25)):
        weight = surrogates.decision_weight(mask, length, average, max_length)
        value = (weight * term).sum() / surrogates.mean_weight(mask, length, average).sum()
        assert float(value) == pytest.approx(expected, abs=1e-6), average


def test_nft_pulls_towards_good_samples_and_away_from_bad_ones():
    x0, x_t, t = torch.zeros(1, 4), torch.full((1, 4), 0.5), torch.tensor([0.5])
    v_old = torch.full((1, 4), 0.8)
    for r, towards in ((1.0, 1.0), (0.0, -1.0)):
        v = v_old.clone().requires_grad_(True)
        nft(v, v_old, x_t, x0, t, torch.tensor([r]), beta=1.0).sum().backward()
        ideal = x_t / 0.5  # the velocity that points to x0
        assert float((-v.grad * (ideal - v_old)).sum()) * towards > 0
    neutral = v_old.clone().requires_grad_(True)
    nft(neutral, v_old, x_t, x0, t, torch.tensor([0.5]), beta=1.0).sum().backward()
    assert neutral.grad.abs().max() < 1e-6, "a sample neither good nor bad pulls nowhere"


def test_optimality_is_half_for_no_advantage_and_bounded():
    r = optimality(torch.tensor([-9.0, -5, 0, 5, 9]))
    assert r.tolist() == [0, 0, 0.5, 1, 1]


def test_dpo_prefers_lower_error_of_the_winner():
    e = torch.tensor([1.0])
    base = diffusion_dpo(e, e, e, e, 2.0)
    assert float(base) == pytest.approx(math.log(2))
    assert float(diffusion_dpo(e - 0.1, e, e + 0.1, e, 2.0)) < float(base)


def test_flow_times_shift():
    t = flow.flow_times(4, shift=3.0)
    assert t[0] == 1 and t[-1] == 0 and float(t[2]) == pytest.approx(3 * 0.5 / 2)
    with pytest.raises(ValueError, match="at least 1"):
        flow.flow_times(0)
