"""Golden values of GAE, lambda-returns and n-step returns, against plain loops over one episode after the other."""

from __future__ import annotations

import pytest
import torch

from saccade.math.values import gae, lambda_return

B, T = 3, 17


def segment() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    reward, value, after = (torch.randn(B, T, generator=g, dtype=torch.float64) for _ in range(3))
    ended = torch.rand(B, T, generator=g) < 0.3
    terminated = ended & (torch.rand(B, T, generator=g) < 0.5)
    assert (ended & ~terminated).any() and terminated.any()
    return {"reward": reward, "value": value, "after": after, "terminated": terminated, "ended": ended}


def rows(s: dict[str, torch.Tensor]):
    for b in range(B):
        yield {k: v[b].tolist() for k, v in s.items()}


def test_gae_is_that_of_a_plain_loop():
    s, expected = segment(), []
    for row in rows(s):
        found, later = [0.0] * T, 0.0
        for t in reversed(range(T)):
            later = 0.0 if row["ended"][t] else later
            ahead = 0.0 if row["terminated"][t] else row["after"][t]
            later = row["reward"][t] + 0.9 * ahead - row["value"][t] + 0.9 * 0.8 * later
            found[t] = later
        expected.append(found)
    found = gae(s["reward"], s["value"], s["after"], s["terminated"], s["ended"], 0.9, 0.8)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_a_truncated_episode_is_worth_what_would_have_come_and_a_terminated_one_is_not():
    one, none = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.bool)
    assert gae(one, 0 * one, 10 * one, none, ~none, 0.9, 0.95).item() == pytest.approx(10.0)
    assert gae(one, 0 * one, 10 * one, ~none, ~none, 0.9, 0.95).item() == pytest.approx(1.0)


def test_the_lambda_return_is_that_of_a_plain_loop_and_the_advantage_above_the_value():
    s, expected = segment(), []
    for row in rows(s):
        found, later = [0.0] * T, 0.0
        for t in reversed(range(T)):
            last = row["ended"][t] or t == T - 1
            ahead = row["after"][t] if last else 0.2 * row["after"][t] + 0.8 * later
            later = row["reward"][t] + 0.9 * (0.0 if row["terminated"][t] else ahead)
            found[t] = later
        expected.append(found)
    found = lambda_return(s["reward"], s["after"], s["terminated"], s["ended"], gamma=0.9, lam=0.8)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    value = torch.cat([s["value"][:, :1], s["after"][:, :-1]], 1)
    value = torch.where(torch.cat([s["ended"][:, :1] * 0 > 0, s["ended"][:, :-1]], 1), s["value"], value)
    same = gae(s["reward"], value, s["after"], s["terminated"], s["ended"], 0.9, 0.8) + value
    torch.testing.assert_close(found, same, rtol=1e-12, atol=1e-12)


def test_an_imagined_lambda_return_has_gradients_and_chances_of_termination():
    reward, after = (torch.full((1, 4), x, dtype=torch.float64, requires_grad=True) for x in (1.0, 2.0))
    chance = torch.full((1, 4), 0.25, dtype=torch.float64)
    found = lambda_return(reward, after, chance, gamma=1.0, lam=1.0)
    last = 1 + 0.75 * 2
    assert found[0, 3].item() == pytest.approx(last) and found[0, 2].item() == pytest.approx(1 + 0.75 * last)
    found[0, 0].backward()
    assert reward.grad[0].tolist() == pytest.approx([0.75**t for t in range(4)])
    assert after.grad[0].tolist() == pytest.approx([0, 0, 0, 0.75**4])
