"""Dreamer: an actor learns in the imagination of a world model that must be able to draw what it saw.

paper: Dream to Control: Learning Behaviors by Latent Imagination, arXiv 1912.01603.
idea: A recurrent state-space model is trained to reconstruct pictures and rewards. From every state that it took a
    sequence for, an actor and a critic imagine futures; gradients of the returns flow through the dynamics.
claims: The return of test episodes rises well above that of random actions.
differs: The embedded default is small (32 px, belief 64, latent 16) and acts in a world of two clouds: of two discs its
    states hold a code that jumps from pixel to pixel, and 12,000 updates did not teach it what an action does. Random
    actions are held for five steps. The divergence weighs 0.3 without free nats. One update follows every few steps of
    8 episodes in place of 100 updates after each episode. Acting takes the posterior's mean and draws the action alone.
    Free nats are those of each moment. Ends are imagined if asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from saccade.algorithms.dreamer import REAL, Dreamer, Learning, Memory, Sequences, build
from saccade.algorithms.world_model import Terms, Weighted, divergence, ending, reconstruction, reward
from saccade.envs.task import ControlTask
from saccade.evaluation.world_model import filmed, score
from saccade.models.world_model.rssm import Sizes
from saccade.policies.dreamer import DreamerPolicy
from saccade.training.claims import Claim
from saccade.training.loop import train as run_loop
from saccade.training.run import Run

RANDOM, EXPERT = 10.7, 46.0
"""Mean returns of random and of scripted actions in the embedded world."""


@dataclass(frozen=True)
class Settings:
    """Dreamer; the defaults are those of the embedded world."""

    task: ControlTask = ControlTask("reach", ("soft=0.4",), test_episodes=40, test_rows=40)
    sizes: Sizes = Sizes()
    learning: Learning = Learning(model_lr=2e-3)
    memory: Memory = Memory(warm_up=500)
    seed: int = 0
    """Seed of everything: weights, episodes, sequences, noise."""
    steps: int = 4500
    """Updates."""
    reward_weight: float = 1.0
    """Weight of the reward's likelihood."""
    divergence_weight: float = 0.3
    """Weight of KL(posterior || prior)."""
    free_nats: float = 0.0
    """Nats of it at each moment that cost nothing."""
    std: float = 1.0
    """Spread of the actor at the start, before tanh."""
    device: str = "cpu"
    """Where networks are: cpu, cuda or auto."""
    evaluate_every: int = 1500
    log_every: int = 50
    save_every: int = 1500


PRESETS = {
    "tiny": Settings(),
    "half-cheetah": Settings(**REAL, divergence_weight=1.0, free_nats=3.0),
}


def policies(cfg: Settings) -> dict[str, DreamerPolicy]:
    """The world model and the actor inside it."""
    return {"policy": build(cfg.task, cfg.sizes, cfg.std, cfg.seed, cfg.device)}


def terms(cfg: Settings) -> Terms:
    """What the states of the world model are for."""
    found = {
        "reconstruction": Weighted(reconstruction),
        "reward": Weighted(reward, cfg.reward_weight),
        "divergence": Weighted(divergence(free_nats=cfg.free_nats), cfg.divergence_weight),
    }
    return found | ({"ending": Weighted(ending)} if cfg.learning.ends else {})


def train(cfg: Settings, run: Run) -> dict[str, dict[str, float]]:
    """Train, evaluate, save. Returns the scores of test episodes before and after."""
    policy = policies(cfg)["policy"]
    return run_loop(
        Sequences(cfg.memory, cfg.task.make(cfg.memory.rows), policy, cfg.seed),
        Dreamer(policy, terms(cfg), cfg.learning, cfg.seed),
        run,
        cfg.steps,
        state={"policy": policy},
        evaluate=lambda step: score(cfg.task, policy, run.show(step)),
        evaluate_every=cfg.evaluate_every,
        save_every=cfg.save_every,
        log_every=cfg.log_every,
    )


def evaluate(cfg: Settings, policies: Mapping[str, DreamerPolicy]) -> dict[str, float]:
    """Scores of test episodes, always the same ones, acted greedily."""
    return score(cfg.task, policies["policy"])


def sample(cfg: Settings, policies: Mapping[str, DreamerPolicy], prompts: Sequence[str], seeds_B: Tensor) -> list[dict]:
    """One filmed episode for each seed; there is nothing to prompt."""
    return filmed(cfg.task, policies["policy"], seeds_B)


ARMS = {"dreamer": Settings()}
CLAIMS = (
    Claim(
        "the return of test episodes rises by a fifth of the way from random to scripted",
        lambda arm: (arm["dreamer"]["return"] - RANDOM) / (EXPERT - RANDOM),
        least=0.2,
    ),
)
