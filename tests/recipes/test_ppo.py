"""The recipes of PPO and of behaviour cloning: learning, resuming, real presets at a reduced size, the oracle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from saccade.algorithms.ppo import Proximal
from saccade.core import EnvironmentFailed
from saccade.envs.rollout import RolloutCollector
from saccade.envs.task import ControlTask
from saccade.recipes.baselines import bc, ppo
from saccade.training.run import Run, RunFailed

VECTORS = replace(
    ppo.PRESETS["tiny"], task=ControlTask("CartPole-v1", test_episodes=2, test_rows=2, video_episodes=0), rows=2,
    ppo=Proximal(length=16, epochs=2, minibatch=8), steps=4, evaluate_every=4, save_every=2,
)  # fmt: skip
PICTURES = replace(
    VECTORS, task=ControlTask("reach", ("pixels=36", "steps=10"), test_episodes=2, test_rows=2, video_episodes=1),
    model=replace(ppo.PICTURES, features=16),
)  # fmt: skip
SCALED = replace(
    VECTORS, task=replace(PICTURES.task, settings=("observe=state", "steps=10")), model=replace(VECTORS.model, standardise=True),
    ppo=replace(VECTORS.ppo, scale_rewards=True),
)  # fmt: skip


def run_for(recipe, cfg, folder: Path, resume: bool = False) -> dict:
    run = Run.resume(folder, display=False) if resume else Run.start(folder, {"recipe": recipe.__name__}, display=False)
    with run:
        return recipe.train(cfg, run)


def saved(folder: Path) -> dict:
    from saccade.training import checkpoint

    return checkpoint.read(checkpoint.latest(folder / "checkpoints"))[1]


def assert_same(a, b) -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for one, other in zip(a, b):
            assert_same(one, other)
    else:
        assert a == b


@pytest.mark.parametrize("cfg", [VECTORS, PICTURES, SCALED])
def test_four_segments_equal_two_and_two_bit_for_bit(cfg, tmp_path):
    run_for(ppo, cfg, tmp_path / "whole")
    run_for(ppo, replace(cfg, steps=2), tmp_path / "halves")
    run_for(ppo, cfg, tmp_path / "halves", resume=True)
    whole, halves = saved(tmp_path / "whole"), saved(tmp_path / "halves")
    for name in ("policy", "learner", "feed"):
        assert_same(whole[name], halves[name])


def test_a_pole_is_balanced_longer_after_a_few_segments(tmp_path):
    cfg = replace(
        VECTORS,
        task=replace(VECTORS.task, test_episodes=8, test_rows=8),
        rows=8,
        ppo=Proximal(length=128, minibatch=64),
        steps=8,
    )
    result = run_for(ppo, replace(cfg, evaluate_every=8, save_every=8), tmp_path / "run")
    assert result["after"]["return"] > 120


def test_the_presets_build_and_learn_at_a_reduced_size(tmp_path):
    for name in ("pendulum", "half-cheetah", "pong"):
        pytest.importorskip({"half-cheetah": "mujoco", "pong": "ale_py"}.get(name, "gymnasium"))
        cfg = ppo.PRESETS[name]
        small = replace(cfg.ppo, length=8, minibatch=8, epochs=1)
        policy = ppo.policies(cfg)["policy"]
        batch = ppo.feed(small, RolloutCollector(cfg.task.make(1), policy, small.length, 0), 1)(0)
        assert ppo.learner(small, policy, 1, 1, 0).update(batch)["health/ppo_kl"] < 1e-4, name


def test_half_precision_of_pictures_replays_within_its_rounding():
    cfg = replace(PICTURES, model=replace(PICTURES.model, precision="bfloat16"))
    policy = ppo.policies(cfg)["policy"]
    rollout = ppo.feed(cfg.ppo, RolloutCollector(cfg.task.make(2), policy, cfg.ppo.length, 0), 2)(0)
    gap = (policy.likelihood(rollout).logp_BT - rollout.logp_BT).abs().max()
    assert 0 < gap < 0.02


def test_the_oracle_takes_as_many_steps_and_is_scored_alike(tmp_path):
    pytest.importorskip("stable_baselines3")
    for cfg in (VECTORS, PICTURES):
        result = run_for(ppo, replace(cfg, method="sb3", steps=1), tmp_path / cfg.task.env)
        assert result["after"].keys() == result["before"].keys() >= {"return", "length"}
    with pytest.raises(ValueError, match="method 'sb3' has the convolutions 'nature', and neither"):
        run_for(ppo, replace(SCALED, method="sb3"), tmp_path / "scaled")


def test_an_evaluation_that_breaks_is_made_up_for(tmp_path, monkeypatch):
    score, calls = ControlTask.score, []

    def breaking(task, *rest):
        calls.append(1)
        if len(calls) == 2:
            raise EnvironmentFailed("environment 'CartPole-v1' (row 0): it is gone")
        return score(task, *rest)

    cfg = replace(VECTORS, evaluate_every=100)
    monkeypatch.setattr(ControlTask, "score", breaking)
    with pytest.raises(RunFailed, match=f"evaluation at step {cfg.steps}: environment 'CartPole-v1'"):
        run_for(ppo, cfg, tmp_path / "run")
    found = run_for(ppo, cfg, tmp_path / "run", resume=True)
    assert len(calls) == 3 and found == run_for(ppo, cfg, tmp_path / "whole")
    assert run_for(ppo, cfg, tmp_path / "run", resume=True) == found and len(calls) == 5, (
        "what is told is not asked again"
    )


def test_an_environment_that_breaks_ends_the_run_with_its_name(tmp_path, monkeypatch):
    class Broken:
        def __init__(self, world):
            self.world, self.steps = world, 0

        def __getattr__(self, name):
            return getattr(self.world, name)

        def step(self, action_B):
            self.steps += 1
            if self.steps > 20:
                raise EnvironmentFailed("environment 'CartPole-v1' (row 0): it is gone")
            return self.world.step(action_B)

    make = ControlTask.make
    monkeypatch.setattr(
        ControlTask, "make", lambda task, count: Broken(make(task, count)) if count == 2 else make(task, count)
    )
    cfg = replace(VECTORS, task=replace(VECTORS.task, test_episodes=1))
    with pytest.raises(RunFailed, match="step 2: environment 'CartPole-v1' .row 0.: it is gone"):
        run_for(ppo, cfg, tmp_path / "run")
    monkeypatch.undo()
    run_for(ppo, cfg, tmp_path / "run", resume=True)
    run_for(ppo, cfg, tmp_path / "whole")
    assert_same(saved(tmp_path / "run")["policy"], saved(tmp_path / "whole")["policy"])


CLONE = replace(
    bc.PRESETS["tiny"], task=ControlTask("push", test_episodes=4, test_rows=4, video_episodes=0),
    shown=bc.Demonstrations(episodes=4), steps=100, evaluate_every=100, log_every=50, save_every=50,
)  # fmt: skip


@pytest.mark.parametrize("spread", ["learned", "fixed"])
def test_cloning_makes_what_was_done_likelier_and_resumes_bit_for_bit(tmp_path, spread):
    cfg = replace(CLONE, spread=spread)
    run_for(bc, cfg, tmp_path / "whole")
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss/bc"] for line in lines if "loss/bc" in line]
    assert losses[-1] < losses[0] - 0.1
    run_for(bc, replace(cfg, steps=50), tmp_path / "halves")
    run_for(bc, cfg, tmp_path / "halves", resume=True)
    assert_same(saved(tmp_path / "whole")["policy"], saved(tmp_path / "halves")["policy"])


def test_the_fixed_spread_is_the_squared_error():
    policy = bc.policies(CLONE)["policy"]
    seen, action = torch.randn(5, 1, policy.trunk.size), torch.randn(5, 1, 2)
    rows = ppo.Rollout(
        [None] * 5, {"seen.state_BT": seen, "action_BT": action}, None, *torch.ones(2, 5, 1), torch.arange(5)
    )
    rows.extras["length_B"] = torch.ones(5)
    weights = bc.imitating(policy, "fixed")
    found = torch.autograd.grad(bc.SupervisedLoss(policy)(rows).mean(), weights)
    error = 0.5 * ((policy.actor(policy.trunk({"state": seen[:, 0]})) - action[:, 0]) ** 2).sum(-1).mean()
    torch.testing.assert_close(found, torch.autograd.grad(error, weights))
