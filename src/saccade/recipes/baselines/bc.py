"""Behaviour cloning: a policy learns from recorded episodes what was done at each moment, and nothing of rewards.

paper: ALVINN: An Autonomous Land Vehicle in a Neural Network, NIPS 1988; the term from "A Framework for Behavioural
    Cloning", 1995.
idea: Pairs of what was seen and what was done are a supervised problem: the negative log-likelihood of the action, with
    a spread that is learnt or, which is the squared error, one that is fixed.
claims: Cloned from thirty episodes of a noisy expert, nine tenths of test episodes succeed, by likelihood and by
    squared error alike; with actions dealt out at random less than a tenth do.
differs: Demonstrations are recorded episodes (ours, LeRobot's, Minari's), or those of the embedded world's scripted
    expert with noise. All weights are those of the last step; nothing is selected by test episodes. The critic that
    comes with the policy is not trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from saccade.algorithms.bc import lessons
from saccade.algorithms.sft import Supervised
from saccade.core import Rollout, generator
from saccade.envs import task
from saccade.envs.demonstrations import Demonstrations
from saccade.envs.recordings import Recorded
from saccade.envs.task import HALF_CHEETAH, ControlTask
from saccade.policies.actor_critic import SEEN, ActorCritic, ActorCriticModel, build
from saccade.training.claims import Claim
from saccade.training.feeds import Stored
from saccade.training.learner import Update, Updates
from saccade.training.loop import train as run_loop
from saccade.training.run import Run


@dataclass(frozen=True)
class Settings:
    """Behaviour cloning; the defaults are those of the embedded world."""

    task: ControlTask = ControlTask("push")
    model: ActorCriticModel = ActorCriticModel(standardise=True)
    shown: Demonstrations = Demonstrations()
    spread: Literal["learned", "fixed"] = "learned"
    """Of Gaussian actions: learned with the mean, or fixed, which is the squared error."""
    seed: int = 0
    """Seed of everything: demonstrations, weights, batches."""
    steps: int = 2000
    """Gradient steps."""
    batch: int = 128
    """Moments in a batch."""
    lr: float = 1e-3
    """Learning rate of Adam."""
    shuffle_actions: bool = False
    """Control: actions are dealt out at random, so that nothing can be learned but their distribution."""
    evaluate_every: int = 1000
    log_every: int = 100
    save_every: int = 1000


PRESETS = {
    "tiny": Settings(),
    "pictures": Settings(
        task=ControlTask("push", ("observe=image", "pixels=42")), model=ActorCriticModel(activation="relu", width=64, features=256),
        shown=Demonstrations(episodes=100),
    ),
    "half-cheetah": Settings(
        task=HALF_CHEETAH,
        shown=Demonstrations("minari:mujoco/halfcheetah/expert-v0"),
        model=ActorCriticModel(hidden=(256, 256), activation="relu", standardise=True), steps=100_000, batch=256, lr=3e-4,
        evaluate_every=10_000, save_every=10_000,
    ),
}  # fmt: skip


def policies(cfg: Settings) -> dict[str, ActorCritic]:
    """The policy that imitates. ValueError for an environment that it cannot act in."""
    world = cfg.task.make(1)
    return {"policy": build(cfg.model, world.observation_space, world.action_space, cfg.seed)}


def train(cfg: Settings, run: Run) -> dict[str, dict[str, float]]:
    """Have it demonstrated, clone, evaluate, save. Returns the scores of test episodes before and after."""
    policy = policies(cfg)["policy"]
    shown = cfg.shown.recorded(cfg.task.make(cfg.task.test_rows), cfg.seed, run.folder / "demonstrations")
    data = decisions(shown)
    if cfg.shuffle_actions:
        shuffle_actions(data, cfg.seed)
    policy.follow(data)
    weights = imitating(policy, cfg.spread)
    update = Update("bc", Supervised(policy), weights, torch.optim.Adam(weights, lr=cfg.lr, fused=True), max_norm=10.0)
    return run_loop(
        Stored(data, min(cfg.batch, len(data)), cfg.seed),
        Updates([update]),
        run,
        cfg.steps,
        state={"policy": policy},
        evaluate=lambda step: cfg.task.score(policy, run.show(step)),
        evaluate_every=cfg.evaluate_every,
        save_every=cfg.save_every,
        log_every=cfg.log_every,
    )


def decisions(episodes: Sequence[Recorded]) -> Rollout:
    """Every moment of the episodes as a row of one decision."""
    rows = lessons(episodes, 1)  # by row, "seen.image_B", where a decision has "seen.image_BT"
    seen = {f"{name}T": x[:, None] for name, x in rows.decisions.items() if name.startswith(SEEN)}
    return replace(
        rows, decisions={**seen, "action_BT": rows.decisions["action_BT"]}, extras={"length_B": torch.ones(len(rows))}
    )


def shuffle_actions(data: Rollout, seed: int) -> None:
    """Give each moment the action of another."""
    order = torch.randperm(len(data), generator=generator(seed))
    data.decisions["action_BT"] = data.decisions["action_BT"][order]


def imitating(policy: ActorCritic, spread: str) -> list[nn.Parameter]:
    """The weights that act; of the spread only where it is learned."""
    return [
        *policy.trunk.parameters(),
        *policy.actor.parameters(),
        *(policy.head.parameters() if spread == "learned" else ()),
    ]


evaluate, sample = task.evaluate, task.sample


ARMS = {
    "learned spread": Settings(),
    "squared error": Settings(spread="fixed"),
    "shuffled actions": Settings(shuffle_actions=True),
}


CLAIMS = (
    Claim(
        "learnt by likelihood, the embedded task succeeds in nine tenths of test episodes",
        lambda arm: arm["learned spread"]["success"],
        least=0.9,
    ),
    Claim("and so it does by squared error", lambda arm: arm["squared error"]["success"], least=0.9),
    Claim(
        "from actions dealt out at random it succeeds in less than a tenth",
        lambda arm: 0.1 - arm["shuffled actions"]["success"],
    ),
)
