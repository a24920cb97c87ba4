"""Off-policy learning: losses against explicit loops, separate gradients, hand-written gradients, collection."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.nn.functional import layer_norm, linear, relu

from saccade.algorithms import off_policy
from saccade.algorithms.fast.off_policy import AnalyticOffPolicyLearner, has_analytic_gradient
from saccade.algorithms.lagrange import LagrangeMultiplier
from saccade.algorithms.off_policy import (
    ADAM,
    ActorLoss,
    Agent,
    CriticLoss,
    OffPolicy,
    action_noise,
    target_members,
)
from saccade.core import Step
from saccade.envs import environment
from saccade.envs.collector import Collector
from saccade.math.gaussians import Gaussian, squashed_log_prob
from saccade.models.control.critics import Ensemble, Target
from saccade.models.control.networks import MLP, Encoder
from saccade.policies.actors import Actor, Deterministic, SquashedGaussian
from saccade.random import generator
from saccade.recipes.baselines.rlpd import RLPD
from saccade.recipes.baselines.sac import REDQ, SAC
from saccade.recipes.baselines.td3 import TD3
from saccade.training.buffers import Buffer
from saccade.training.learner import Updates
from saccade.training.settings import EnvSchedule, Schedule

SPACE = spaces.Dict({"state": spaces.Box(-1, 1, (3,), np.float32)})


class Drift:
    """A point that drifts where it is pushed; an episode ends where it leaves [-1, 1] or after ``steps``."""

    name, observation_space, action_space = "drift", SPACE, spaces.Box(-2.0, 2.0, (2,), np.float32)

    def __init__(self, count: int, steps: int = 7):
        self.count, self.steps = count, steps
        self.position_B2, self.step_B = np.zeros((count, 2), np.float32), np.zeros(count, np.int64)

    def begin(self, rows, seeds):
        for row, seed in zip(rows, seeds):
            self.position_B2[row], self.step_B[row] = np.random.default_rng(seed).uniform(-0.5, 0.5, 2), 0
        return {"state": self._observation()[list(rows)]}

    def step(self, action_B):
        self.position_B2 = self.position_B2 + 0.2 * action_B.astype(np.float32)
        self.step_B += 1
        outside = np.abs(self.position_B2).max(1) > 1
        return Step(
            {"state": self._observation()},
            -np.abs(self.position_B2).sum(1),
            outside,
            (self.step_B >= self.steps) & ~outside,
            {},
        )

    def _observation(self):
        return np.concatenate([self.position_B2, self.step_B[:, None] / 10], 1).astype(np.float32)

    def render(self, rows):
        return np.zeros((len(rows), 8, 8, 3), np.uint8)

    def state_dict(self):
        return {"position": torch.tensor(self.position_B2), "time": torch.tensor(self.step_B)}

    def load_state_dict(self, state):
        self.position_B2, self.step_B = state["position"].numpy().copy(), state["time"].numpy().copy()


def collected(count: int = 3, steps: int = 40, policy=None) -> tuple[Collector, Buffer]:
    buffer = Buffer(200, seed=1)
    collector = Collector(Drift(count), policy, buffer, seed=5, random_steps=steps)
    for _ in range(steps):
        collector()
    return collector, buffer


def test_random_actions_are_repeated():
    buffer = Buffer(200, seed=1)
    collector = Collector(Drift(3), None, buffer, seed=5, random_steps=40, action_repeat=3)
    for _ in range(40):
        collector()
    column = lambda name: buffer.columns[name][: len(buffer)]
    for number in np.unique(column("episode")):
        actions = column("action")[column("episode") == number]
        block = np.arange(len(actions)) // 3
        assert all(len(np.unique(actions[block == k], axis=0)) == 1 for k in range(block[-1] + 1))
        assert len(np.unique(actions, axis=0)) == block[-1] + 1
    with pytest.raises(ValueError, match="action_repeat must be 1 or more, not 0"):
        Collector(Drift(3), None, buffer, seed=5, action_repeat=0)


def networks(algo: OffPolicy, dtype=torch.float64, hidden=(16, 16)) -> Agent:
    agent = replace(algo, hidden=hidden, initial_temperature=0.3).build(Drift(1), 0)
    parts = [agent.critics, agent.target.net, agent.actor.trunk, *([agent.temperature] if agent.temperature else [])]
    for part in parts:
        part.to(dtype)
    with torch.no_grad():
        for p in [*agent.target.net.parameters(), *agent.actor.trunk.parameters()]:
            p.add_(0.1 * torch.randn(p.shape, generator=generator(p.numel(), "test")).to(dtype))
    return agent


def to_double(rollout):
    change = lambda named: {k: v.double() if v.is_floating_point() else v for k, v in named.items()}
    return replace(
        rollout, decisions=change(rollout.decisions), rewards=change(rollout.rewards), extras=change(rollout.extras)
    )


def q(ensemble: Ensemble, k: int, x: torch.Tensor) -> torch.Tensor:
    """Output of network k, layer by layer."""
    for i, (weight, bias) in enumerate(zip(ensemble.weights, ensemble.biases)):
        x = linear(x, weight[k].T, bias[k, 0])
        if i + 1 < len(ensemble.weights):
            x = layer_norm(x, x.shape[-1:], ensemble.scales[i][k, 0], ensemble.shifts[i][k, 0]) if ensemble.norm else x
            x = relu(x)
    return x[:, 0]


def sampled(actor, state, eps):
    mean, log_std = actor.trunk(state).chunk(2, -1)
    u = mean + log_std.clamp(-20, 2).exp() * eps
    normal = torch.distributions.Normal(mean, log_std.clamp(-20, 2).exp())
    return torch.tanh(u), (normal.log_prob(u) - torch.log(1 - torch.tanh(u) ** 2)).sum(-1)


@pytest.mark.parametrize("algo", [SAC, REDQ, RLPD, replace(SAC, entropy_in_backup=False, actor_value="first")])
def test_losses_equal_explicit_loops(algo):
    agent = networks(algo)
    actor, critics, target, temperature = agent.actor, agent.critics, agent.target, agent.temperature
    batch = to_double(collected()[1].sample(32, 3, n_step=2))
    state, after = batch.decisions["observation.state_B"], batch.decisions["next_observation.state_B"]
    taken = batch.decisions["action_BT"][:, 0]
    eps, alpha = action_noise(batch), float(temperature.value.detach())
    members = target_members(batch, algo)
    chosen = range(algo.n_critics) if members is None else members.tolist()
    with torch.no_grad():
        action, logp = sampled(actor, after, eps[1])
        least = torch.stack([q(target.net.ensemble, k, torch.cat([after, action], 1)) for k in chosen]).min(0).values
        y = batch.rewards["reward"] + batch.extras["discount_B"] * (least - alpha * logp * algo.entropy_in_backup)
    error = lambda k: q(critics.ensemble, k, torch.cat([state, taken], 1)) - y
    expected = sum(0.5 * (error(k) ** 2).mean() for k in range(algo.n_critics))
    loss = CriticLoss(actor, critics, target.net, algo, temperature)(batch)
    torch.testing.assert_close(loss.mean(), expected, rtol=1e-10, atol=0)
    assert len(set(chosen)) == algo.target_critics

    action, logp = sampled(actor, state, eps[0])
    each = torch.stack([q(critics.ensemble, k, torch.cat([state, action], 1)) for k in range(algo.n_critics)])
    value = {"min": each.min(0).values, "mean": each.mean(0), "first": each[0]}[algo.actor_value]
    excess = (logp + algo.target_entropy * 2).detach()
    moved = temperature.value if algo.temperature_gradient == "value" else temperature.log
    expected = (alpha * logp - value).mean() - (moved * excess).mean()
    torch.testing.assert_close(ActorLoss(actor, critics, algo, temperature)(batch).mean(), expected, rtol=1e-9, atol=0)


def test_td3_smooths_the_target_actors_action_and_maximizes_the_first_q_network():
    agent = networks(TD3)
    actor, critics, target = agent.actor, agent.critics, agent.target
    batch = to_double(collected()[1].sample(32, 3))
    after, eps = batch.decisions["next_observation.state_B"], action_noise(batch)[1]
    action = (torch.tanh(actor.trunk(after)) + (0.2 * eps).clamp(-0.5, 0.5)).clamp(-1, 1)
    least = torch.minimum(*(q(target.net.ensemble, k, torch.cat([after, action], 1)) for k in range(2)))
    y = batch.rewards["reward"] + batch.extras["discount_B"] * least
    torch.testing.assert_close(
        CriticLoss(actor, critics, target.net, TD3).backup(batch), y.detach(), rtol=1e-10, atol=0
    )
    state = batch.decisions["observation.state_B"]
    expected = -q(critics.ensemble, 0, torch.cat([state, torch.tanh(actor.trunk(state))], 1)).mean()
    torch.testing.assert_close(ActorLoss(actor, critics, TD3)(batch).mean(), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("algo", [RLPD, TD3])
def test_each_update_changes_its_own_weights_alone(algo):
    algo = replace(algo, hidden=(8, 8))
    agent = algo.build(Drift(1), 0)
    updates = algo.learner(agent, ADAM)
    owned = {
        "critic": list(agent.critics.parameters()),
        "actor": [*agent.actor.trained, *(agent.temperature.parameters() if agent.temperature else [])],
        "targets": [
            *agent.target.net.parameters(),
            *(agent.target_trunk.net.parameters() if agent.target_trunk else []),
        ],
    }
    everything = [p for part in owned.values() for p in part]
    batch = collected()[1].sample(32, 3)
    for update in updates.updates:
        before = [p.detach().clone() for p in everything]
        alone = Updates([replace(u, every=1 if u is update else 1 << 40, after=None) for u in updates.updates])
        alone.batches = 1
        alone.update(batch)
        moved = {id(p) for p, old in zip(everything, before) if not torch.equal(p, old)}
        assert moved and moved <= {id(p) for p in owned[update.name]}
        assert all(p.grad is None for p in everything)


@pytest.mark.parametrize(
    "algo",
    [SAC, replace(REDQ, n_critics=4, policy_delay=3), replace(SAC, entropy_in_backup=False, target_update_interval=2)],
)
def test_hand_written_gradients_make_the_updates_of_autograd(algo, monkeypatch):
    optim = replace(ADAM, lr=1e-2)
    agent = networks(algo, dtype=torch.float32)
    twin = Agent(*copy.deepcopy((agent.actor, agent.critics)), Target(agent.critics, algo.tau), agent.action_range)
    twin.target = Target(twin.critics, algo.tau)
    twin.target.load_state_dict(agent.target.state_dict())
    twin.temperature = copy.deepcopy(agent.temperature)
    fast = algo.learner(agent, optim)
    monkeypatch.setattr(off_policy, "off_policy_learner", lambda *_: None)
    generic = algo.learner(twin, optim)
    assert isinstance(fast, AnalyticOffPolicyLearner) and isinstance(generic, Updates)
    buffer = collected()[1]
    for step in range(8):
        batch = buffer.sample(32, step)
        metrics, expected = fast.update(batch), generic.update(batch)
        assert metrics == pytest.approx({k: expected[k] for k in metrics}, rel=2e-4, abs=1e-5)
    for name in ("actor", "critics", "temperature"):
        for a, b in zip(getattr(agent, name).parameters(), getattr(twin, name).parameters()):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-5)
    for a, b in zip(agent.target.net.parameters(), twin.target.net.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-5)


def test_bfloat16_makes_nearly_the_same_updates_with_both_learners():
    losses = {}
    for precision in ("float32", "bfloat16"):
        for name, algo in (("sac", SAC), ("td3", TD3)):
            algo = replace(algo, hidden=(192, 192), precision=precision)
            learner, buffer = algo.learner(algo.build(Drift(1), 0), ADAM), collected()[1]
            losses[precision, name] = [learner.update(buffer.sample(32, step))["loss/critic"] for step in range(6)]
    for name in ("sac", "td3"):
        assert losses["bfloat16", name] == pytest.approx(losses["float32", name], rel=0.05)
        assert losses["bfloat16", name] != losses["float32", name]


def test_other_networks_and_optimizers_have_no_hand_written_gradient():
    others = (RLPD, TD3, replace(SAC, actor_value="first"))
    for algo in others:
        algo = replace(algo, hidden=(8, 8))
        assert not has_analytic_gradient(algo.build(Drift(1), 0), algo, ADAM)
    algo = replace(SAC, hidden=(8, 8))
    agent = algo.build(Drift(1), 0)
    assert has_analytic_gradient(agent, algo, ADAM)
    for changes in ({"weight_decay": 0.1}, {"warmup": 5}, {"max_grad_norm": 1.0}):
        assert not has_analytic_gradient(agent, algo, replace(ADAM, **changes))
    batch = collected()[1].sample(8, 0)
    batch.rewards["reward"][0] = math.nan
    with pytest.raises(FloatingPointError, match="the loss of update 'critic' is nan"):
        algo.learner(agent, ADAM).update(batch)


def test_an_ensemble_equals_its_members_and_targets_follow_by_soft_updates():
    ensemble = Ensemble(3, (4, 8, 8), norm=True)
    x = torch.randn(5, 4)
    torch.testing.assert_close(ensemble(x), torch.stack([q(ensemble, k, x) for k in range(3)]))
    torch.testing.assert_close(ensemble(x, torch.tensor([2, 0])), ensemble(x)[[2, 0]])
    target = Target(ensemble, 0.25)
    before = [p.clone() for p in target.net.parameters()]
    with torch.no_grad():
        for p in ensemble.parameters():
            p.add_(1.0)
    target.soft_update()
    assert all(torch.allclose(p, old + 0.25) and not p.requires_grad for p, old in zip(target.net.parameters(), before))


def test_a_multiplier_grows_while_its_constraint_is_violated():
    for ascent in ("log", "value"):
        dual = LagrangeMultiplier(2.0, ascent)
        for excess, sign in ((0.5, 1), (-0.5, -1)):
            dual.log.grad = None
            measured = torch.tensor([excess, excess], requires_grad=True)
            dual.loss(measured).sum().backward()
            assert -dual.log.grad * sign == pytest.approx(1.0 if ascent == "log" else 2.0) and measured.grad is None
    with pytest.raises(ValueError, match="above 0"):
        LagrangeMultiplier(0.0)


def test_densities_of_squashed_actions_integrate_to_one_and_stay_finite():
    gaussian = Gaussian(torch.tensor([[0.4]], dtype=torch.float64), torch.tensor([[0.8]], dtype=torch.float64))
    action = torch.linspace(-1, 1, 200_001, dtype=torch.float64)[1:-1, None]
    assert float(squashed_log_prob(gaussian, torch.atanh(action)).exp().sum() * 1e-5) == pytest.approx(1, abs=1e-3)
    actor = Actor(Encoder(SPACE), MLP((3, 8, 4), "relu", gain=1e4), SquashedGaussian())
    action, logp = actor.rsample({"state": torch.ones(6, 3)}, torch.randn(6, 2))
    (logp.sum() + action.sum()).backward()
    assert logp.isfinite().all() and all(p.grad.isfinite().all() for p in actor.trained)
    deterministic = Actor(Encoder(SPACE), MLP((3, 8, 2), "relu"), Deterministic())
    observation = {"state": torch.randn(6, 3)}
    reparameterized = deterministic.rsample(observation, torch.randn(6, 2))[0].detach()
    assert torch.equal(deterministic.act(observation, None).action_B, reparameterized)
    assert (deterministic.act(observation, torch.randn(6, 2)).action_B.abs() <= 1).all()


def test_a_resumed_collector_continues_and_the_buffer_holds_what_happened():
    agent = replace(SAC, hidden=(8, 8)).build(Drift(1), 0)
    collector, buffer = collected(policy=agent.actor)
    resumed_buffer = Buffer(200, seed=1)
    resumed = Collector(Drift(3), agent.actor, resumed_buffer, seed=5, random_steps=40)
    resumed.load_state_dict(copy.deepcopy(collector.state_dict()))
    resumed_buffer.load_state_dict(copy.deepcopy(buffer.state_dict()))
    finished = [[e.total for e in run()] for run in (collector, resumed) for _ in range(12)]
    assert finished[:12] == finished[12:] and any(finished)
    a, b = buffer.sample(64, 3, 3), resumed_buffer.sample(64, 3, 3)
    assert all(torch.equal(a.decisions[k], b.decisions[k]) for k in a.decisions)
    moved = buffer.sample(150, 1)
    step = moved.decisions["next_observation.state_B"] - moved.decisions["observation.state_B"]
    torch.testing.assert_close(step[:, :2], 0.2 * moved.decisions["action_BT"][:, 0], atol=1e-6, rtol=1e-4)
    assert (step[:, 2] > 0).all(), "a transition never reaches into the next episode"


def test_the_encoder_of_pictures_learns_from_the_critics_alone():
    world = environment("push", 2, observe="image", steps=5)
    algo = replace(
        RLPD,
        n_critics=2,
        offline_fraction=0.0,
        policy_delay=1,
        hidden=(8,),
        batch_size=8,
        learning_starts=10,
        image_shift=2,
        buffer_size=50,
    )
    agent = algo.build(world, 0)
    before = copy.deepcopy(agent.actor.encoder.state_dict())
    feed, learner = algo.feed(world, agent, 0), algo.learner(agent, ADAM)
    metrics = [learner.update(feed(step)) for step in range(3)][-1]
    assert all(math.isfinite(v) for v in metrics.values())
    of_critics = {id(p) for p in agent.critics.parameters()}
    assert agent.actor.encoder is agent.critics.encoder and not {id(p) for p in agent.actor.trained} & of_critics
    assert any(not torch.equal(v, before[k]) for k, v in agent.actor.encoder.state_dict().items())


def test_impossible_actions_and_fractions_raise_an_error():
    world = Drift(1)
    agent = SAC.build(world, 0)
    with pytest.raises(ValueError, match="offline_fraction 0.5 does not go with no demonstrations"):
        RLPD.feed(world, agent, 0)
    world.action_space = spaces.Discrete(3)
    with pytest.raises(ValueError, match="off-policy learning needs a vector with bounds"):
        SAC.build(world, 0)
    with pytest.raises(ValueError, match="off-policy learning needs a Box"):
        Collector(world, None, Buffer(5), 0)


def test_environment_steps_become_gradient_steps():
    schedule = EnvSchedule(steps=100, evaluate_every=30, save_every=50, log_every=7)
    assert schedule.gradient_schedule(learning_starts=40, gradient_steps=3) == Schedule(180, 90, 150, 7)
    assert schedule.gradient_schedule(learning_starts=200, gradient_steps=3).steps == 0
