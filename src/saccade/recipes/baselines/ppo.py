"""PPO: an actor and a critic learn from segments of their episodes, several epochs each, with clipped policy changes.

paper: Proximal Policy Optimization Algorithms, arXiv 1707.06347; advantages from 1506.02438.
idea: The ratio of new to old probability measures how far the policy has moved from the one that acted. Where it has
    moved far enough in the direction of its advantage, a decision has no gradient any more, so that a segment can be
    learned from for several epochs.
claims: At equal steps, from vectors and from pictures, the return of test episodes is that of stable-baselines3 within
    a tenth.
differs: The defaults are those of stable-baselines3. An episode that is truncated is valued by the critic's estimate of
    its last state. Small tanh networks on a CPU have a hand-written gradient; pictures are convolved with channels
    last. Running means of observations are updated between segments, not within. ``implementation sb3`` trains
    stable-baselines3 instead, for comparison.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from saccade.algorithms.acceleration import accelerate
from saccade.algorithms.ppo import PPO
from saccade.config import Count
from saccade.core import Rollout, Run
from saccade.envs import task
from saccade.envs.rollout import RolloutCollector
from saccade.envs.task import HALF_CHEETAH, ControlTask, log_returns
from saccade.oracles import stable_baselines3
from saccade.policies.actor_critic import ActorCritic, ActorCriticModel, build_actor_critic
from saccade.training.claims import Claim, gain, level
from saccade.training.loop import fit
from saccade.training.settings import AdamW, Flat, Schedule

ADAM = AdamW(lr=3e-4, eps=1e-5, max_grad_norm=0.5, fused=True)


@dataclass(frozen=True)
class Settings:
    """PPO; the defaults balance a pole."""

    schedule: Flat[Schedule] = Schedule(steps=25, evaluate_every=25, save_every=25)
    task: ControlTask = ControlTask("CartPole-v1", test_episodes=32, video_episodes=2)
    n_envs: Count = 1
    """Number of episodes that run side by side; a training step learns from one segment of all of them."""
    seed: int = 0
    """Seed of episodes, actions, initial weights and minibatches."""
    model: ActorCriticModel = ActorCriticModel()
    ppo: PPO = PPO()
    optim: AdamW = ADAM
    implementation: Literal["saccade", "sb3"] = "saccade"
    """Implementation that trains: saccade, or stable-baselines3 (sb3) where it is installed."""
    device: str = "cpu"
    """Device of the networks: cpu, cuda or auto."""


PICTURES = ActorCriticModel(hidden=(), activation="relu")
ATARI = ("size=84", "grey=true", "stack=4", "repeat=4", 'options={"frameskip": 1, "repeat_action_probability": 0}')
PRESETS = {
    "tiny": Settings(),
    "reach": Settings(
        schedule=Schedule(steps=40, evaluate_every=40, save_every=40),
        task=ControlTask("reach", ("pixels=42",), test_rows=64),
        n_envs=16,
        model=replace(PICTURES, log_std=-0.5),
        ppo=PPO(n_steps=100, batch_size=100, gamma=0.9),
        optim=replace(ADAM, lr=5e-4),
    ),
    "pendulum": Settings(
        task=ControlTask("Pendulum-v1", test_rows=8),
        n_envs=4,
        ppo=PPO(n_steps=1024, gamma=0.9),
        optim=replace(ADAM, lr=1e-3),
    ),
    "half-cheetah": Settings(
        schedule=Schedule(steps=488, evaluate_every=61, save_every=61),
        task=HALF_CHEETAH,
        model=ActorCriticModel(normalize_observations=True),
        ppo=PPO(anneal_lr=True, normalize_rewards=True),
    ),
    "pong": Settings(
        schedule=Schedule(steps=9765, evaluate_every=500, save_every=500),
        task=ControlTask("ALE/Pong-v5", ATARI, test_episodes=8, test_rows=8, video_episodes=1),
        n_envs=8,
        model=PICTURES,
        ppo=PPO(n_steps=128, n_epochs=4, batch_size=256, clip_range=0.1, entropy_coef=0.01, anneal_lr=True),
        optim=replace(ADAM, lr=2.5e-4),
    ),
}


def policies(cfg: Settings) -> dict[str, ActorCritic]:
    """The actor with its critic. ValueError for an environment that they cannot act in."""
    env = cfg.task.make(1)
    policy = build_actor_critic(cfg.model, env.observation_space, env.action_space, cfg.seed, cfg.device)
    return {"policy": accelerate(policy)}


def train(cfg: Settings, run: Run) -> dict[str, dict[str, float]]:
    """Train, evaluate, save. Returns the scores of test episodes before and after."""
    if cfg.implementation == "sb3":
        args = cfg.n_envs, cfg.schedule.steps, cfg.seed
        return stable_baselines3.train_ppo(cfg.task, cfg.model, cfg.ppo, cfg.optim, *args, run)
    policy, log_episodes = policies(cfg)["policy"], log_returns(run)

    def log(step: int, segment: Rollout) -> None:
        log_episodes(step, [episode for row in segment.outputs for episode in row])

    collector = RolloutCollector(cfg.task.make(cfg.n_envs), policy, cfg.ppo.n_steps, cfg.seed)
    return fit(
        cfg.ppo.feed(collector, cfg.n_envs, log),
        cfg.ppo.learner(policy, cfg.optim, cfg.n_envs, cfg.schedule.steps, cfg.seed),
        run,
        cfg.schedule,
        state={"policy": policy},
        evaluate=lambda step: cfg.task.score(policy, run.show(step)),
    )


evaluate, sample = task.evaluate, task.sample


_POLE, _REACH = PRESETS["tiny"], PRESETS["reach"]
ARMS = {
    "pole": _POLE,
    "pole, sb3": replace(_POLE, implementation="sb3"),
    "pictures": _REACH,
    "pictures, sb3": replace(_REACH, implementation="sb3"),
}

CLAIMS = (
    Claim(
        "balancing a pole, the return is at least 0.9 times that of stable-baselines3 at equal steps",
        lambda arm: arm["pole"]["return"] - 0.9 * arm["pole, sb3"]["return"],
        origin="design",
        tolerance="an oracle of the same algorithm: a tenth is the spread of its seeds",
    ),
    Claim(
        "reaching goals seen in pictures, it is behind by at most a tenth of what stable-baselines3's gained",
        lambda arm: level(arm["pictures"], arm["pictures, sb3"], "return", 0.1),
        origin="design",
        tolerance="an oracle of the same algorithm: a tenth of its gain",
    ),
    Claim("and it gains at least 8", lambda arm: gain(arm["pictures"], "return"), least=8.0, origin="design"),
    Claim(
        "in at most half of its time for the pole",
        lambda arm: 0.5 - arm["pole"]["seconds"] / arm["pole, sb3"]["seconds"],
        origin="sanity",
    ),
)
