"""World models and learning in imagination: formulas by hand, gradients, resets, resuming."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from saccade.algorithms.descent import Descent, freeze
from saccade.algorithms.dreamer import (
    Dreamer,
    DreamerConfig,
    DreamerOptim,
    Imagined,
    actor_loss,
    critic_loss,
    forward_pass,
    imagine,
)
from saccade.algorithms.lagrange import LagrangeMultiplier
from saccade.algorithms.world_model import (
    Constraint,
    ForwardPass,
    Weighted,
    detached_probe,
    kl,
    model_loss,
    multiplier_loss,
    reconstruction,
    reward,
    term_values,
    termination,
)
from saccade.core import Problem, Rollout
from saccade.math import gaussians
from saccade.math.gaussians import Gaussian, log_prob, squashed_log_prob
from saccade.math.values import lambda_return
from saccade.models.world_model.rssm import RSSM, Observed, PictureDecoder, RSSMConfig, State, as_input, mlp
from saccade.policies.dreamer import DreamerPolicy, RecurrentActor
from saccade.random import generator

SIZES = RSSMConfig(depth=2, belief=6, latent=3, hidden=8)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed, "test"))


def pictures(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, (*shape, 32, 32, 3), generator=generator(5, "test"), dtype=torch.uint8)


def sequences(rows: int = 3, length: int = 5) -> Rollout:
    first_BT = torch.zeros(rows, length)
    first_BT[:, 0] = first_BT[1, 3] = 1
    ended_BT = torch.zeros(rows, length)
    ended_BT[0, 1] = 1
    return Rollout(
        [Problem(i, None) for i in range(rows)],
        {"observation.image_BT": pictures(rows, length), "action_BT": normal(rows, length, 2, seed=1).tanh()},
        None,
        torch.zeros(rows, length),
        torch.ones(rows, length),
        torch.arange(rows),
        {"reward": normal(rows, length, seed=2)},
        extras={"first_BT": first_BT, "terminated_BT": ended_BT},
    )


def policy(seed: int = 0) -> DreamerPolicy:
    return DreamerPolicy(SIZES, 2, seed=seed)


def example() -> ForwardPass:
    return forward_pass(policy(), sequences(), generator(3, "test"))


def has_gradient(parameters) -> list[bool]:
    return [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in parameters]


# -- formulas ---------------------------------------------------------------------------------------------------


def test_log_probs_and_kl_are_those_of_torch():
    q, p = (Gaussian(normal(4, 3, seed=s), normal(4, 3, seed=s + 1).exp()) for s in (0, 2))
    twin = lambda g: torch.distributions.Normal(g.mean, g.std)
    torch.testing.assert_close(gaussians.kl(q, p), torch.distributions.kl_divergence(twin(q), twin(p)).sum(-1))
    torch.testing.assert_close(log_prob(q, p.mean), twin(q).log_prob(p.mean).sum(-1))
    before = 0.5 * normal(4, 3, seed=7)
    plain = twin(q).log_prob(before) - torch.log(1 - torch.tanh(before) ** 2)
    torch.testing.assert_close(squashed_log_prob(q, before), plain.sum(-1))
    assert squashed_log_prob(q, torch.full((4, 3), 60.0)).isfinite().all()


def test_terms_equal_the_formula_by_hand():
    with torch.no_grad():
        _by_hand(example())


def _by_hand(forward: ForwardPass) -> None:
    features = forward.observed.state.features
    drawn = forward.model.decoder(features)
    error = [drawn[b, t] - as_input(forward.picture_BT[b, t]) for b in range(3) for t in range(5)]
    by_hand = sum(0.5 * float((one**2).sum()) for one in error) / 15
    assert float(reconstruction(forward)) == pytest.approx(by_hand, rel=1e-5)
    expected, nats, ends = forward.model.reward(features), [], []
    for b, t in [(b, t) for b in range(3) for t in range(4) if not (b == 1 and t == 2)]:  # row 1 goes elsewhere at 3
        nats.append(0.5 * float(expected[b, t + 1] - forward.reward_BT[b, t]) ** 2)
        chance = float(forward.model.end(features[b, t + 1]).sigmoid())
        ends.append(-math.log(chance if (b, t) == (0, 1) else 1 - chance))
    assert float(reward(forward)) == pytest.approx(sum(nats) / 11, rel=1e-5)
    assert float(termination(forward)) == pytest.approx(sum(ends) / 11, rel=1e-5)


def test_kl_is_balanced_above_its_free_nats():
    q = Gaussian(torch.tensor([[[0.5, 0.0]], [[0.0, 0.0]]]), torch.full((2, 1, 2), 0.5))
    p = Gaussian(torch.zeros(2, 1, 2), torch.ones(2, 1, 2))
    forward = ForwardPass(None, None, None, None, None, Observed(None, p, q))
    one = math.log(2) + 0.125 - 0.5
    first, second = 2 * one + 0.125, 2 * one
    assert float(kl()(forward)) == pytest.approx((first + second) / 2)
    assert float(kl(5 / 6)(forward)) == pytest.approx((first + second) / 2)
    assert float(kl(free_nats=0.7)(forward)) == pytest.approx((first + 0.7) / 2)


def test_the_model_loss_weights_terms_and_constraints():
    multiplier = LagrangeMultiplier(0.2)
    terms = {
        "a": Weighted(lambda v: torch.tensor(3.0), 2.0),
        "b": Constraint(lambda v: torch.tensor(5.0), 1.5, multiplier),
    }
    values = term_values(terms, example())
    assert float(model_loss(terms, values)) == pytest.approx(2 * 3.0 + 0.2 * (5.0 - 1.5))
    for value, moves in ((5.0, 1), (1.0, -1)):
        multiplier.zero_grad()
        multiplier_loss(terms, {"b": torch.tensor(value)}).backward()
        assert math.copysign(1, -float(multiplier.log.grad)) == moves, "it grows only while its constraint is violated"
    assert multiplier_loss({"a": terms["a"]}, values) is None


# -- gradients ---------------------------------------------------------------------------------------------------


def test_kl_balance_splits_the_gradient_between_prior_and_posterior():
    def gradients(share: float | None) -> tuple[torch.Tensor, torch.Tensor]:
        q, p = (Gaussian(normal(1, 1, 3, seed=s).requires_grad_(), torch.ones(1, 1, 3)) for s in (0, 1))
        kl(share)(ForwardPass(None, None, None, None, None, Observed(None, p, q))).backward()
        return q.mean.grad, p.mean.grad

    whole_q, whole_p = gradients(None)
    torch.testing.assert_close(whole_q, -whole_p)
    q, p = gradients(5 / 6)
    torch.testing.assert_close(p, whole_p * 5 / 6)
    torch.testing.assert_close(q, whole_q / 6)
    assert gradients(1.0)[0].abs().sum() == 0, "sg(q): the posterior does not move"


def test_a_detached_probe_trains_the_decoder_alone_and_the_reward_never():
    forward = example()
    detached_probe(2)(forward).backward(retain_graph=True)
    decoder = set(forward.model.decoder.parameters())
    assert all(has_gradient(decoder)) and not any(
        has_gradient(p for p in forward.model.parameters() if p not in decoder)
    )
    forward.model.zero_grad()
    reward(forward).backward()
    assert not any(has_gradient(decoder)) and all(
        has_gradient([*forward.model.encoder.parameters(), *forward.model.reward_head.parameters()])
    )


def test_the_gradient_of_imagined_returns_is_that_of_finite_differences():
    own = policy()
    model, actor, critic = own.model.double(), own.actor.double(), mlp([9, 8, 1]).double()
    start = State(normal(4, 6).double(), normal(4, 3, seed=1).double())
    noise, draw = normal(4, 3, 3, seed=2).double(), normal(4, 3, 2, seed=3).double()
    cfg = DreamerConfig(horizon=3, entropy_coef=0.0, predict_ends=True)

    def mean_return() -> torch.Tensor:
        return imagine(model, actor, critic, start, noise, draw, cfg).return_NH.mean()

    with freeze(model, critic):
        mean_return().backward()
    assert not any(has_gradient([*model.parameters(), *critic.parameters()])), "imagination trains the actor alone"
    weight = actor.layers[2].bias
    for i in range(3):
        changed = []
        for step in (1e-5, -1e-5):
            # The actor is given detached features, so the path through its observations is held constant.
            with torch.no_grad():
                changed.append(float(_return_with(model, actor, critic, start, noise, draw, cfg, weight, i, step)))
        slope = (changed[0] - changed[1]) / 2e-5
        assert float(weight.grad[i]) == pytest.approx(slope, rel=1e-4, abs=1e-9)


def _return_with(model, actor, critic, start, noise, draw, cfg, weight, i, step) -> torch.Tensor:
    """The return with a changed weight, while the actor gets the features of before."""
    inputs = []
    model.imagine(start, lambda x, t: (inputs.append(x), torch.tanh(actor(x).sample(draw[:, t])))[1], noise)
    weight[i] += step
    actions = [torch.tanh(actor(x).sample(draw[:, t])) for t, x in enumerate(inputs)]
    weight[i] -= step
    features = model.imagine(start, lambda x, t: actions[t], noise).features[:, 1:]
    predicted = model.reward(features), critic(features).squeeze(-1), model.end(features).sigmoid()
    return lambda_return(*predicted, gamma=cfg.gamma, lam=cfg.return_lambda).mean()


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


def test_filtering_step_by_step_equals_observing_a_sequence():
    own = policy()
    actor, shown, taken = own.recurrent(2), pictures(2, 4), []
    states = []
    for t in range(4):
        if t == 2:
            actor.begin([1])
        taken.append(actor.act({"image": shown[:, t]}, normal(2, 2, seed=t)).action_B)
        states.append(actor.state.features)
    first = torch.zeros(2, 4)
    first[:, 0] = first[1, 2] = 1

    observed = own.model.observe(own.model.encoder(shown), torch.stack(taken, 1), first, torch.zeros(2, 4, 3))
    torch.testing.assert_close(torch.stack(states, 1), observed.state.features)


def test_imagination_rolls_the_prior_forward():
    model = policy().model
    start, noise, action = State(normal(2, 6), normal(2, 3)), normal(2, 2, 3, seed=1), normal(2, 2, 2, seed=2)
    found = model.imagine(start, lambda x, t: action[:, t], noise)
    belief = model.next_belief(start, action[:, 0])
    torch.testing.assert_close(found.belief[:, 1], belief)
    torch.testing.assert_close(found.latent[:, 1], model.prior(belief).sample(noise[:, 0]))
    assert found.features.shape == (2, 3, 9)


@pytest.mark.parametrize("pixels", [32, 64])
def test_decoded_pictures_have_the_size_of_observed_ones(pixels):
    model = RSSM(RSSMConfig(pixels, 2, 6, 3, 8), 2)
    shown = torch.zeros(2, 3, pixels, pixels, 3, dtype=torch.uint8)
    assert model.encoder(shown).shape == (2, 3, model.encoder.width)
    assert PictureDecoder(9, pixels, 2)(normal(2, 3, 9)).shape == (2, 3, 3, pixels, pixels)


def test_other_picture_sizes_are_refused():
    with pytest.raises(ValueError, match="32 or 64"):
        RSSM(RSSMConfig(pixels=48), 2)


# -- the learner ------------------------------------------------------------------------------------------------


OPTIM = DreamerOptim()


def learner(seed: int = 0, optim: DreamerOptim = OPTIM) -> Dreamer:
    terms = {
        "probe": Weighted(detached_probe(2)),
        "reward": Weighted(reward),
        "termination": Weighted(termination),
        "kl": Constraint(kl(5 / 6), 0.1, LagrangeMultiplier(1e-2)),
    }
    return Dreamer(policy(seed), terms, DreamerConfig(horizon=3), optim, seed)


def test_four_updates_equal_two_and_two_bit_for_bit():
    batch, whole, half = sequences(), learner(), learner()
    metrics = [whole.update(batch) for _ in range(4)][-1]
    for _ in range(2):
        half.update(batch)
    fresh = learner(seed=1)
    fresh.seed = 0
    fresh.policy.load_state_dict(half.policy.state_dict())
    fresh.load_state_dict(half.state_dict())
    fresh.update(batch)
    assert fresh.update(batch) == metrics
    for a, b in zip(whole.policy.parameters(), fresh.policy.parameters()):
        assert torch.equal(a, b)


def test_updates_learn_the_reward_and_the_constraint_moves_its_multiplier():
    batch, one = sequences(), learner(optim=replace(OPTIM, model=replace(OPTIM.model, lr=1e-2)))
    first, *_, last = [one.update(batch) for _ in range(40)]
    assert last["health/reward"] < 0.5 * first["health/reward"]
    broken = last["health/kl"] > 0.1
    assert (last["health/kl_multiplier"] > 1e-2) == broken


def test_a_reward_that_is_not_finite_fails_the_update():
    batch = sequences()
    batch.rewards["reward"][0, 0] = float("nan")
    one = learner()
    before = [p.clone() for p in one.policy.parameters()]
    with pytest.raises(FloatingPointError, match="model"):
        one.update(batch)
    assert all(torch.equal(a, b) for a, b in zip(before, one.policy.parameters()))


def test_the_actor_starts_with_the_set_standard_deviation():
    spread = DreamerPolicy(SIZES, 2, init_std=0.5).actor(torch.zeros(1, 9)).std.detach()
    assert float((spread - 0.5).abs().max()) < 0.2


def test_a_recurrent_actor_is_saved_with_its_state():
    own = policy()
    one, other = own.recurrent(2), RecurrentActor(own, 2)
    one.act({"image": pictures(2)}, None)
    other.load_state_dict(deepcopy(one.state_dict()))
    shown = {"image": pictures(2, 2)[:, 1]}
    assert torch.equal(one.act(shown, None).action_B, other.act(shown, None).action_B)


def test_a_descent_warms_up_and_resumes():
    optim = replace(OPTIM.model, lr=1.0, warmup=4)
    weights = [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]
    one, other = (Descent("toy", [w], optim) for w in weights)
    rates = []
    for _ in range(2):
        one(((weights[0] - 3) ** 2).sum())
        rates.append(one.optimizer.param_groups[0]["lr"])
    assert rates == [0.25, 0.5]
    weights[1].data.copy_(weights[0].data)
    other.load_state_dict(deepcopy(one.state_dict()))
    for descent, w in zip((one, other), weights):
        descent(((w - 3) ** 2).sum())
    assert torch.equal(*weights) and other.optimizer.param_groups[0]["lr"] == 0.75
