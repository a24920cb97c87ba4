"""RLPD: off-policy learning from scratch, half of every batch from demonstrations and half from experience.

paper: Efficient Online Reinforcement Learning with Offline Data, arXiv 2302.02948.
idea: Nothing is learned beforehand: demonstrations are simply remembered, and every batch is half made of them.
    LayerNorm bounds what critics say of actions that nobody has taken; an ensemble allows several gradient steps for
    each step taken.
claims: Where only success is rewarded, twenty noisy demonstrations let it succeed more often than the same learner
    without.
differs: The embedded check has four critics of 64 units for ten of 256, two gradient steps for each step taken for
    twenty, and no entropy in the backup, as the paper has it for sparse rewards. Several episodes run side by side. The
    temperature starts at 0.02: from 1, as elsewhere, it is still 0.2 after the check's 11,200 gradient steps, and no
    success was met.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from saccade.algorithms import off_policy
from saccade.algorithms.off_policy import RLPD, Agent, Course, Replaying, Scaled, agent, recorded
from saccade.envs import task
from saccade.envs.demonstrations import Demonstrations
from saccade.envs.task import ControlTask
from saccade.training.buffers import Buffer
from saccade.training.claims import Claim
from saccade.training.run import Run

_SPARSE = replace(RLPD, critics=4, entropy_in_backup=False, updates=2, actor_every=2)


@dataclass(frozen=True)
class Settings:
    """RLPD; the defaults push a block off a hole and put a peg in."""

    task: ControlTask = ControlTask("push", test_episodes=100, test_rows=50)
    shown: Demonstrations = Demonstrations(episodes=20)
    learning: Replaying = Replaying(_SPARSE, hidden=(64, 64), batch=128, memory=100_000, warm_up=400, temperature=0.02)
    course: Course = Course(rows=4, env_steps=6000, evaluate_every=1400, save_every=2800, log_every=400)
    seed: int = 0
    """Seed of everything: demonstrations, episodes, actions, weights, batches."""


PRESETS = {
    "tiny": Settings(),
    "adroit-door": Settings(
        task=ControlTask("AdroitHandDoorSparse-v1", test_episodes=50, test_rows=1, shown=1),
        shown=Demonstrations("minari:D4RL/door/human-v2"),
        learning=Replaying(replace(RLPD, entropy_in_backup=False), hidden=(256, 256, 256), warm_up=5000),
        course=Course(env_steps=1_000_000, evaluate_every=25_000, save_every=25_000, log_every=10_000),
    ),
}  # fmt: skip


def policies(cfg: Settings) -> dict[str, Scaled]:
    """The actor. ValueError for an environment that it cannot act in."""
    return {"policy": agent(cfg.learning, cfg.task.make(1), cfg.seed).policy}


def train(cfg: Settings, run: Run) -> dict[str, dict[str, float]]:
    """Remember demonstrations, train, evaluate, save. Returns the scores of test episodes before and after."""
    own = agent(cfg.learning, cfg.task.make(1), cfg.seed)
    return off_policy.train(cfg.task, cfg.learning, cfg.course, own, cfg.seed, run, remembered(cfg, own, run))


def remembered(cfg: Settings, own: Agent, run: Run) -> Buffer | None:
    """The demonstrations, if the batches have a share of them."""
    if not cfg.learning.how.offline_share:
        return None
    episodes = cfg.shown.recorded(cfg.task.make(cfg.course.rows), cfg.seed, run.folder / "demonstrations")
    return recorded(episodes, own.range, cfg.seed)


evaluate, sample = task.evaluate, task.sample


_ALONE = replace(Settings().learning, how=replace(_SPARSE, offline_share=0.0))
ARMS = {"rlpd": Settings(), "no demonstrations": Settings(learning=_ALONE)}

CLAIMS = (
    Claim(
        "with demonstrations it succeeds more often by 0.20 than the same learner without",
        lambda arm: arm["rlpd"]["success"] - arm["no demonstrations"]["success"],
        least=0.20,
    ),
)
