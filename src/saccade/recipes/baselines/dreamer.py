"""Dreamer: an actor learns in the imagination of a world model that is trained to reconstruct its observations.

paper: Dream to Control: Learning Behaviors by Latent Imagination, arXiv 1912.01603.
idea: A recurrent state-space model is trained to reconstruct pictures and rewards. From every state that it inferred
    for its sequences, an actor and a critic imagine futures; gradients of the returns flow through the dynamics.
claims: The return of test episodes rises well above that of random actions.
differs: The embedded default is small (32 px, belief 64, latent 16) and acts in a world of two clouds: with two discs
    the states hold a code that jumps from pixel to pixel, and 12,000 updates did not teach it what an action does.
    Random actions are repeated for five steps. The divergence has the weight 0.3 and no free nats. One update follows
    every few steps of 8 episodes in place of 100 updates after each episode. Acting takes the posterior's mean and
    samples the action alone. Free nats are those of each time step. Ends of episodes are imagined if asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from saccade.algorithms.dreamer import (
    BACKDROP_HALF_CHEETAH,
    PAPER_DREAMER,
    PAPER_OPTIM,
    PAPER_REPLAY,
    PAPER_RSSM,
    Dreamer,
    DreamerConfig,
    DreamerOptim,
    ReplayConfig,
    SequenceFeed,
    build_dreamer,
)
from saccade.algorithms.world_model import Terms, Weighted, kl, reconstruction, reward, termination
from saccade.core import ProblemScores, Run
from saccade.envs.task import ControlTask
from saccade.evaluation.world_model import record_video, score
from saccade.models.world_model.rssm import RSSMConfig
from saccade.policies.dreamer import DreamerPolicy
from saccade.training.claims import Claim
from saccade.training.loop import fit
from saccade.training.settings import Flat, Schedule

RANDOM, EXPERT = 10.7, 46.0
"""Mean returns of random and of scripted actions in the embedded world."""

OPTIM = replace(DreamerOptim(), model=replace(DreamerOptim().model, lr=2e-3))


@dataclass(frozen=True)
class Settings:
    """Dreamer; the defaults are those of the embedded world."""

    schedule: Flat[Schedule] = Schedule(steps=4500, evaluate_every=1500, save_every=1500, log_every=50)
    task: ControlTask = ControlTask("reach", ("soft=0.4",), test_episodes=40, test_rows=40)
    seed: int = 0
    """Seed of initial weights, episodes, sequences and noise."""
    model: RSSMConfig = RSSMConfig()
    config: DreamerConfig = DreamerConfig()
    replay: ReplayConfig = ReplayConfig(random_steps=500)
    optim: DreamerOptim = OPTIM
    reward_weight: float = 1.0
    """Weight of the reward's negative log-likelihood in the world model's loss."""
    kl_weight: float = 0.3
    """Weight of KL(posterior || prior) in the world model's loss."""
    free_nats: float = 0.0
    """Divergence of the posterior from the prior at each time step that is not penalized, in nats."""
    init_std: float = 1.0
    """Standard deviation of the actor's actions at the start, before tanh."""
    device: str = "cpu"
    """Device of the networks: cpu, cuda or auto."""


PRESETS = {
    "tiny": Settings(),
    "half-cheetah": Settings(
        schedule=Schedule(steps=100_000, evaluate_every=2000, save_every=5000, log_every=50),
        task=BACKDROP_HALF_CHEETAH,
        model=PAPER_RSSM,
        config=PAPER_DREAMER,
        replay=PAPER_REPLAY,
        optim=PAPER_OPTIM,
        kl_weight=1.0,
        free_nats=3.0,
        init_std=5.0,
        device="cuda",
    ),
}


def policies(cfg: Settings) -> dict[str, DreamerPolicy]:
    """The world model and the actor inside it."""
    return {"policy": build_dreamer(cfg.task, cfg.model, cfg.init_std, cfg.seed, cfg.device)}


def terms(cfg: Settings) -> Terms:
    """The terms of the world model's loss."""
    weighted = {
        "reconstruction": Weighted(reconstruction),
        "reward": Weighted(reward, cfg.reward_weight),
        "kl": Weighted(kl(free_nats=cfg.free_nats), cfg.kl_weight),
    }
    return weighted | ({"termination": Weighted(termination)} if cfg.config.predict_ends else {})


def train(cfg: Settings, run: Run) -> dict[str, dict[str, float]]:
    """Train, evaluate, save. Returns the scores of test episodes before and after."""
    policy = policies(cfg)["policy"]
    return fit(
        SequenceFeed(cfg.replay, cfg.task.make(cfg.replay.n_envs), policy, cfg.seed),
        Dreamer(policy, terms(cfg), cfg.config, cfg.optim, cfg.seed),
        run,
        cfg.schedule,
        state={"policy": policy},
        evaluate=lambda step: score(cfg.task, policy, run.show(step)),
    )


def evaluate(cfg: Settings, policies: Mapping[str, DreamerPolicy]) -> ProblemScores:
    """Scores of the test episodes, acted greedily."""
    return score(cfg.task, policies["policy"])


def sample(
    cfg: Settings, policies: Mapping[str, DreamerPolicy], prompts: Sequence[str], seeds_B: Tensor
) -> list[dict[str, Any]]:
    """A video of one episode for each seed; prompts have no effect."""
    return record_video(cfg.task, policies["policy"], seeds_B)


ARMS = {"dreamer": Settings()}
CLAIMS = (
    Claim(
        "the return of test episodes rises by a fifth of the way from random to scripted",
        lambda arm: (arm["dreamer"]["return"] - RANDOM) / (EXPERT - RANDOM),
        least=0.2,
    ),
)
