"""ResFiT: a cloned policy stays as it is, and off-policy RL learns small corrections of what it proposes.

paper: Residual Off-Policy RL for Finetuning Behavior Cloning Policies, arXiv 2509.19301.
idea: A policy cloned from demonstrations carries out chunks of actions and is never trained again. At every step a
    small residual actor sees what it proposes and adds a bounded correction; critics of the action that was carried out
    learn from experience and demonstrations, half and half, of a reward for success alone.
claims: With the same demonstrations and steps in the environment, corrections succeed more often than the cloned policy
    by 0.20, than the same learner without a cloned policy by 0.10, and than cloning its own successes; before the first
    step they are the cloned policy exactly.
differs: The check is an embedded world seen as eight numbers, with small networks, four critics for ten, and a
    hundredth of the steps; learning rates are higher accordingly. Several episodes run side by side. The perceptron
    that is cloned plans chunks without ACT's latent of style. Cameras, where there are any, are read together with
    vectors, but actions join behind. RLPD is this very learner with a base policy that proposes nothing and corrections
    of full size; in a world as small as the check's it gets further (0.95 of the episodes to 0.83 in the mean).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from saccade.algorithms.off_policy import ActorLoss, CriticLoss, OffPolicy
from saccade.algorithms.replay import Gathering, Replayed, shifted
from saccade.core import Environment, seeded, seeds
from saccade.envs.collector import Experience
from saccade.envs.demonstrations import Demonstrations
from saccade.envs.task import ControlTask
from saccade.models.control.critics import Critics, Target
from saccade.models.control.networks import Encoder
from saccade.recipes.visual_control.resfit.cloning import (
    Cloned,
    Cloning,
    clone,
    cloning,
    in_units_of_their_range,
    planner,
)
from saccade.recipes.visual_control.resfit.planners import Views
from saccade.recipes.visual_control.resfit.residual import Across, EnsembleError, Perturbed, ResidualActor, residual
from saccade.recipes.visual_control.resfit.task import Correcting, Refreshed, relabelled
from saccade.training.buffers import Buffer, Mixture
from saccade.training.claims import Claim, Following
from saccade.training.learner import Update, Updates
from saccade.training.loop import train as run_loop
from saccade.training.run import Run

_EXPERIENCE, _WEIGHTS = -2, -3
"""Streams of seeds."""


@dataclass(frozen=True)
class Settings:
    """ResFiT; the defaults are the embedded check's."""

    task: ControlTask = ControlTask("push", ("clearance=0.01",), test_episodes=100, test_rows=50)
    shown: Demonstrations = Demonstrations(expert_noise=0.22)
    clone: Cloning = Cloning(chunk=8, clone_steps=1500)
    how: OffPolicy = OffPolicy(
        critics=4, actor_value="mean", entropy_in_backup=False, critic_norm=True, smoothing=0.05, smoothing_clip=0.3, n_step=3,
        updates=2, actor_every=2, offline_share=0.5,
    )  # fmt: skip
    method: Literal["residual", "scratch", "filtered"] = "residual"
    """Corrections of the base policy; the same learner without one (RLPD); or cloning again, with every own success."""
    seed: int = 0
    """Seed of everything: demonstrations, weights, episodes, batches."""
    rows: int = 4
    """Episodes side by side."""
    env_steps: int = 8000
    """Steps in the environment, those of the warm-up included; 0 evaluates the base policy."""
    warm_up: int = 800
    """Steps in the environment before anything is learned, moved evenly by up to ``reach``."""
    reach: float = 0.2
    """Of the warm-up, around what is proposed."""
    critic_steps: int = 2000
    """Gradient steps of the critics alone, after the warm-up."""
    scale: float = 0.2
    """Largest correction, in units of the demonstrated range of actions, which is widened by it."""
    least_range: float = 0.1
    """Least range of an action before it is widened."""
    noise: float = 0.05
    """Spread of the exploration."""
    encoder: Literal["plain", "vit"] = "plain"
    """What critics and actor see with: vectors as they are and convolutions, or a small transformer for each camera."""
    hidden: tuple[int, ...] = (64, 64)
    """Layers of critics and actor."""
    across: Across = "mean of squares"
    """The critics' error; the reference's is the squared mean of absolutes."""
    bounds: tuple[float, float] | None = (0.0, 1.0)
    """Where targets are cut off; success is worth at most 1."""
    shift: int = 0
    """Pixels by which pictures of a batch are shifted at random."""
    batch: int = 128
    """Transitions in a batch, of demonstrations and experience together."""
    memory: int = 200_000
    """Transitions of experience that are kept."""
    critic_lr: float = 3e-4
    """Learning rate of AdamW."""
    actor_lr: float = 5e-5
    """Learning rate of AdamW."""
    max_norm: float = 1.0
    """Largest norm of the critics' gradient, and of the actor's."""
    refresh: int = 2000
    """Steps in the environment after which filtered cloning takes its successes in and acts with its new weights."""
    evaluations: int = 8
    """Evaluations in equal distances."""
    log_every: int = 200


PRESETS = {
    "tiny": Settings(),
    "robomimic-square": Settings(
        task=ControlTask("robomimic/Square-v0", ("size=96", "state=true"), test_episodes=100, test_rows=1),
        shown=Demonstrations("robomimic-square"),
        clone=Cloning("transformer", chunk=16, width=256, clone_steps=150_000, clone_lr=1e-4, clone_evaluate_every=10_000),
        how=OffPolicy(
            critics=10, actor_value="mean", entropy_in_backup=False, critic_norm=True, smoothing=0.025, smoothing_clip=0.3,
            n_step=3, gamma=0.995, updates=4, actor_every=4, offline_share=0.5,
        ),
        rows=1, env_steps=300_000, warm_up=10_000, critic_steps=10_000, noise=0.025, encoder="vit", hidden=(1024, 1024),
        across="squared mean of absolutes", shift=4, batch=256, critic_lr=1e-4, actor_lr=1e-6, evaluations=30,
    ),
}  # fmt: skip


def policies(cfg: Settings) -> dict[str, Any]:
    """The cloned policy and the residual actor, as they begin."""
    base, actor, _ = networks(cfg, cfg.task.make(1))
    return {"base": base, "policy": actor}


def networks(cfg: Settings, environment: Environment) -> tuple[Cloned, ResidualActor, Critics]:
    """Base policy, actor and critics for what an environment shows, their weights from the seed."""
    space, actions = environment.observation_space, environment.action_space.shape[0]
    with seeded(int(seeds(cfg.seed, 1, key=_WEIGHTS))):
        base = planner(cfg.clone, space, actions)
        encoder = Views(space) if cfg.encoder == "vit" else Encoder(space, convolutions="small")
        critics = Critics(encoder, encoder.size, actions, cfg.how.critics, cfg.hidden, cfg.how.critic_norm)
        actor = residual(
            encoder, encoder.size, actions, cfg.hidden, 1.0 if cfg.method == "scratch" else cfg.scale, cfg.noise
        )
    return base, actor, critics


def train(cfg: Settings, run: Run) -> dict[str, dict[str, float]]:
    """Clone, fill memory, train critics, then critics and corrections. Returns the scores before and after the last
    of these.
    """
    base, actor, critics = networks(cfg, cfg.task.make(1))
    episodes = begin(cfg, base, run.stage("bc"))
    if cfg.method == "filtered":
        return clone_again(cfg, base, episodes, run)
    return correct(cfg, base, actor, critics, episodes, run)


def begin(cfg: Settings, base: Cloned, stage: Run) -> list[dict]:
    """Train the base policy; the demonstrations, in units of their range."""
    shown = cfg.shown.recorded(cfg.task.make(cfg.rows), cfg.seed, stage.folder / "demonstrations")
    episodes = in_units_of_their_range(base, shown, cfg.scale, cfg.least_range)
    # The best weights are chosen on other episodes than those by which they are judged.
    others = replace(correcting(cfg, base), task=replace(cfg.task, test_seed=cfg.task.test_seed + 1))
    clone(cfg.clone, base, episodes, stage, cfg.seed, lambda: others.score(Perturbed(0.0)))
    return episodes


def correct(
    cfg: Settings, base: Cloned, actor: ResidualActor, critics: Critics, episodes: list[dict], run: Run
) -> dict:
    """Off-policy learning of corrections, after a stage for the critics alone."""
    experience = warming(cfg, base, Perturbed(cfg.reach))
    shown = relabelled(episodes, correcting(cfg, base).proposer(1), 2 * cfg.seed + 1)
    memory = Mixture([(shown, cfg.how.offline_share), (experience.buffer, 1 - cfg.how.offline_share)])
    target, slow = Target(critics, cfg.how.tau), Target(actor.head, cfg.how.tau)
    error = EnsembleError(CriticLoss(actor.slow(slow.net), critics, target.net, cfg.how), cfg.across, cfg.bounds)
    critic = _update(cfg, "critic", error, list(critics.parameters()), cfg.critic_lr, target)
    corrector = _update(
        cfg, "actor", ActorLoss(actor, critics, cfg.how), actor.trained, cfg.actor_lr, slow, cfg.how.actor_every
    )
    state = {"base": base, "policy": actor, "critics": critics, "target": target, "slow": slow}

    def feed(every: int, first: int) -> Replayed:
        gathering = Gathering(experience, cfg.warm_up // cfg.rows, every)
        return Replayed(
            gathering, memory, cfg.batch, cfg.how.n_step, cfg.how.gamma, partial(shifted, pad=cfg.shift), first
        )

    if cfg.env_steps:
        alone(cfg, feed(0, 0), critic, state, run.stage(f"{cfg.method} critic"))
    experience.policy = actor
    return beside_experience(
        cfg, feed(cfg.rows * cfg.how.updates, cfg.critic_steps), [critic, corrector], state, base, actor, run
    )


def clone_again(cfg: Settings, base: Cloned, episodes: list[dict], run: Run) -> dict:
    """Filtered cloning: as many gradient steps as ``correct`` takes, on demonstrations and own successes."""
    acting = copy.deepcopy(base)
    experience, update = warming(cfg, acting, Perturbed(cfg.noise)), cloning(cfg.clone, base)
    state = {"base": base, "acting": acting}

    def feed(every: int) -> Refreshed:
        gathering = Gathering(experience, cfg.warm_up // cfg.rows, every)
        return Refreshed(gathering, base, acting, episodes, cfg.refresh, cfg.clone.clone_batch, cfg.seed)

    alone(cfg, feed(0), update, state, run.stage("filtered bc"))
    return beside_experience(cfg, feed(cfg.rows * cfg.how.updates), [update], state, base, Perturbed(0.0), run)


def warming(cfg: Settings, base: Cloned, perturbed: Perturbed) -> Experience:
    """Experience of what a policy proposes, moved a little, in a memory that is still empty."""
    world, memory = correcting(cfg, base).make(cfg.rows), Buffer(cfg.memory, 2 * cfg.seed)
    return Experience(world, perturbed, memory, int(seeds(cfg.seed, 1, key=_EXPERIENCE)))


def alone(cfg: Settings, feed: Any, update: Update, state: dict, stage: Run) -> None:
    """One update alone, on the experience of the warm-up."""
    times = {"save_every": cfg.critic_steps, "log_every": cfg.log_every}
    run_loop(feed, Updates([update]), stage, cfg.critic_steps, state=state, **times)


def beside_experience(cfg: Settings, feed: Any, updates: list, state: dict, base: Cloned, actor: Any, run: Run) -> dict:
    """All updates, several for each step in the environment."""
    steps = max(cfg.env_steps - cfg.warm_up, 0) * cfg.how.updates
    each = max(steps // cfg.evaluations, 1)
    times = {"evaluate_every": each, "save_every": each, "log_every": cfg.log_every}
    look = lambda step: correcting(cfg, base).score(actor, run.show(step))
    return run_loop(feed, Updates(updates), run, steps, state=state, evaluate=look, **times)


def correcting(cfg: Settings, base: Cloned) -> Correcting:
    """The task as corrections see it."""
    return Correcting(cfg.task, base, cfg.method == "scratch")


def evaluate(cfg: Settings, policies: Mapping[str, Any]) -> dict[str, float]:
    """How test episodes went, acted without noise."""
    return correcting(cfg, policies["base"]).score(policies["policy"])


def sample(cfg: Settings, policies: Mapping[str, Any], prompts: Sequence[str], seeds_B: Tensor) -> list[dict]:
    """One filmed episode for each seed; there is nothing to prompt."""
    return correcting(cfg, policies["base"]).filmed(policies["policy"], seeds_B)


def _update(cfg: Settings, name: str, loss: Any, weights: list, lr: float, slow: Target, every: int = 1) -> Update:
    optimizer = torch.optim.AdamW(weights, lr=lr, weight_decay=1e-4, fused=True)
    return Update(name, loss, weights, optimizer, every=every, max_norm=cfg.max_norm, after=lambda taken: slow.follow())


_CHECK = Settings()

ARMS = {
    "ResFiT": _CHECK,
    "RLPD": Following("ResFiT", replace(_CHECK, method="scratch", actor_lr=3e-4, reach=1.0, noise=0.1)),
    "filtered BC": Following("ResFiT", replace(_CHECK, method="filtered")),
    "base": Following("ResFiT", replace(_CHECK, env_steps=0)),
}

CLAIMS = (
    Claim(
        "corrections succeed more often than the cloned policy, by 0.20",
        lambda arm: arm["ResFiT"]["success"] - arm["base"]["success"],
        least=0.20,
    ),
    Claim(
        "and than the same learner without one, by 0.10",
        lambda arm: arm["ResFiT"]["success"] - arm["RLPD"]["success"],
        least=0.10,
    ),
    Claim(
        "and than cloning demonstrations and own successes",
        lambda arm: arm["ResFiT"]["success"] - arm["filtered BC"]["success"],
    ),
    Claim(
        "before the first correction they are the cloned policy, in return and length",
        lambda arm: -max(abs(arm["ResFiT"][f"{name}@0"] - arm["base"][name]) for name in ("return", "length")),
        every_seed=True,
    ),
)
