"""World models and learning inside them: formulas by hand, who moves whom, resets, resume."""

from __future__ import annotations

import math

import pytest
import torch

from saccade.algorithms.descent import freeze
from saccade.algorithms.dreamer import Dreamer, Imagined, Learning, actor_loss, critic_loss, imagine, look
from saccade.algorithms.lagrange import LagrangeMultiplier
from saccade.algorithms.world_model import (
    Constraint,
    View,
    Weighted,
    detached_probe,
    divergence,
    dual_loss,
    ending,
    model_loss,
    reconstruction,
    reward,
    values_of,
)
from saccade.core import Problem, Rollout, generator
from saccade.evaluation.world_model import explained
from saccade.math.gaussians import Gaussian, kl, log_prob, squashed_log_prob
from saccade.math.values import lambda_return
from saccade.models.world_model.rssm import RSSM, Observed, PictureDecoder, Sizes, State, as_input, mlp
from saccade.policies.dreamer import Acting, DreamerPolicy

SIZES = Sizes(depth=2, belief=6, latent=3, hidden=8)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed))


def pictures(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, (*shape, 32, 32, 3), generator=generator(5), dtype=torch.uint8)


def sequences(rows: int = 3, length: int = 5) -> Rollout:
    first_BT = torch.zeros(rows, length)
    first_BT[:, 0] = first_BT[1, 3] = 1
    ended_BT = torch.zeros(rows, length)
    ended_BT[0, 1] = 1
    return Rollout(
        [Problem(i, None) for i in range(rows)],
        {"seen.image_BT": pictures(rows, length), "action_BT": normal(rows, length, 2, seed=1).tanh()},
        None,
        torch.zeros(rows, length),
        torch.ones(rows, length),
        torch.arange(rows),
        {"reward": normal(rows, length, seed=2)},
        extras={"first_BT": first_BT, "terminated_BT": ended_BT},
    )


def policy(seed: int = 0) -> DreamerPolicy:
    return DreamerPolicy(SIZES, 2, seed=seed)


def view() -> View:
    return look(policy(), sequences(), generator(3))


def grown(parameters) -> list[bool]:
    return [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in parameters]


# -- formulas ---------------------------------------------------------------------------------------------------


def test_densities_are_those_of_torch():
    q, p = (Gaussian(normal(4, 3, seed=s), normal(4, 3, seed=s + 1).exp()) for s in (0, 2))
    twin = lambda g: torch.distributions.Normal(g.mean, g.std)
    torch.testing.assert_close(kl(q, p), torch.distributions.kl_divergence(twin(q), twin(p)).sum(-1))
    torch.testing.assert_close(log_prob(q, p.mean), twin(q).log_prob(p.mean).sum(-1))
    before = 0.5 * normal(4, 3, seed=7)
    plain = twin(q).log_prob(before) - torch.log(1 - torch.tanh(before) ** 2)
    torch.testing.assert_close(squashed_log_prob(q, before), plain.sum(-1))
    assert squashed_log_prob(q, torch.full((4, 3), 60.0)).isfinite().all()


def test_a_term_is_the_formula_by_hand():
    with torch.no_grad():
        _by_hand(view())


def _by_hand(seen: View) -> None:
    features = seen.observed.state.features
    drawn = seen.model.decoder(features)
    error = [drawn[b, t] - as_input(seen.picture_BT[b, t]) for b in range(3) for t in range(5)]
    by_hand = sum(0.5 * float((one**2).sum()) for one in error) / 15
    assert float(reconstruction(seen)) == pytest.approx(by_hand, rel=1e-5)
    told, nats, ends = seen.model.reward(features), [], []
    for b, t in [(b, t) for b in range(3) for t in range(4) if not (b == 1 and t == 2)]:  # row 1 goes elsewhere at 3
        nats.append(0.5 * float(told[b, t + 1] - seen.reward_BT[b, t]) ** 2)
        chance = float(seen.model.end(features[b, t + 1]).sigmoid())
        ends.append(-math.log(chance if (b, t) == (0, 1) else 1 - chance))
    assert float(reward(seen)) == pytest.approx(sum(nats) / 11, rel=1e-5)
    assert float(ending(seen)) == pytest.approx(sum(ends) / 11, rel=1e-5)


def test_divergence_is_balanced_beyond_its_free_nats():
    q = Gaussian(torch.tensor([[[0.5, 0.0]], [[0.0, 0.0]]]), torch.full((2, 1, 2), 0.5))
    p = Gaussian(torch.zeros(2, 1, 2), torch.ones(2, 1, 2))
    seen = View(None, None, None, None, None, Observed(None, p, q))
    one = math.log(2) + 0.125 - 0.5
    first, second = 2 * one + 0.125, 2 * one
    assert float(divergence()(seen)) == pytest.approx((first + second) / 2)
    assert float(divergence(5 / 6)(seen)) == pytest.approx((first + second) / 2)
    assert float(divergence(free_nats=0.7)(seen)) == pytest.approx((first + 0.7) / 2)


def test_terms_add_up_and_limits_weigh_what_their_multipliers_say():
    multiplier = LagrangeMultiplier(0.2)
    terms = {
        "a": Weighted(lambda v: torch.tensor(3.0), 2.0),
        "b": Constraint(lambda v: torch.tensor(5.0), 1.5, multiplier),
    }
    values = values_of(terms, view())
    assert float(model_loss(terms, values)) == pytest.approx(2 * 3.0 + 0.2 * (5.0 - 1.5))
    for value, moves in ((5.0, 1), (1.0, -1)):
        multiplier.zero_grad()
        dual_loss(terms, {"b": torch.tensor(value)}).backward()
        assert math.copysign(1, -float(multiplier.log.grad)) == moves, (
            "it grows while its limit is broken, and only then"
        )
    assert dual_loss({"a": terms["a"]}, values) is None


def test_what_is_linear_is_explained_and_noise_is_not():
    x, test_x = normal(400, 6), normal(300, 6, seed=1)
    w = normal(6, 2, seed=2)
    assert explained(x, x @ w, test_x, test_x @ w, ridge=1e-8) == pytest.approx(1.0, abs=1e-6)
    assert abs(explained(x, normal(400, 2, seed=3), test_x, normal(300, 2, seed=4))) < 0.1


# -- who moves whom ---------------------------------------------------------------------------------------------


def test_the_prior_follows_the_posterior_five_times_harder_than_the_other_way():
    def gradients(share: float | None) -> tuple[torch.Tensor, torch.Tensor]:
        q, p = (Gaussian(normal(1, 1, 3, seed=s).requires_grad_(), torch.ones(1, 1, 3)) for s in (0, 1))
        divergence(share)(View(None, None, None, None, None, Observed(None, p, q))).backward()
        return q.mean.grad, p.mean.grad

    whole_q, whole_p = gradients(None)
    torch.testing.assert_close(whole_q, -whole_p)
    q, p = gradients(5 / 6)
    torch.testing.assert_close(p, whole_p * 5 / 6)
    torch.testing.assert_close(q, whole_q / 6)
    assert gradients(1.0)[0].abs().sum() == 0, "sg(q): the posterior does not move"


def test_watching_trains_the_decoder_alone_and_the_reward_no_decoder():
    seen = view()
    detached_probe(2)(seen).backward(retain_graph=True)
    decoder = set(seen.model.decoder.parameters())
    assert all(grown(decoder)) and not any(grown(p for p in seen.model.parameters() if p not in decoder))
    seen.model.zero_grad()
    reward(seen).backward()
    assert not any(grown(decoder)) and all(
        grown([*seen.model.encoder.parameters(), *seen.model.reward_head.parameters()])
    )


def test_the_gradient_of_imagined_returns_is_that_of_finite_differences():
    own = policy()
    model, actor, critic = own.model.double(), own.actor.double(), mlp([9, 8, 1]).double()
    start = State(normal(4, 6).double(), normal(4, 3, seed=1).double())
    noise, draw = normal(4, 3, 3, seed=2).double(), normal(4, 3, 2, seed=3).double()
    cfg = Learning(horizon=3, entropy=0.0, ends=True)

    def mean_return() -> torch.Tensor:
        return imagine(model, actor, critic, start, noise, draw, cfg).return_NH.mean()

    with freeze(model, critic):
        mean_return().backward()
    assert not any(grown([*model.parameters(), *critic.parameters()])), "imagination trains the actor alone"
    weight = actor.layers[2].bias
    for i in range(3):
        changed = []
        for step in (1e-5, -1e-5):
            # The actor is given features without gradients, so the path through what it sees is held still.
            with torch.no_grad():
                changed.append(float(_return_with(model, actor, critic, start, noise, draw, cfg, weight, i, step)))
        slope = (changed[0] - changed[1]) / 2e-5
        assert float(weight.grad[i]) == pytest.approx(slope, rel=1e-4, abs=1e-9)


def _return_with(model, actor, critic, start, noise, draw, cfg, weight, i, step) -> torch.Tensor:
    """The return if the weight were another, the actor still seeing what it saw before."""
    seen = []
    model.imagine(start, lambda x, t: (seen.append(x), torch.tanh(actor(x).sample(draw[:, t])))[1], noise)
    weight[i] += step
    actions = [torch.tanh(actor(x).sample(draw[:, t])) for t, x in enumerate(seen)]
    weight[i] -= step
    features = model.imagine(start, lambda x, t: actions[t], noise).features[:, 1:]
    told = model.reward(features), critic(features).squeeze(-1), model.end(features).sigmoid()
    return lambda_return(*told, gamma=cfg.gamma, lam=cfg.lam).mean()


def test_actor_and_critic_losses_by_hand():
    returns, logp = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[-1.0, 0.0], [1.0, 2.0]])
    imagined = Imagined(normal(2, 3, 9), returns, logp, torch.ones(2, 2))
    assert float(actor_loss(imagined, 0.1)) == pytest.approx(-2.5 + 0.1 * 0.5)
    zero = lambda x: torch.zeros(*x.shape[:-1], 1)
    assert float(critic_loss(zero, imagined)) == pytest.approx(0.5 * (1 + 4 + 9 + 16) / 4)
    half = imagined._replace(alive_NH=torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    assert float(critic_loss(zero, half)) == pytest.approx(0.5 * (1 + 9) / 4)


# -- the model --------------------------------------------------------------------------------------------------


def test_a_reset_inside_a_sequence_is_a_fresh_sequence():
    model = policy().model
    embedding, action, noise = normal(2, 6, model.encoder.width), normal(2, 6, 2, seed=1), normal(2, 6, 3, seed=2)
    first = torch.zeros(2, 6)
    first[:, 0] = first[0, 3] = 1
    whole = model.observe(embedding, action, first, noise)
    late = model.observe(embedding[:, 3:], action[:, 3:], first[:, 3:], noise[:, 3:])
    torch.testing.assert_close(whole.state.features[0, 3:], late.state.features[0])
    assert not torch.allclose(whole.state.features[1, 3:], late.state.features[1]), "without a reset the past counts"


def test_acting_sees_what_observing_saw():
    own = policy()
    acting, shown, taken = own.acting(2), pictures(2, 4), []
    states = []
    for t in range(4):
        if t == 2:
            acting.begin([1])
        taken.append(acting.act({"image": shown[:, t]}, normal(2, 2, seed=t)).action_B)
        states.append(acting.state.features)
    first = torch.zeros(2, 4)
    first[:, 0] = first[1, 2] = 1

    observed = own.model.observe(own.model.encoder(shown), torch.stack(taken, 1), first, torch.zeros(2, 4, 3))
    torch.testing.assert_close(torch.stack(states, 1), observed.state.features)


def test_imagining_is_the_prior_rolled_forward():
    model = policy().model
    start, noise, action = State(normal(2, 6), normal(2, 3)), normal(2, 2, 3, seed=1), normal(2, 2, 2, seed=2)
    found = model.imagine(start, lambda x, t: action[:, t], noise)
    belief = model.next_belief(start, action[:, 0])
    torch.testing.assert_close(found.belief[:, 1], belief)
    torch.testing.assert_close(found.latent[:, 1], model.prior(belief).sample(noise[:, 0]))
    assert found.features.shape == (2, 3, 9)


@pytest.mark.parametrize("pixels", [32, 64])
def test_pictures_come_back_in_their_size(pixels):
    model = RSSM(Sizes(pixels, 2, 6, 3, 8), 2)
    shown = torch.zeros(2, 3, pixels, pixels, 3, dtype=torch.uint8)
    assert model.encoder(shown).shape == (2, 3, model.encoder.width)
    assert PictureDecoder(9, pixels, 2)(normal(2, 3, 9)).shape == (2, 3, 3, pixels, pixels)


def test_a_size_that_is_no_size_is_refused():
    with pytest.raises(ValueError, match="32 or 64"):
        RSSM(Sizes(pixels=48), 2)


# -- the learner ------------------------------------------------------------------------------------------------


def learner(seed: int = 0, **options) -> Dreamer:
    terms = {
        "watching": Weighted(detached_probe(2)),
        "reward": Weighted(reward),
        "ending": Weighted(ending),
        "kl": Constraint(divergence(5 / 6), 0.1, LagrangeMultiplier(1e-2)),
    }
    return Dreamer(policy(seed), terms, Learning(horizon=3, **options), seed)


def test_four_updates_equal_two_and_two_bit_for_bit():
    batch, whole, half = sequences(), learner(), learner()
    told = [whole.update(batch) for _ in range(4)][-1]
    for _ in range(2):
        half.update(batch)
    fresh = learner(seed=1)
    fresh.seed = 0
    fresh.policy.load_state_dict(half.policy.state_dict())
    fresh.load_state_dict(half.state_dict())
    fresh.update(batch)
    assert fresh.update(batch) == told
    for a, b in zip(whole.policy.parameters(), fresh.policy.parameters()):
        assert torch.equal(a, b)


def test_updates_learn_the_reward_and_the_limit_moves_its_multiplier():
    batch, one = sequences(), learner(model_lr=1e-2)
    first, *_, last = [one.update(batch) for _ in range(40)]
    assert last["health/reward"] < 0.5 * first["health/reward"]
    broken = last["health/kl"] > 0.1
    assert (last["health/kl_multiplier"] > 1e-2) == broken


def test_a_reward_that_is_no_number_ends_the_update():
    batch = sequences()
    batch.rewards["reward"][0, 0] = float("nan")
    one = learner()
    before = [p.clone() for p in one.policy.parameters()]
    with pytest.raises(FloatingPointError, match="model"):
        one.update(batch)
    assert all(torch.equal(a, b) for a, b in zip(before, one.policy.parameters()))


def test_the_actor_begins_as_broad_as_it_is_told():
    spread = DreamerPolicy(SIZES, 2, std=0.5).actor(torch.zeros(1, 9)).std.detach()
    assert float((spread - 0.5).abs().max()) < 0.2


def test_an_acting_policy_is_saved_with_its_states():
    own = policy()
    one, other = own.acting(2), Acting(own, 2)
    one.act({"image": pictures(2)}, None)
    other.load_state_dict(one.state_dict())
    shown = {"image": pictures(2, 2)[:, 1]}
    assert torch.equal(one.act(shown, None).action_B, other.act(shown, None).action_B)
