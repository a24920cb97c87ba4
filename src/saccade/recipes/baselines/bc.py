"""Behaviour cloning: a policy learns the actions of recorded episodes by supervised learning, and nothing of rewards.

paper: ALVINN: An Autonomous Land Vehicle in a Neural Network, NIPS 1988; the term from "A Framework for Behavioural
    Cloning", 1995.
idea: Pairs of observation and action are a supervised problem: the negative log-likelihood of the action, with a
    standard deviation that is learned or, which is the squared error, one that is fixed.
claims: Cloned from thirty episodes of a noisy expert, nine tenths of test episodes succeed, by likelihood and by
    squared error alike; with actions permuted at random less than a tenth do.
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

from saccade.algorithms.acceleration import accelerate
from saccade.algorithms.bc import bc_dataset
from saccade.algorithms.sft import SupervisedLoss
from saccade.config import Count
from saccade.core import Rollout, Run
from saccade.envs import task
from saccade.envs.demonstrations import Demonstrations
from saccade.envs.recordings import RecordedEpisode
from saccade.envs.task import HALF_CHEETAH, ControlTask
from saccade.policies.actor_critic import OBSERVATION, ActorCritic, ActorCriticModel, build_actor_critic
from saccade.random import generator
from saccade.training.claims import Claim
from saccade.training.feeds import DatasetFeed
from saccade.training.learner import Updates
from saccade.training.loop import fit
from saccade.training.settings import AdamW, Flat, Schedule

ADAM = AdamW(lr=1e-3, max_grad_norm=10.0, fused=True)


@dataclass(frozen=True)
class Settings:
    """Behaviour cloning; the defaults are those of the embedded world."""

    schedule: Flat[Schedule] = Schedule(steps=2000, evaluate_every=1000, save_every=1000, log_every=100)
    task: ControlTask = ControlTask("push")
    demonstrations: Demonstrations = Demonstrations()
    seed: int = 0
    """Seed of demonstrations, initial weights and batches."""
    model: ActorCriticModel = ActorCriticModel(normalize_observations=True)
    std: Literal["learned", "fixed"] = "learned"
    """Standard deviation of Gaussian actions: learned with the mean, or fixed, which is the squared error."""
    batch_size: Count = 128
    """Number of steps of demonstrations in a batch."""
    optim: AdamW = ADAM
    shuffle_actions: bool = False
    """Control experiment: permute actions at random, so that nothing but their distribution can be learned."""


PRESETS = {
    "tiny": Settings(),
    "pictures": Settings(
        task=ControlTask("push", ("observe=image", "pixels=42")),
        demonstrations=Demonstrations(episodes=100),
        model=ActorCriticModel(activation="relu", vector_features=64, picture_features=256),
    ),
    "half-cheetah": Settings(
        schedule=Schedule(steps=100_000, evaluate_every=10_000, save_every=10_000, log_every=100),
        task=HALF_CHEETAH,
        demonstrations=Demonstrations("minari:mujoco/halfcheetah/expert-v0"),
        model=ActorCriticModel(hidden=(256, 256), activation="relu", normalize_observations=True),
        batch_size=256,
        optim=replace(ADAM, lr=3e-4),
    ),
}


def policies(cfg: Settings) -> dict[str, ActorCritic]:
    """The policy that is cloned. ValueError for an environment that it cannot act in."""
    env = cfg.task.make(1)
    return {"policy": accelerate(build_actor_critic(cfg.model, env.observation_space, env.action_space, cfg.seed))}


def train(cfg: Settings, run: Run) -> dict[str, dict[str, float]]:
    """Record or read demonstrations, clone, evaluate, save. Returns the scores of test episodes before and after."""
    policy = policies(cfg)["policy"]
    env = cfg.task.make(cfg.task.test_rows)
    data = single_decisions(cfg.demonstrations.load_episodes(env, cfg.seed, run.folder / "demonstrations"))
    if cfg.shuffle_actions:
        shuffle_actions(data, cfg.seed)
    policy.update_statistics(data)
    return fit(
        DatasetFeed(data, min(cfg.batch_size, len(data)), cfg.seed),
        Updates([cfg.optim.update("bc", SupervisedLoss(policy), cloned_weights(policy, cfg.std))]),
        run,
        cfg.schedule,
        state={"policy": policy},
        evaluate=lambda step: cfg.task.score(policy, run.show(step)),
    )


def single_decisions(episodes: Sequence[RecordedEpisode]) -> Rollout:
    """Every step of the episodes as a row of one decision."""
    rows = bc_dataset(episodes, 1)  # by row, "observation.image_B", where a decision has "observation.image_BT"
    observations = {f"{name}T": x[:, None] for name, x in rows.decisions.items() if name.startswith(OBSERVATION)}
    decisions = observations | {"action_BT": rows.decisions["action_BT"]}
    return replace(rows, decisions=decisions, extras={"length_B": torch.ones(len(rows))})


def shuffle_actions(data: Rollout, seed: int) -> None:
    """Give each step the action of another one."""
    order = torch.randperm(len(data), generator=generator(seed, "shuffled actions"))
    data.decisions["action_BT"] = data.decisions["action_BT"][order]


def cloned_weights(policy: ActorCritic, std: str) -> list[nn.Parameter]:
    """The weights of the actor, with those of the standard deviation where it is learned."""
    weights = [*policy.trunk.parameters(), *policy.actor.parameters()]
    return weights + list(policy.head.parameters()) if std == "learned" else weights


evaluate, sample = task.evaluate, task.sample


ARMS = {
    "learned spread": Settings(),
    "squared error": Settings(std="fixed"),
    "shuffled actions": Settings(shuffle_actions=True),
}

CLAIMS = (
    Claim(
        "learned by likelihood, the embedded task succeeds in nine tenths of test episodes",
        lambda arm: arm["learned spread"]["success"],
        least=0.9,
        origin="design",
    ),
    Claim("and so it does by squared error", lambda arm: arm["squared error"]["success"], least=0.9, origin="design"),
    Claim(
        "from actions permuted at random it succeeds in less than a tenth",
        lambda arm: 0.1 - arm["shuffled actions"]["success"],
        origin="sanity",
    ),
)
