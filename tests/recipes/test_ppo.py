"""The PPO recipe: learning, resuming, real presets at a reduced size, failures, stable-baselines3."""

from __future__ import annotations

from dataclasses import replace

import pytest
from running_control import assert_same, run_for, saved

from saccade.algorithms.ppo import PPO
from saccade.core import EnvironmentFailed, RunFailed
from saccade.envs.rollout import RolloutCollector
from saccade.envs.task import ControlTask
from saccade.envs.wrapper import EnvironmentWrapper
from saccade.recipes.baselines import ppo
from saccade.training.settings import Schedule

VECTORS = replace(
    ppo.PRESETS["tiny"],
    schedule=Schedule(steps=4, evaluate_every=4, save_every=2),
    task=ControlTask("CartPole-v1", test_episodes=2, test_rows=2, video_episodes=0),
    n_envs=2,
    ppo=PPO(n_steps=16, n_epochs=2, batch_size=8),
)
PICTURES = replace(
    VECTORS,
    task=ControlTask("reach", ("pixels=36", "steps=10"), test_episodes=2, test_rows=2, video_episodes=1),
    model=replace(ppo.PICTURES, picture_features=16),
)
NORMALIZED = replace(
    VECTORS,
    task=replace(PICTURES.task, settings=("observe=state", "steps=10")),
    model=replace(VECTORS.model, normalize_observations=True),
    ppo=replace(VECTORS.ppo, normalize_rewards=True),
)


def with_steps(cfg, steps: int):
    return replace(cfg, schedule=replace(cfg.schedule, steps=steps))


@pytest.mark.parametrize("cfg", [VECTORS, PICTURES, NORMALIZED])
def test_four_segments_equal_two_and_two_bit_for_bit(cfg, tmp_path):
    run_for(ppo, cfg, tmp_path / "whole")
    run_for(ppo, with_steps(cfg, 2), tmp_path / "halves")
    run_for(ppo, cfg, tmp_path / "halves")
    whole, halves = saved(tmp_path / "whole"), saved(tmp_path / "halves")
    for name in ("policy", "learner", "feed"):
        assert_same(whole[name], halves[name])


def test_a_pole_is_balanced_longer_after_a_few_segments(tmp_path):
    cfg = replace(
        VECTORS,
        schedule=Schedule(steps=8, evaluate_every=8, save_every=8),
        task=replace(VECTORS.task, test_episodes=8, test_rows=8),
        n_envs=8,
        ppo=PPO(n_steps=128, batch_size=64),
    )
    assert run_for(ppo, cfg, tmp_path / "run")["after"]["return"] > 120


def test_the_presets_build_and_learn_at_a_reduced_size():
    for name in ("pendulum", "half-cheetah", "pong"):
        pytest.importorskip({"half-cheetah": "mujoco", "pong": "ale_py"}.get(name, "gymnasium"))
        cfg = ppo.PRESETS[name]
        small = replace(cfg.ppo, n_steps=8, batch_size=8, n_epochs=1)
        policy = ppo.policies(cfg)["policy"]
        batch = small.feed(RolloutCollector(cfg.task.make(1), policy, small.n_steps, 0), 1)(0)
        assert small.learner(policy, cfg.optim, 1, 1, 0).update(batch)["health/ppo_kl"] < 1e-4, name


def test_half_precision_of_pictures_replays_within_its_rounding():
    cfg = replace(PICTURES, model=replace(PICTURES.model, precision="bfloat16"))
    policy = ppo.policies(cfg)["policy"]
    rollout = cfg.ppo.feed(RolloutCollector(cfg.task.make(2), policy, cfg.ppo.n_steps, 0), 2)(0)
    gap = (policy.likelihood(rollout).logp_BT - rollout.logp_BT).abs().max()
    assert 0 < gap < 0.02


def test_stable_baselines3_takes_as_many_steps_and_is_scored_alike(tmp_path):
    pytest.importorskip("stable_baselines3")
    for cfg in (VECTORS, PICTURES):
        result = run_for(ppo, replace(with_steps(cfg, 1), implementation="sb3"), tmp_path / cfg.task.env)
        assert result["after"].keys() == result["before"].keys() >= {"return", "length"}
    with pytest.raises(ValueError, match="implementation 'sb3' has the convolutions 'nature', and normalizes neither"):
        run_for(ppo, replace(NORMALIZED, implementation="sb3"), tmp_path / "normalized")


def test_a_failed_evaluation_is_repeated_on_resuming(tmp_path, monkeypatch):
    score, calls = ControlTask.score, []

    def breaking(task, *rest):
        calls.append(1)
        if len(calls) == 2:
            raise EnvironmentFailed("environment 'CartPole-v1' (row 0): it is gone")
        return score(task, *rest)

    cfg = replace(VECTORS, schedule=replace(VECTORS.schedule, evaluate_every=100))
    monkeypatch.setattr(ControlTask, "score", breaking)
    with pytest.raises(RunFailed, match=f"evaluation at step {cfg.schedule.steps}: environment 'CartPole-v1'"):
        run_for(ppo, cfg, tmp_path / "run")
    found = run_for(ppo, cfg, tmp_path / "run")
    assert len(calls) == 3 and found == run_for(ppo, cfg, tmp_path / "whole")
    assert run_for(ppo, cfg, tmp_path / "run") == found and len(calls) == 5, "a finished run is not evaluated again"


def test_a_failing_environment_ends_the_run_with_its_name(tmp_path, monkeypatch):
    class Failing(EnvironmentWrapper):
        steps = 0

        def step(self, action_B):
            self.steps += 1
            if self.steps > 20:
                raise EnvironmentFailed("environment 'CartPole-v1' (row 0): it is gone")
            return self.environment.step(action_B)

    make = ControlTask.make
    monkeypatch.setattr(
        ControlTask, "make", lambda task, count: Failing(make(task, count)) if count == 2 else make(task, count)
    )
    cfg = replace(VECTORS, task=replace(VECTORS.task, test_episodes=1))
    with pytest.raises(RunFailed, match="step 2: environment 'CartPole-v1' .row 0.: it is gone"):
        run_for(ppo, cfg, tmp_path / "run")
    monkeypatch.undo()
    run_for(ppo, cfg, tmp_path / "run")
    run_for(ppo, cfg, tmp_path / "whole")
    assert_same(saved(tmp_path / "run")["policy"], saved(tmp_path / "whole")["policy"])
