"""SAC: off-policy learning of a policy that is paid for staying random, its temperature held by a target entropy.

paper: Soft Actor-Critic Algorithms and Applications, arXiv 1812.05905; Randomized Ensembled Double Q-Learning,
    2101.05982.
idea: Critics learn from memory what actions are worth, entropy included; the actor follows their gradient through its
    reparametrised actions, so that no step of the environment is used once only. REDQ learns twenty times from each,
    which ten critics allow of which two random ones make the target.
claims: At equal steps the return of test episodes is that of stable-baselines3's SAC, in less time; REDQ's settings
    earn more in the first steps.
differs: The target entropy is -1 for each dimension of the action. On vectors the gradients are written out and one
    forward pass draws present and next actions; the weights begin orthogonal. ``method sb3`` trains stable-baselines3
    in place of ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from saccade.algorithms import off_policy
from saccade.algorithms.off_policy import MILLION, REDQ, Course, Replaying, Scaled, agent
from saccade.envs import task
from saccade.envs.task import HALF_CHEETAH, PENDULUM, ControlTask
from saccade.oracles import stable_baselines3
from saccade.training.claims import Claim, level
from saccade.training.run import Run


@dataclass(frozen=True)
class Settings:
    """SAC; the defaults swing a pendulum up."""

    task: ControlTask = PENDULUM
    learning: Replaying = Replaying(memory=100_000)
    course: Course = Course()
    seed: int = 0
    """Seed of everything: episodes, actions, weights, batches."""
    method: Literal["own", "sb3"] = "own"
    """Who trains: we, or stable-baselines3 where it is installed."""


_TINY = Settings()
PRESETS = {
    "tiny": _TINY,
    "pendulum": _TINY,
    "half-cheetah": Settings(task=HALF_CHEETAH, learning=Replaying(warm_up=10_000), course=MILLION),
    "redq": replace(
        _TINY, learning=Replaying(REDQ, memory=100_000), course=Course(env_steps=2000, evaluate_every=250, save_every=1000)
    ),
    "redq-half-cheetah": Settings(
        task=HALF_CHEETAH, learning=Replaying(REDQ, warm_up=5000),
        course=Course(env_steps=300_000, evaluate_every=10_000, save_every=10_000, log_every=10_000),
    ),
}  # fmt: skip


def policies(cfg: Settings) -> dict[str, Scaled]:
    """The actor. ValueError for an environment that it cannot act in."""
    return {"policy": agent(cfg.learning, cfg.task.make(1), cfg.seed).policy}


def train(cfg: Settings, run: Run) -> dict[str, dict[str, float]]:
    """Train, evaluate, save. Returns the scores of test episodes before and after."""
    if cfg.method == "sb3":
        return stable_baselines3.train_off_policy("SAC", cfg.task, cfg.learning, cfg.course, cfg.seed, run)
    own = agent(cfg.learning, cfg.task.make(1), cfg.seed)
    return off_policy.train(cfg.task, cfg.learning, cfg.course, own, cfg.seed, run)


evaluate, sample = task.evaluate, task.sample


_SMALL = replace(
    _TINY, learning=Replaying(memory=100_000, hidden=(64, 64)), course=Course(env_steps=1000, evaluate_every=300)
)
_CHEETAH = replace(
    PRESETS["half-cheetah"], learning=Replaying(warm_up=1000, memory=20_000),
    course=Course(env_steps=10_000, evaluate_every=9000, save_every=9000),
)  # fmt: skip
ARMS = {
    "sac": _TINY,
    "sac, sb3": replace(_TINY, method="sb3"),
    "sac, bfloat16": replace(_TINY, learning=replace(_TINY.learning, precision="bfloat16")),
    "half-cheetah": _CHEETAH,
    "half-cheetah, sb3": replace(_CHEETAH, method="sb3"),
    "small": _SMALL,
    "small, ten critics and twenty updates": replace(
        _SMALL, learning=replace(_SMALL.learning, how=REDQ), course=replace(_SMALL.course, log_every=2000)
    ),
}

CLAIMS = (
    Claim(
        "at equal steps the return of test episodes is behind stable-baselines3's by at most a twentieth of what that gained",
        lambda arm: level(arm["sac"], arm["sac, sb3"], "return", 0.05),
    ),
    Claim("in less time", lambda arm: 1 - arm["sac"]["seconds"] / arm["sac, sb3"]["seconds"]),
    Claim(
        "so it is with products in bfloat16",
        lambda arm: level(arm["sac, bfloat16"], arm["sac, sb3"], "return", 0.05),
    ),
    Claim(
        "and on HalfCheetah by at most a tenth, in the first 10,000 steps",
        lambda arm: level(arm["half-cheetah"], arm["half-cheetah, sb3"], "return", 0.1),
    ),
    Claim(
        "with small networks REDQ's settings earn more than SAC's after 1000 steps of the environment",
        lambda arm: arm["small, ten critics and twenty updates"]["return"] - arm["small"]["return"],
    ),
)
