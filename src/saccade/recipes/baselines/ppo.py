"""PPO: an actor and a critic learn from segments of what they do, several times from each, held near what they were.

paper: Proximal Policy Optimization Algorithms, arXiv 1707.06347; advantages from 1506.02438.
idea: The ratio of new to old probability says how far the policy has moved from the one that acted; where it has moved
    far enough in the direction of its advantage, a decision pulls no more, so that a segment can be learned from for
    several epochs.
claims: At equal steps, from vectors and from pictures, the return of test episodes is that of stable-baselines3 within
    a tenth.
differs: The defaults are those of stable-baselines3. An episode cut off by time is worth what the critic says of its
    last state. Small tanh networks on a CPU have their gradient written out; pictures are convolved with channels last.
    Running means of what is seen move between segments, not within. ``method sb3`` trains stable-baselines3 in place of
    ours, for comparison.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from saccade.algorithms.ppo import Proximal, feed, learner
from saccade.core import Rollout
from saccade.envs import task
from saccade.envs.rollout import Segments
from saccade.envs.task import HALF_CHEETAH, ControlTask, returns
from saccade.oracles import stable_baselines3
from saccade.policies.actor_critic import ActorCritic, ActorCriticModel, build
from saccade.training.claims import Claim, gain, level
from saccade.training.loop import train as run_loop
from saccade.training.run import Run


@dataclass(frozen=True)
class Settings:
    """PPO; the defaults balance a pole."""

    task: ControlTask = ControlTask("CartPole-v1", test_episodes=32, shown=2)
    model: ActorCriticModel = ActorCriticModel()
    ppo: Proximal = Proximal()
    rows: int = 1
    """Episodes that are acted in side by side."""
    seed: int = 0
    """Seed of everything: episodes, actions, weights, minibatches."""
    steps: int = 25
    """Training steps, each a segment of all rows."""
    method: Literal["own", "sb3"] = "own"
    """Who trains: we, or stable-baselines3 where it is installed."""
    device: str = "cpu"
    """Where networks are: cpu, cuda or auto."""
    evaluate_every: int = 25
    save_every: int = 25


PICTURES = ActorCriticModel(hidden=(), activation="relu")
PRESETS = {
    "tiny": Settings(),
    "reach": Settings(
        task=ControlTask("reach", ("pixels=42",), test_rows=64), model=replace(PICTURES, log_std=-0.5),
        ppo=Proximal(length=100, minibatch=100, gamma=0.9, lr=5e-4), rows=16, steps=40, evaluate_every=40, save_every=40,
    ),
    "pendulum": Settings(
        task=ControlTask("Pendulum-v1", test_rows=8), ppo=Proximal(length=1024, gamma=0.9, lr=1e-3), rows=4, steps=25,
    ),
    "half-cheetah": Settings(
        task=HALF_CHEETAH, model=ActorCriticModel(standardise=True),
        ppo=Proximal(anneal=True, scale_rewards=True), steps=488, evaluate_every=61, save_every=61,
    ),
    "pong": Settings(
        task=ControlTask(
            "ALE/Pong-v5", ("size=84", "grey=true", "stack=4", "repeat=4", 'options={"frameskip": 1, "repeat_action_probability": 0}'),
            test_episodes=8, test_rows=8, shown=1,
        ),
        model=PICTURES, ppo=Proximal(length=128, epochs=4, minibatch=256, clip=0.1, entropy=0.01, lr=2.5e-4, anneal=True),
        rows=8, steps=9765, evaluate_every=500, save_every=500,
    ),
}  # fmt: skip


def policies(cfg: Settings) -> dict[str, ActorCritic]:
    """The actor with its critic. ValueError for an environment that they cannot act in."""
    world = cfg.task.make(1)
    return {"policy": build(cfg.model, world.observation_space, world.action_space, cfg.seed, cfg.device)}


def train(cfg: Settings, run: Run) -> dict[str, dict[str, float]]:
    """Train, evaluate, save. Returns the scores of test episodes before and after."""
    if cfg.method == "sb3":
        return stable_baselines3.train_ppo(cfg.task, cfg.model, cfg.ppo, cfg.rows, cfg.steps, cfg.seed, run)
    policy, ended = policies(cfg)["policy"], returns(run)

    def tell(step: int, rollout: Rollout) -> None:
        ended(step, [episode for row in rollout.outputs for episode in row])

    return run_loop(
        feed(cfg.ppo, Segments(cfg.task.make(cfg.rows), policy, cfg.ppo.length, cfg.seed), cfg.rows, tell),
        learner(cfg.ppo, policy, cfg.rows, cfg.steps, cfg.seed),
        run,
        cfg.steps,
        state={"policy": policy},
        evaluate=lambda step: cfg.task.score(policy, run.show(step)),
        evaluate_every=cfg.evaluate_every,
        save_every=cfg.save_every,
    )


evaluate, sample = task.evaluate, task.sample


_POLE, _REACH = PRESETS["tiny"], PRESETS["reach"]
ARMS = {
    "pole": _POLE,
    "pole, sb3": replace(_POLE, method="sb3"),
    "pictures": _REACH,
    "pictures, sb3": replace(_REACH, method="sb3"),
}

CLAIMS = (
    Claim(
        "balancing a pole, the return is at least 0.9 times that of stable-baselines3 at equal steps",
        lambda arm: arm["pole"]["return"] - 0.9 * arm["pole, sb3"]["return"],
    ),
    Claim(
        "reaching goals seen in pictures, it is behind by at most a tenth of what stable-baselines3's gained",
        lambda arm: level(arm["pictures"], arm["pictures, sb3"], "return", 0.1),
    ),
    Claim("and it gains at least 8", lambda arm: gain(arm["pictures"], "return"), least=8.0),
    Claim(
        "in at most half of its time for the pole",
        lambda arm: 0.5 - arm["pole"]["seconds"] / arm["pole, sb3"]["seconds"],
    ),
)
