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


def test_ddim_without_noise_is_the_deterministic_step_and_with_it_keeps_variance():
    alpha, following = torch.tensor([0.3], dtype=torch.float64), torch.tensor([0.6], dtype=torch.float64)
    x0, eps = torch.randn(1, 4, dtype=torch.float64), torch.randn(1, 4, dtype=torch.float64)
    x = alpha.sqrt() * x0 + (1 - alpha).sqrt() * eps
    mean, std = flow.ddim(x, eps, alpha, following, eta=0.0)
    torch.testing.assert_close(mean, following.sqrt() * x0 + (1 - following).sqrt() * eps, atol=1e-6, rtol=1e-5)
    mean, std = flow.ddim(x, eps, alpha, following, eta=1.0)
    noise_part = mean - following.sqrt() * x0
    torch.testing.assert_close(noise_part**2 + std**2 * eps**2, (1 - following) * eps**2, atol=1e-6, rtol=1e-5)


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


def test_rolling_baseline_uses_its_memory_once_it_has_enough_and_resumes():
    rolling = advantages.RollingBaseline(size=4, min_count=2)
    first = rolling(torch.tensor([1.0, 3.0]), ["a", "b"])
    torch.testing.assert_close(first, torch.tensor([-1.0, 1.0]), atol=1e-4, rtol=0)
    again = advantages.RollingBaseline(size=4, min_count=2)
    again.load_state_dict(rolling.state_dict())
    later = rolling(torch.tensor([2.0, 3.0]), ["a", "b"])
    assert float(later[0]) == pytest.approx(0.5 / 0.5, abs=1e-4) and torch.equal(
        later, again(torch.tensor([2.0, 3.0]), ["a", "b"])
    )


def test_per_reward_normalisation_keeps_a_small_reward_alive():
    group = torch.zeros(2, dtype=torch.long)
    a = advantages.per_reward(torch.tensor([[100.0, 0.0], [0.0, 0.01]]), torch.ones(2), group)
    assert abs(float(a.sum())) < 1e-2 and abs(float(a[0])) < 0.05


def test_golden_k3_and_signs_of_the_estimators():
    gap = torch.tensor([0.1, -0.1, 1.0, -1.0], dtype=torch.float64)  # l_ref - l
    expected = torch.tensor([0.0051709, 0.0048374, 0.7182818, 0.3678794], dtype=torch.float64)
    torch.testing.assert_close(kl.k3(torch.zeros(4).double(), gap), expected, atol=1e-7, rtol=0)
    torch.testing.assert_close(kl.k1(torch.zeros(4).double(), gap), -gap)
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
