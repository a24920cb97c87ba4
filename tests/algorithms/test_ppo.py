"""PPO: replay, the loss and its hand-written gradient, shuffled minibatches, running means."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
from gymnasium import spaces

from saccade.algorithms.acceleration import accelerate
from saccade.algorithms.fast.analytic import AnalyticUpdates
from saccade.algorithms.fast.ppo import AnalyticPPOGradient, has_analytic_gradient
from saccade.algorithms.ppo import (
    PPO,
    ActorCriticLoss,
    NormalizeReward,
    flatten_decisions,
    normalize_advantages,
    with_advantages,
)
from saccade.core import Problem, Rollout
from saccade.models.control.networks import MLP, Encoder, Pixels, RunningMeanStd
from saccade.policies.actor_critic import ActorCritic, ActorCriticModel, Categorical, build_actor_critic
from saccade.random import generator
from saccade.training.learner import Update, Updates
from saccade.training.settings import AdamW

SPACE = spaces.Dict({"state": spaces.Box(-np.inf, np.inf, (3,), np.float32)})
CHOICE, VECTOR = spaces.Discrete(4), spaces.Box(-1, 1, (2,), np.float32)
B, T = 4, 24
MODEL = ActorCriticModel()
ADAM = AdamW(lr=3e-4, eps=1e-5, max_grad_norm=0.5, fused=True)


def actor_critic(
    space: spaces.Dict, action: spaces.Space, model: ActorCriticModel = MODEL, seed: int = 0
) -> ActorCritic:
    return accelerate(build_actor_critic(model, space, action, seed))


def segment(policy: ActorCritic, seed: int = 0) -> Rollout:
    """What `RolloutCollector` would hand out: made-up rewards and endings for what the policy does on random states."""
    g = generator(seed, "test")
    seen = {"state": torch.randn(B * T, 3, generator=g)}
    choice = isinstance(policy.head, Categorical)
    acted = policy.act(
        seen, torch.rand(B * T, 1, generator=g) if choice else torch.randn(B * T, policy.head.outputs, generator=g)
    )
    apart = lambda x: x.unflatten(0, (B, T))
    ended = torch.rand(B, T, generator=g) < 0.1
    marks = {"terminated_BT": ended, "truncated_BT": ~ended & (torch.rand(B, T, generator=g) < 0.1)}
    values = {"value_BT": apart(acted.value_B), "next_value_BT": torch.randn(B, T, generator=g)}
    return Rollout(
        problems=[Problem(b, "made up") for b in range(B)],
        decisions={"observation.state_BT": apart(seen["state"]), "action_BT": apart(acted.action_B)},
        outputs=[[] for _ in range(B)],
        logp_BT=apart(acted.logp_B),
        mask_BT=torch.ones(B, T),
        group_B=torch.arange(B),
        rewards={"reward": torch.randn(B, T, generator=g)},
        extras={**marks, **values, "length_B": torch.full((B,), float(T))},
    )


def decisions(policy: ActorCritic, seed: int = 0) -> Rollout:
    rollout = segment(policy, seed)
    return flatten_decisions(with_advantages(rollout, rollout.rewards["reward"], 0.99, 0.95))


def moved(policy: ActorCritic, by: float = 0.1) -> ActorCritic:
    """Weights beside those that acted, so that ratios differ from 1 and some are clipped."""
    with torch.no_grad():
        for p, g in zip(policy.trained, range(99)):
            p.add_(by * torch.randn(p.shape, generator=generator(g, "test")))
    return policy


@pytest.mark.parametrize("action", [CHOICE, VECTOR])
@pytest.mark.parametrize("changes", [{}, {"hidden": (), "vector_features": 8}, {"normalize_observations": True}])
def test_replay_equals_acting(action, changes):
    model = replace(MODEL, **changes)
    policy = actor_critic(SPACE, action, model)
    assert (policy.fused is not None) == (model.hidden != ())
    rollout = segment(policy)
    seen = policy.likelihood(rollout)
    torch.testing.assert_close(seen.logp_BT, rollout.logp_BT, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(seen.value_BT, rollout.extras["value_BT"], rtol=1e-5, atol=1e-5)


def test_categorical_actions_have_the_frequencies_of_their_probabilities():
    head = actor_critic(SPACE, CHOICE).head
    logits = np.float32([[0.1, 1.0, -2.0, 0.5]])
    drawn, logp = head.act(logits.repeat(40_000, 0), torch.rand(40_000, 1, generator=generator(0, "test")).numpy())
    expected = torch.from_numpy(logits).softmax(-1)[0].numpy()
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 40_000, expected, atol=0.01)
    np.testing.assert_allclose(np.exp(logp), expected[drawn], rtol=1e-5)
    assert head.act(logits, None)[0].item() == 1 and head.act(logits, np.float32([[1 - 2**-24]]))[0].item() == 3


def test_an_actor_critic_for_pictures_vectors_and_ids_is_saved_and_exported(tmp_path):
    space = spaces.Dict({
        "goal": spaces.Discrete(5),
        "picture": spaces.Box(0, 255, (36, 36, 3), np.uint8),
        "state": spaces.Box(-1, 1, (3,), np.float32),
    })  # fmt: skip
    model = ActorCriticModel(
        hidden=(16,), activation="relu", vector_features=8, picture_features=32, convolutions="small"
    )
    policy, other = build_actor_critic(model, space, VECTOR, 0), build_actor_critic(model, space, VECTOR, 1)
    seen = {k: torch.from_numpy(np.stack([space[k].sample() for _ in range(3)])) for k in space}
    before = policy.act(seen, None)
    other.load_state_dict(policy.state_dict())
    assert torch.equal(other.act(seen, None).action_B, before.action_B) and policy.fused is None
    policy.export(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"policy.json", "policy.safetensors"}
    with pytest.raises(ValueError, match="actions are MultiBinary"):
        build_actor_critic(model, space, spaces.MultiBinary(3), 0)
    with pytest.raises(ValueError, match="observation 'odd' is"):
        Encoder(spaces.Dict({"odd": spaces.MultiBinary(3)}))
    with pytest.raises(ValueError, match="leave nothing of pictures of 20 x 20"):
        Pixels((20, 20, 3))


def test_pictures_are_divided_by_255_and_convolved():
    torch.manual_seed(0)
    net, picture = Pixels((84, 84, 4)), torch.randint(0, 256, (2, 84, 84, 4), dtype=torch.uint8)
    expected = torch.nn.Sequential(*net.convolutions, *net.features)(
        (picture.float() / 255).permute(0, 3, 1, 2).contiguous()
    )
    torch.testing.assert_close(net(picture), expected, rtol=1e-4, atol=1e-5)
    assert sum(p.numel() for p in net.parameters()) == 1_684_128, "the encoder of DQN"


def test_weights_are_initialized_orthogonally():
    torch.manual_seed(0)
    net = MLP((8, 64, 64, 2), gain=0.01)
    hidden, last = net.layers[2].weight, net.layers[-1].weight
    torch.testing.assert_close(hidden @ hidden.T, 2 * torch.eye(64), atol=1e-4, rtol=0)
    torch.testing.assert_close(last @ last.T, 1e-4 * torch.eye(2), atol=1e-7, rtol=0)


@pytest.mark.parametrize("options", [{}, {"entropy_coef": 0.02, "clip_range_high": 0.3}, {"clip_range_vf": 0.1}])
@pytest.mark.parametrize("action", [CHOICE, VECTOR])
def test_the_loss_equals_the_formula(action, options):
    policy = actor_critic(SPACE, action)
    rollout = normalize_advantages(decisions(policy))
    loss = ActorCriticLoss(moved(policy), **options)
    seen, total = policy.likelihood(rollout), 0.0
    low, high = 0.8, 1 + options.get("clip_range_high", 0.2)
    for i in range(len(rollout)):
        ratio = math.exp(float(seen.logp_BT[i].detach()) - float(rollout.logp_BT[i]))
        advantage, target, value = (
            float(x[i].detach()) for x in (rollout.advantage_BT, rollout.extras["return_BT"], seen.value_BT)
        )
        if "clip_range_vf" in options:
            old = float(rollout.extras["value_BT"][i])
            value = min(max(value, old - 0.1), old + 0.1)
        total += max(-advantage * ratio, -advantage * min(max(ratio, low), high)) + 0.5 * (value - target) ** 2
        total -= options.get("entropy_coef", 0.0) * float(seen.entropy_BT[i].detach())
    assert loss(rollout).mean().item() == pytest.approx(total / len(rollout), rel=1e-4)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("action", [CHOICE, VECTOR])
def test_the_hand_written_gradient_is_that_of_autograd(action, masked):
    policy = actor_critic(SPACE, action, ActorCriticModel(hidden=(32, 16)))
    rollout = decisions(policy)
    if masked:
        rollout.mask_BT = (torch.rand(rollout.mask_BT.shape, generator=generator(3, "test")) > 0.3).float()
        rollout.advantage_BT[rollout.mask_BT == 0] = math.nan
        rollout.decisions["observation.state_BT"][rollout.mask_BT == 0] = 1e6
    loss = ActorCriticLoss(moved(policy), entropy_coef=0.03, clip_range_high=0.3)
    analytic = AnalyticPPOGradient(loss, policy)
    metrics = analytic(analytic.columns(rollout))
    assert 0.05 < metrics["clipped"] < 0.95, "some ratios are clipped"
    generic = loss(normalize_advantages(rollout))
    expected = torch.autograd.grad(generic.mean(), policy.trained)
    found = actor_critic(SPACE, action, policy.model, 1)
    found.fused.weights_P[:] = policy.fused.gradient_P
    for slope, part in zip(expected, found.trained):
        torch.testing.assert_close(part.detach(), slope, rtol=1e-4, atol=1e-6)
    assert metrics["loss"] == pytest.approx(generic.mean().item(), rel=1e-5)
    for name, value in generic.metrics.items():
        assert metrics[name] == pytest.approx(float(value / generic.count), rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("updates", [1, 20])
@pytest.mark.parametrize("action", [CHOICE, VECTOR])
def test_the_analytic_learner_takes_the_steps_of_the_generic_one(action, updates):
    both, metrics = [], []
    cfg = PPO(n_steps=T, n_epochs=1, batch_size=B * T if updates == 1 else 24, entropy_coef=0.01, anneal_lr=True)
    rollouts = [decisions(actor_critic(SPACE, action), seed) for seed in range(5 if updates > 1 else 1)]
    for fast in (True, False):
        policy = actor_critic(SPACE, action)
        policy.fused = policy.fused if fast else None
        learner = cfg.learner(policy, replace(ADAM, lr=1e-3), rows=B, steps=5, seed=7)
        assert isinstance(learner, AnalyticUpdates) == fast
        metrics.append([learner.update(rollout) for rollout in rollouts][-1])
        both.append(torch.cat([p.detach().flatten() for p in policy.trained]))
    apart = (both[0] - both[1]).norm() / both[1].norm()
    assert apart < 1e-5, f"{updates} updates: {float(apart):.1e}"
    assert metrics[0].keys() == metrics[1].keys()
    for name, value in metrics[0].items():
        assert value == pytest.approx(metrics[1][name], rel=1e-3, abs=1e-5), name


def test_the_generic_learner_is_used_where_no_gradient_is_written():
    policy = actor_critic(SPACE, CHOICE)
    assert has_analytic_gradient(ActorCriticLoss(policy), policy)
    assert not has_analytic_gradient(ActorCriticLoss(policy, clip_range_vf=0.2), policy)
    assert actor_critic(SPACE, CHOICE, ActorCriticModel(activation="relu")).fused is None
    assert isinstance(PPO(n_steps=16, clip_range_vf=0.2).learner(policy, ADAM, B, 1, 0), Updates)
    assert isinstance(PPO(n_steps=16).learner(policy, replace(ADAM, weight_decay=0.1), B, 1, 0), Updates)
    with pytest.raises(ValueError, match="batch_size 64 of 1 rows x 32 steps: it must be 2 to 32"):
        PPO(n_steps=32).learner(policy, ADAM, 1, 1, 0)


def test_without_the_folder_of_written_gradients_the_generic_learner_takes_the_same_steps(monkeypatch):
    for module in ("analytic", "adam", "fused_actor_critic", "ppo"):
        monkeypatch.setitem(sys.modules, f"saccade.algorithms.fast.{module}", None)
    policy = actor_critic(SPACE, CHOICE)
    assert policy.fused is None
    learner = PPO(n_steps=T, batch_size=32).learner(policy, ADAM, B, 1, 0)
    assert isinstance(learner, Updates) and learner.update(decisions(policy))["health/ppo_kl"] < 1


def test_any_cut_gives_the_gradient_of_the_minibatch():
    policy = actor_critic(SPACE, CHOICE)
    rollout, seen = decisions(policy), []
    moved(policy)
    optimizer = torch.optim.SGD(policy.trained, lr=0.0)
    optimizer.register_step_pre_hook(lambda *_: seen.append(torch.cat([p.grad.flatten() for p in policy.trained])))
    for rows in (None, 7):
        update = Update(
            "ppo",
            ActorCriticLoss(policy, entropy_coef=0.1),
            policy.trained,
            optimizer,
            prepare=normalize_advantages,
        )
        Updates([update], minibatches=2, shuffle=5, micro_rows=rows).update(rollout)
    torch.testing.assert_close(seen[:2], seen[2:], rtol=1e-4, atol=1e-7)


def test_shuffled_minibatches_hold_every_row_once_an_epoch_and_differ_between_epochs():
    policy, seen = actor_critic(SPACE, CHOICE), []
    rollout = decisions(policy)
    rollout.extras["number_B"] = torch.arange(len(rollout))

    def watched(mini: Rollout) -> Rollout:
        seen.append(mini.extras["number_B"].tolist())
        return mini

    update = Update(
        "ppo", ActorCriticLoss(policy), policy.trained, torch.optim.SGD(policy.trained, lr=0.0), prepare=watched
    )
    Updates([update], epochs=2, minibatches=5, shuffle=1).update(rollout)
    first, second = list(chain(*seen[:5])), list(chain(*seen[5:]))
    assert sorted(first) == sorted(second) == list(range(B * T)) and first != second
    assert {len(part) for part in seen} == {19, 20}


def test_the_analytic_learner_resumes_bit_for_bit():
    cfg = PPO(n_steps=T, n_epochs=2, batch_size=32)
    weights = []
    for stops in (False, True):
        policy = actor_critic(SPACE, VECTOR)
        learner = cfg.learner(policy, ADAM, B, 4, seed=3)
        for seed in range(4):
            if stops and seed == 2:
                saved = policy.state_dict(), learner.state_dict()
                policy = actor_critic(SPACE, VECTOR, seed=9)
                learner = cfg.learner(policy, ADAM, B, 4, seed=3)
                policy.load_state_dict(saved[0]), learner.load_state_dict(saved[1])
            learner.update(decisions(policy, seed))
        weights.append(policy.fused.weights_P.copy())
    assert np.array_equal(*weights)


def test_a_gradient_that_is_not_finite_is_an_error_with_the_name_of_the_update():
    policy = actor_critic(SPACE, CHOICE)
    rollout = decisions(policy)
    rollout.extras["return_BT"][3] = math.inf
    with pytest.raises(FloatingPointError, match="the gradient of update 'ppo' is"):
        PPO(n_steps=T, batch_size=32).learner(policy, ADAM, B, 1, 0).update(rollout)


def test_running_means_are_those_of_all_rows_and_replay_uses_those_that_acted():
    x, scale = torch.randn(100, 3, generator=generator(0, "test")) * 5 + 2, RunningMeanStd(3)
    for part in x.split([1, 30, 69]):
        scale.update_statistics(part)
    torch.testing.assert_close(scale.mean, x.double().mean(0))
    torch.testing.assert_close(scale.variance, x.double().var(0, correction=0))
    policy = actor_critic(SPACE, VECTOR, ActorCriticModel(normalize_observations=True))
    learner = PPO(n_steps=T, n_epochs=1, batch_size=B * T).learner(policy, ADAM, B, 9, 0)
    for seed in range(3):
        rollout = decisions(policy, seed)
        assert learner.update(rollout)["health/ppo_kl"] < 1e-6
    assert policy.trunk.scales["state"].count == 3 * B * T


def test_normalized_rewards_have_returns_of_standard_deviation_one_and_resume():
    policy = actor_critic(SPACE, CHOICE)
    rollout = segment(policy)
    rollout = replace(rollout, rewards={"reward": 100 * rollout.rewards["reward"]})
    scale, again = NormalizeReward(B, 0.9), NormalizeReward(B, 0.9)
    first = scale(rollout)
    returns, running = [], torch.zeros(B)
    for t in range(T):
        running = 0.9 * running + first[:, t]
        returns.append(running)
        running = running * ~(rollout.extras["terminated_BT"] | rollout.extras["truncated_BT"])[:, t]
    assert torch.stack(returns).std(correction=0).item() == pytest.approx(1, rel=1e-4)
    again.load_state_dict(scale.state_dict())
    assert torch.equal(again(rollout), scale(rollout))


def test_flattened_decisions_are_in_order():
    rollout = segment(actor_critic(SPACE, VECTOR))
    apart = flatten_decisions(rollout)
    assert (
        len(apart) == B * T
        and apart.logp_BT.shape == (B * T, 1)
        and apart.decisions["action_BT"].shape == (B * T, 1, 2)
    )
    assert torch.equal(apart.logp_BT[T + 2, 0], rollout.logp_BT[1, 2]) and apart.group_B[T].item() == 1
    assert (
        torch.equal(apart.rewards["reward"][:T], rollout.rewards["reward"][0]) and apart.extras["length_B"].eq(1).all()
    )
