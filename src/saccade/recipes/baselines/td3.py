"""TD3: off-policy learning of a deterministic policy with twin critics, smoothed targets and a delayed actor.

paper: Addressing Function Approximation Error in Actor-Critic Methods, arXiv 1802.09477.
idea: An actor that follows its critic finds the critic's errors. The lesser of two critics, judged around the next
    action and not at it alone, overestimates less; and the actor waits until they have settled a little.
claims: At equal steps the return of test episodes is that of stable-baselines3's TD3.
differs: The slow critics follow at each of their steps and the slow actor at each of its own; the learning rate is that
    of SAC's defaults, for both sides. ``method sb3`` trains stable-baselines3 in place of ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from saccade.algorithms import off_policy
from saccade.algorithms.off_policy import MILLION, TD3, Course, Replaying, Scaled, agent
from saccade.envs import task
from saccade.envs.task import HALF_CHEETAH, PENDULUM, ControlTask
from saccade.oracles import stable_baselines3
from saccade.training.claims import Claim, level
from saccade.training.run import Run


@dataclass(frozen=True)
class Settings:
    """TD3; the defaults swing a pendulum up."""

    task: ControlTask = PENDULUM
    learning: Replaying = Replaying(TD3, memory=100_000)
    course: Course = Course()
    seed: int = 0
    """Seed of everything: episodes, actions, weights, batches."""
    method: Literal["own", "sb3"] = "own"
    """Who trains: we, or stable-baselines3 where it is installed."""


PRESETS = {
    "tiny": Settings(),
    "half-cheetah": Settings(task=HALF_CHEETAH, learning=Replaying(TD3, warm_up=10_000), course=MILLION),
}  # fmt: skip


def policies(cfg: Settings) -> dict[str, Scaled]:
    """The actor. ValueError for an environment that it cannot act in."""
    return {"policy": agent(cfg.learning, cfg.task.make(1), cfg.seed, stochastic=False).policy}


def train(cfg: Settings, run: Run) -> dict[str, dict[str, float]]:
    """Train, evaluate, save. Returns the scores of test episodes before and after."""
    if cfg.method == "sb3":
        return stable_baselines3.train_off_policy("TD3", cfg.task, cfg.learning, cfg.course, cfg.seed, run)
    own = agent(cfg.learning, cfg.task.make(1), cfg.seed, stochastic=False)
    return off_policy.train(cfg.task, cfg.learning, cfg.course, own, cfg.seed, run)


evaluate, sample = task.evaluate, task.sample


ARMS = {"td3": Settings(), "td3, sb3": Settings(method="sb3")}

CLAIMS = (
    Claim(
        "at equal steps the return of test episodes is behind stable-baselines3's by at most a twentieth of what that gained",
        lambda arm: level(arm["td3"], arm["td3, sb3"], "return", 0.05),
    ),
)
