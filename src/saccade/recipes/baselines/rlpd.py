"""RLPD: off-policy learning from scratch, half of every batch from demonstrations and half from experience.

paper: Efficient Online Reinforcement Learning with Offline Data, arXiv 2302.02948.
idea: Nothing is trained in advance: demonstrations fill a second buffer, from which half of every batch is drawn.
    LayerNorm bounds the Q values of actions that nobody has taken; an ensemble allows several gradient steps for each
    environment step.
claims: Where only success is rewarded, twenty noisy demonstrations let it succeed more often than the same learner
    without.
differs: The embedded check has four Q networks of 64 units for ten of 256, two gradient steps for each environment step
    for twenty, and no entropy in the backup, as the paper has it for sparse rewards. Several episodes run side by side.
    The temperature starts at 0.02: from 1, as elsewhere, it is still 0.2 after the check's 11,200 gradient steps, and
    no episode succeeded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from saccade.algorithms.off_policy import (
    ADAM,
    Agent,
    OffPolicy,
    RescaledActor,
    demonstration_buffer,
    train_agent,
)
from saccade.core import Run
from saccade.envs import task
from saccade.envs.demonstrations import Demonstrations
from saccade.envs.task import ControlTask
from saccade.training.buffers import Buffer
from saccade.training.claims import Claim
from saccade.training.settings import AdamW, EnvSchedule, Flat

RLPD = OffPolicy(
    n_critics=10,
    target_critics=2,
    actor_value="mean",
    layer_norm=True,
    target_entropy=-0.5,
    temperature_gradient="value",
    gradient_steps=20,
    policy_delay=20,
    offline_fraction=0.5,
)
_SPARSE = replace(RLPD, entropy_in_backup=False)
_SMALL = replace(
    _SPARSE,
    n_critics=4,
    hidden=(64, 64),
    gradient_steps=2,
    policy_delay=2,
    batch_size=128,
    buffer_size=100_000,
    learning_starts=400,
    initial_temperature=0.02,
)


@dataclass(frozen=True)
class Settings:
    """RLPD; the defaults push a block off a hole and put a peg in."""

    schedule: Flat[EnvSchedule] = EnvSchedule(steps=6000, evaluate_every=1400, save_every=2800, log_every=400, n_envs=4)
    task: ControlTask = ControlTask("push", test_episodes=100, test_rows=50)
    demonstrations: Demonstrations = Demonstrations(episodes=20)
    seed: int = 0
    """Seed of demonstrations, episodes, actions, initial weights and batches."""
    algo: OffPolicy = _SMALL
    optim: AdamW = ADAM


PRESETS = {
    "tiny": Settings(),
    "adroit-door": Settings(
        schedule=EnvSchedule(steps=1_000_000, evaluate_every=25_000, save_every=25_000, log_every=10_000),
        task=ControlTask("AdroitHandDoorSparse-v1", test_episodes=50, test_rows=1, video_episodes=1),
        demonstrations=Demonstrations("minari:D4RL/door/human-v2"),
        algo=replace(_SPARSE, hidden=(256, 256, 256), learning_starts=5000),
    ),
}


def policies(cfg: Settings) -> dict[str, RescaledActor]:
    """The actor. ValueError for an environment in which it cannot act."""
    return {"policy": cfg.algo.build(cfg.task.make(1), cfg.seed).policy}


def train(cfg: Settings, run: Run) -> dict[str, dict[str, float]]:
    """Store demonstrations, then act and learn from both. Returns the scores of test episodes before and after."""
    agent = cfg.algo.build(cfg.task.make(1), cfg.seed)
    demonstrations = load_demonstrations(cfg, agent, run) if cfg.algo.offline_fraction else None
    return train_agent(agent, cfg, run, demonstrations)


def load_demonstrations(cfg: Settings, agent: Agent, run: Run) -> Buffer:
    """The demonstrations in a buffer, with actions in the actor's range."""
    environment = cfg.task.make(cfg.schedule.n_envs)
    episodes = cfg.demonstrations.load_episodes(environment, cfg.seed, run.folder / "demonstrations")
    return demonstration_buffer(episodes, agent.action_range, cfg.seed)


evaluate, sample = task.evaluate, task.sample


ARMS = {"rlpd": Settings(), "no demonstrations": Settings(algo=replace(_SMALL, offline_fraction=0.0))}

CLAIMS = (
    Claim(
        "with demonstrations it succeeds more often than the same learner without",
        lambda arm: arm["rlpd"]["success"] - arm["no demonstrations"]["success"],
    ),
)
