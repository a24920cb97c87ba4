"""TD3: off-policy learning of a deterministic policy, with the lesser of two critics, smoothed targets and a delayed actor.

paper: Addressing Function Approximation Error in Actor-Critic Methods, arXiv 1802.09477.
idea: An actor that follows its critic finds the critic's errors. The lesser of two critics, judged around the next action and
    not at it alone, overestimates less; and the actor waits until they have settled a little.
claims: At equal steps the return of test episodes gains what stable-baselines3's TD3 gains.
differs: The slow critics follow at each of their steps and the slow actor at each of its own; the learning rate is that of
    SAC's defaults, for both sides. ``method sb3`` trains stable-baselines3 in place of ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from saccade.objectives.off_policy import TD3
from saccade.sampling.episodes import Episode, whole
from saccade.tasks import replaying_oracle
from saccade.tasks.control import ControlTask, exhibits
from saccade.tasks.replaying import Replaying, Scaled, agent, feed, gradient_steps, learner
from saccade.training.claims import Claim
from saccade.training.clips import strip
from saccade.training.loop import train as run_loop
from saccade.training.run import Run


@dataclass(frozen=True)
class Settings:
    """TD3; the defaults swing a pendulum up."""

    task: ControlTask = ControlTask("Pendulum-v1", test_episodes=32, test_rows=32, shown=1)
    learning: Replaying = Replaying(TD3, memory=100_000)
    rows: int = 1
    """Episodes that are acted in side by side."""
    seed: int = 0
    """Seed of everything: episodes, actions, weights, batches."""
    env_steps: int = 5000
    """Steps in the environment, those of the warm-up included."""
    method: Literal["own", "sb3"] = "own"
    """Who trains: we, or stable-baselines3 where it is installed."""
    evaluate_every: int = 1000
    """Steps in the environment between evaluations, from the warm-up on."""
    save_every: int = 2500
    """Steps in the environment between checkpoints."""
    log_every: int = 200
    """Gradient steps that share a line of metrics."""


PRESETS = {
    "tiny": Settings(),
    "half-cheetah": Settings(
        task=ControlTask("HalfCheetah-v5", test_episodes=10, test_rows=10, shown=1), learning=Replaying(TD3, warm_up=10_000),
        env_steps=1_000_000, evaluate_every=50_000, save_every=50_000, log_every=2000,
    ),
}  # fmt: skip


def policies(cfg: Settings) -> dict[str, Scaled]:
    """The actor. ValueError for an environment that it cannot act in."""
    return {"policy": agent(cfg.learning, cfg.task.make(1), cfg.seed, stochastic=False).policy}


def train(cfg: Settings, run: Run) -> dict[str, dict[str, float]]:
    """Train, evaluate, save. Returns the scores of test episodes before and after."""
    if cfg.method == "sb3":
        return replaying_oracle.train("TD3", cfg.task, cfg.learning, cfg.rows, cfg.env_steps, cfg.evaluate_every, cfg.seed, run)
    environment = cfg.task.make(cfg.rows)
    own = agent(cfg.learning, environment, cfg.seed, stochastic=False)

    def tell(step: int, finished: list[Episode]) -> None:
        if finished:
            run.log(step + 1, {"reward/return": sum(e.total for e in finished) / len(finished), "cost/episodes": len(finished)})

    return run_loop(
        feed(cfg.learning, environment, own, cfg.seed, tell),
        learner(cfg.learning, own),
        run,
        gradient_steps(cfg.learning, cfg.env_steps),
        state=own.state(),
        evaluate=lambda step: cfg.task.score(own.policy, lambda name, items: run.samples(step, name, items)),
        evaluate_every=cfg.evaluate_every * cfg.learning.how.updates,
        save_every=cfg.save_every * cfg.learning.how.updates,
        log_every=cfg.log_every,
    )


def evaluate(cfg: Settings, policies: Mapping[str, Scaled]) -> dict[str, float]:
    """Scores of test episodes, always the same ones, acted without noise."""
    return cfg.task.score(policies["policy"])


def sample(cfg: Settings, policies: Mapping[str, Scaled], prompts: Sequence[str], seeds_B: Tensor) -> list[dict]:
    """One filmed episode for each seed; there is nothing to prompt."""
    episodes = whole(cfg.task.make(len(seeds_B)), policies["policy"], seeds_B, film=len(seeds_B))
    return [item | {"image": strip(item["clip"])} for item in exhibits(episodes, {})]


ARMS = {"td3": Settings(), "td3, sb3": Settings(method="sb3")}

CLAIMS = (
    Claim(
        "the return of test episodes gains at least 0.95 times what stable-baselines3's gains at equal steps",
        lambda arm: gain(arm["td3"]) - 0.95 * gain(arm["td3, sb3"]),
    ),
)


def gain(scores: Mapping[str, float]) -> float:
    """Return of test episodes above that before training."""
    return scores["return"] - scores["return@0"]
