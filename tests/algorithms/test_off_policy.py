"""Learning from memory: losses against loops written by hand, gradients that stay where they belong, the fast path,
resumes.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.nn.functional import layer_norm, linear, relu

from saccade import catalog
from saccade.algorithms.fast.off_policy import AnalyticOffPolicyLearner, has_analytic_gradient
from saccade.algorithms.lagrange import LagrangeMultiplier
from saccade.algorithms.off_policy import (
    REDQ,
    RLPD,
    SAC,
    TD3,
    ActorLoss,
    CriticLoss,
    Replaying,
    agent,
    learner,
    members,
    noise,
)
from saccade.core import Step, generator
from saccade.envs.collector import Collector
from saccade.math.gaussians import Gaussian, squashed_log_prob
from saccade.models.control.critics import Critics, Ensemble, Target
from saccade.models.control.networks import MLP, Encoder
from saccade.policies.actors import DeterministicActor, SquashedActor
from saccade.training import checkpoint
from saccade.training.buffers import Buffer
from saccade.training.learner import Update, Updates
from saccade.training.run import Run
from saccade.training.state import pack

FACES = spaces.Dict({"state": spaces.Box(-1, 1, (3,), np.float32)})


class Drift:
    """A point that drifts where it is pushed; an episode ends where it leaves [-1, 1] or after ``steps``."""

    name, observation_space, action_space = "drift", FACES, spaces.Box(-2.0, 2.0, (2,), np.float32)

    def __init__(self, count: int, steps: int = 7):
        self.count, self.steps = count, steps
        self.place_B2, self.time_B = np.zeros((count, 2), np.float32), np.zeros(count, np.int64)

    def begin(self, rows, seeds):
        for row, seed in zip(rows, seeds):
            self.place_B2[row], self.time_B[row] = np.random.default_rng(seed).uniform(-0.5, 0.5, 2), 0
        return {"state": self._seen()[list(rows)]}

    def step(self, action_B):
        self.place_B2 = self.place_B2 + 0.2 * action_B.astype(np.float32)
        self.time_B += 1
        gone = np.abs(self.place_B2).max(1) > 1
        return Step(
            {"state": self._seen()}, -np.abs(self.place_B2).sum(1), gone, (self.time_B >= self.steps) & ~gone, {}
        )

    def _seen(self):
        return np.concatenate([self.place_B2, self.time_B[:, None] / 10], 1).astype(np.float32)

    def render(self, rows):
        return np.zeros((len(rows), 8, 8, 3), np.uint8)

    def state_dict(self):
        return {"place": torch.tensor(self.place_B2), "time": torch.tensor(self.time_B)}

    def load_state_dict(self, state):
        self.place_B2, self.time_B = state["place"].numpy().copy(), state["time"].numpy().copy()


def memory(count: int = 3, steps: int = 40, policy=None) -> tuple[Collector, Buffer]:
    buffer = Buffer(200, seed=1)
    experience = Collector(Drift(count), policy, buffer, seed=5, warm_up=steps)
    for _ in range(steps):
        experience()
    return experience, buffer


def test_random_actions_are_held_for_as_long_as_asked():
    buffer = Buffer(200, seed=1)
    experience = Collector(Drift(3), None, buffer, seed=5, warm_up=40, hold=3)
    for _ in range(40):
        experience()
    column = lambda name: buffer.columns[name][: len(buffer)]
    for number in np.unique(column("episode")):
        taken = column("action")[column("episode") == number]
        held = np.arange(len(taken)) // 3
        assert all(len(np.unique(taken[held == k], axis=0)) == 1 for k in range(held[-1] + 1))
        assert len(np.unique(taken, axis=0)) == held[-1] + 1
    with pytest.raises(ValueError, match="held for 0 steps"):
        Collector(Drift(3), None, buffer, seed=5, hold=0)


def networks(how, stochastic: bool = True, dtype=torch.float64, hidden=(16, 16)):
    made = agent(Replaying(how, hidden=hidden), Drift(1), 0, stochastic)
    temperature = LagrangeMultiplier(0.3)
    for net in (made.critics, made.target.net, made.actor.trunk, temperature):
        net.to(dtype)
    with torch.no_grad():
        for p in [*made.target.net.parameters(), *made.actor.trunk.parameters()]:
            p.add_(0.1 * torch.randn(p.shape, generator=generator(p.numel())).to(dtype))
    return made.actor, made.critics, made.target, temperature


def doubled(rollout):
    change = lambda named: {k: v.double() if v.is_floating_point() else v for k, v in named.items()}
    return replace(
        rollout, decisions=change(rollout.decisions), rewards=change(rollout.rewards), extras=change(rollout.extras)
    )


def q(ensemble: Ensemble, k: int, x: torch.Tensor) -> torch.Tensor:
    """What network k says, layer by layer."""
    for i, (weight, bias) in enumerate(zip(ensemble.weights, ensemble.biases)):
        x = linear(x, weight[k].T, bias[k, 0])
        if i + 1 < len(ensemble.weights):
            x = layer_norm(x, x.shape[-1:], ensemble.scales[i][k, 0], ensemble.shifts[i][k, 0]) if ensemble.norm else x
            x = relu(x)
    return x[:, 0]


def drawn(actor, state, eps):
    mean, log_std = actor.trunk(state).chunk(2, -1)
    u = mean + log_std.clamp(-20, 2).exp() * eps
    normal = torch.distributions.Normal(mean, log_std.clamp(-20, 2).exp())
    return torch.tanh(u), (normal.log_prob(u) - torch.log(1 - torch.tanh(u) ** 2)).sum(-1)


@pytest.mark.parametrize("how", [SAC, REDQ, RLPD, replace(SAC, entropy_in_backup=False, actor_value="first")])
def test_losses_are_those_of_a_loop_written_by_hand(how):
    actor, critics, target, temperature = networks(how)
    batch = doubled(memory()[1].sample(32, 3, n_step=2))
    state, after, taken = (
        batch.decisions["seen.state_B"],
        batch.decisions["next.state_B"],
        batch.decisions["action_BT"][:, 0],
    )
    eps, alpha = noise(batch), float(temperature.value.detach())
    chosen = members(batch, how)
    chosen = range(how.critics) if chosen is None else chosen.tolist()
    with torch.no_grad():
        action, logp = drawn(actor, after, eps[1])
        least = torch.stack([q(target.net.ensemble, k, torch.cat([after, action], 1)) for k in chosen]).min(0).values
        y = batch.rewards["reward"] + batch.extras["discount_B"] * (least - alpha * logp * how.entropy_in_backup)
    wanted = sum(
        0.5 * ((q(critics.ensemble, k, torch.cat([state, taken], 1)) - y) ** 2).mean() for k in range(how.critics)
    )
    found = CriticLoss(actor, critics, target.net, how, temperature)(batch)
    torch.testing.assert_close(found.mean(), wanted, rtol=1e-10, atol=0)
    assert len(set(chosen)) == how.subset

    action, logp = drawn(actor, state, eps[0])
    each = torch.stack([q(critics.ensemble, k, torch.cat([state, action], 1)) for k in range(how.critics)])
    value = {"min": each.min(0).values, "mean": each.mean(0), "first": each[0]}[how.actor_value]
    excess = (logp + how.target_entropy * 2).detach()
    wanted = (alpha * logp - value).mean() - (temperature.log * excess).mean()
    torch.testing.assert_close(ActorLoss(actor, critics, how, temperature)(batch).mean(), wanted, rtol=1e-9, atol=0)


def test_td3_smooths_the_slow_actors_action_and_raises_the_first_critic():
    actor, critics, target, _ = networks(TD3, stochastic=False)
    batch = doubled(memory()[1].sample(32, 3))
    after, eps = batch.decisions["next.state_B"], noise(batch)[1]
    action = (torch.tanh(actor.trunk(after)) + (0.2 * eps).clamp(-0.5, 0.5)).clamp(-1, 1)
    least = torch.minimum(*(q(target.net.ensemble, k, torch.cat([after, action], 1)) for k in range(2)))
    y = batch.rewards["reward"] + batch.extras["discount_B"] * least
    torch.testing.assert_close(
        CriticLoss(actor, critics, target.net, TD3).backup(batch), y.detach(), rtol=1e-10, atol=0
    )
    state = batch.decisions["seen.state_B"]
    wanted = -q(critics.ensemble, 0, torch.cat([state, torch.tanh(actor.trunk(state))], 1)).mean()
    torch.testing.assert_close(ActorLoss(actor, critics, TD3)(batch).mean(), wanted, rtol=1e-10, atol=0)


@pytest.mark.parametrize(("how", "stochastic"), [(RLPD, True), (TD3, False)])
def test_each_update_moves_its_own_weights_alone(how, stochastic):
    made = agent(Replaying(how, hidden=(8, 8)), Drift(1), 0, stochastic)
    updates = learner(Replaying(how, hidden=(8, 8)), made)
    owned = {
        "critic": list(made.critics.parameters()),
        "actor": [*made.actor.trained, *([made.temperature.log] if stochastic else [])],
        "slow": [*made.target.net.parameters(), *(made.slow.net.parameters() if made.slow else [])],
    }
    everything = [p for part in owned.values() for p in part]
    batch = memory()[1].sample(32, 3)
    for update in updates.updates:
        before = [p.detach().clone() for p in everything]
        alone = Updates([replace(u, every=1 if u is update else 1 << 40, after=None) for u in updates.updates])
        alone.batches = 1
        alone.update(batch)
        moved = {id(p) for p, old in zip(everything, before) if not torch.equal(p, old)}
        assert moved and moved <= {id(p) for p in owned[update.name]}
        assert all(p.grad is None for p in everything)


@pytest.mark.parametrize("how", [SAC, replace(REDQ, critics=4, actor_every=3), replace(SAC, entropy_in_backup=False)])
def test_the_gradient_by_hand_takes_the_steps_of_autograd(how):
    actor, critics, target, temperature = networks(how, dtype=torch.float32)
    twin = copy.deepcopy((actor, critics, target, temperature))
    fast = AnalyticOffPolicyLearner(actor, critics, target, how, temperature, 1e-2)
    other, others, slow, dual = twin
    own = [*other.trunk.parameters(), dual.log]
    slowly = Updates(
        [
            Update("critic", CriticLoss(other, others, slow.net, how, dual), list(others.parameters()),
                   torch.optim.Adam(others.parameters(), 1e-2), max_norm=math.inf, after=lambda taken: slow.soft_update()),
            Update("actor", ActorLoss(other, others, how, dual), own, torch.optim.Adam(own, 1e-2), every=how.actor_every, max_norm=math.inf),
        ]
    )  # fmt: skip
    slow._pairs = list(slow.net.parameters()), list(others.parameters())
    buffer = memory()[1]
    for step in range(8):
        batch = buffer.sample(32, step)
        told, wanted = fast.update(batch), slowly.update(batch)
        assert told == pytest.approx({k: wanted[k] for k in told}, rel=2e-4, abs=1e-5)
    for mine, theirs in ((actor.trunk, other.trunk), (critics, others), (target.net, slow.net), (temperature, dual)):
        for a, b in zip(mine.parameters(), theirs.parameters()):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-5)


def test_products_in_bfloat16_take_nearly_the_same_steps_by_hand_and_by_autograd():
    told = {}
    for precision in ("float32", "bfloat16"):
        for how in (SAC, TD3):
            cfg = Replaying(how, hidden=(192, 192), precision=precision)
            made = agent(cfg, Drift(1), 0, how is SAC)
            own, buffer = learner(cfg, made), memory()[1]
            told[precision, how] = [own.update(buffer.sample(32, step))["loss/critic"] for step in range(6)]
    for how in (SAC, TD3):
        assert told["bfloat16", how] == pytest.approx(told["float32", how], rel=0.05)
        assert told["bfloat16", how] != told["float32", how]


def test_what_is_not_written_out_is_not_taken_for_it():
    for how, stochastic in ((RLPD, True), (TD3, False), (replace(SAC, actor_value="first"), True)):
        made = agent(Replaying(how, hidden=(8, 8)), Drift(1), 0, stochastic)
        assert not has_analytic_gradient(made.actor, made.critics, how)
    made = agent(Replaying(SAC, hidden=(8, 8)), Drift(1), 0)
    batch = memory()[1].sample(8, 0)
    batch.rewards["reward"][0] = math.nan
    with pytest.raises(FloatingPointError, match="the loss of update 'critic' is nan"):
        learner(Replaying(SAC), made).update(batch)


def test_an_ensemble_is_its_members_and_a_target_follows():
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


def test_a_multiplier_grows_in_excess_and_shrinks_where_there_is_room():
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
    actor = SquashedActor(Encoder(FACES), MLP((3, 8, 4), "relu", gain=1e4))
    action, logp = actor.propose({"state": torch.ones(6, 3)}, torch.randn(6, 2))
    (logp.sum() + action.sum()).backward()
    assert logp.isfinite().all() and all(p.grad.isfinite().all() for p in actor.trained)
    still = DeterministicActor(Encoder(FACES), MLP((3, 8, 2), "relu"))
    seen = {"state": torch.randn(6, 3)}
    assert torch.equal(still.act(seen, None).action_B, still.propose(seen)[0].detach())
    assert (still.act(seen, torch.randn(6, 2)).action_B.abs() <= 1).all()


def test_experience_goes_on_where_it_was_and_fills_memory_with_what_happened():
    made = agent(Replaying(SAC, hidden=(8, 8)), Drift(1), 0)
    whole, buffer = memory(policy=made.actor)
    fresh = Buffer(200, seed=1)
    again = Collector(Drift(3), made.actor, fresh, seed=5, warm_up=40)
    again.load_state_dict(copy.deepcopy(whole.state_dict()))
    fresh.load_state_dict(copy.deepcopy(buffer.state_dict()))
    finished = [[e.total for e in run()] for run in (whole, again) for _ in range(12)]
    assert finished[:12] == finished[12:] and any(finished)
    a, b = buffer.sample(64, 3, 3), fresh.sample(64, 3, 3)
    assert all(torch.equal(a.decisions[k], b.decisions[k]) for k in a.decisions)
    moved = buffer.sample(150, 1)
    step = moved.decisions["next.state_B"] - moved.decisions["seen.state_B"]
    torch.testing.assert_close(step[:, :2], 0.2 * moved.decisions["action_BT"][:, 0], atol=1e-6, rtol=1e-4)
    assert (step[:, 2] > 0).all(), "a transition never reaches into the next episode"


def run_recipe(name: str, folder: Path, env_steps: int = 60, **changes) -> dict:
    recipe = catalog.load(name)
    cfg = recipe.PRESETS["tiny"]
    small = replace(cfg.learning, hidden=(8, 8), batch=16, warm_up=20, memory=60)
    shown = {"shown": replace(cfg.shown, episodes=2)} if name == "rlpd" else {}
    course = replace(cfg.course, env_steps=env_steps, evaluate_every=20, save_every=20, log_every=10)
    settings = dict(course=course, learning=small, **shown) | changes
    task = replace(cfg.task, env="push", test_episodes=2, test_rows=2, shown=1, settings=("steps=9",))
    with (
        Run.resume(folder, display=False)
        if folder.exists()
        else Run.start(folder, {"recipe": name}, display=False) as run
    ):
        return recipe.train(replace(cfg, task=task, **settings), run)


@pytest.mark.parametrize("name", ["sac", "td3", "rlpd"])
def test_a_resumed_recipe_ends_where_the_whole_one_does(name, tmp_path):
    whole = run_recipe(name, tmp_path / "whole")
    run_recipe(name, tmp_path / "halves", env_steps=40)
    halves = run_recipe(name, tmp_path / "halves")
    states = [checkpoint.read(checkpoint.latest(tmp_path / part / "checkpoints"))[1] for part in ("whole", "halves")]
    (tree, one), (other, two) = (pack({k: v for k, v in state.items() if k != "scores"}) for state in states)
    assert tree == other and all(torch.equal(one[k], two[k]) for k in one) and len(one) > 20
    assert whole["after"] == halves["after"] and {"return", "success"} <= whole["after"].keys()


def test_pictures_are_learned_from_and_only_critics_train_what_sees_them():
    from saccade.algorithms.off_policy import feed
    from saccade.envs import environment

    world = environment("push", 2, observe="image", steps=5)
    cfg = Replaying(
        replace(RLPD, critics=2, offline_share=0.0, actor_every=1), hidden=(8,), batch=8, warm_up=10, shift=2, memory=50
    )
    made = agent(cfg, world, 0)
    before = copy.deepcopy(made.actor.encoder.state_dict())
    batches, learns = feed(cfg, world, made, 0), learner(cfg, made)
    told = [learns.update(batches(step)) for step in range(3)][-1]
    assert all(math.isfinite(v) for v in told.values())
    judging = {id(p) for p in made.critics.parameters()}
    assert made.actor.encoder is made.critics.encoder and not {id(p) for p in made.actor.trained} & judging
    assert any(not torch.equal(v, before[k]) for k, v in made.actor.encoder.state_dict().items())


def test_what_cannot_be_learned_is_said():
    world = Drift(1)
    world.action_space = spaces.Discrete(3)
    with pytest.raises(ValueError, match="off-policy learning needs a vector with bounds"):
        agent(Replaying(), world, 0)
    with pytest.raises(ValueError, match="off-policy learning needs a Box"):
        Collector(world, None, Buffer(5), 0)
    assert isinstance(Critics(Encoder(FACES), 3, 2), torch.nn.Module)


def test_stable_baselines_runs_on_our_environment(tmp_path):
    pytest.importorskip("stable_baselines3")
    result = run_recipe("sac", tmp_path / "run", method="sb3")
    assert {"return", "success"} <= result["after"].keys()
