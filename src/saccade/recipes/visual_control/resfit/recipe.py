"""ResFiT: a cloned policy stays frozen, and off-policy RL learns small corrections of the actions that it proposes.

paper: Residual Off-Policy RL for Finetuning Behavior Cloning Policies, arXiv 2509.19301.
idea: A policy cloned from demonstrations acts in chunks of actions and is never trained again. At every step a small
    residual actor observes the proposed action and adds a bounded correction; critics of the corrected action learn
    from experience and demonstrations, half and half, with a reward for success alone.
claims: With the same demonstrations and environment steps, corrections succeed more often than the cloned policy by
    0.20, than the same learner without a cloned policy by 0.10, and than cloning its successes; before the first update
    they are the cloned policy exactly.
differs: The check is an embedded world of eight numbers, with small networks, four critics for ten, and a hundredth of
    the steps; learning rates are higher accordingly. Several episodes run side by side. The perceptron that is cloned
    plans chunks without ACT's latent variable of style. Cameras, where there are any, are encoded together with
    vectors, but actions are joined to the features. RLPD is the same learner with a base policy that proposes zeros and
    corrections of full size; in a world as small as the check's it gets further (0.95 of the episodes to 0.83 in the
    mean).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from torch import Tensor

from saccade.algorithms.off_policy import ActorLoss, CriticLoss, OffPolicy
from saccade.algorithms.replay import CollectionSchedule
from saccade.config import Count
from saccade.core import ActingPolicy, Environment, ProblemScores, Run, Stateful
from saccade.envs.collector import Collector
from saccade.envs.demonstrations import Demonstrations
from saccade.envs.task import ControlTask
from saccade.models.control.critics import Critics, Target
from saccade.models.control.networks import Encoder
from saccade.random import initialized, stream
from saccade.recipes.visual_control.resfit.base_policy import BCPolicy, Cloning
from saccade.recipes.visual_control.resfit.networks import ViewEncoder
from saccade.recipes.visual_control.resfit.residual import NoisyBasePolicy, Residual, ResidualActor
from saccade.recipes.visual_control.resfit.task import FilteredBCFeed, ResidualTask, demonstrations_with_proposals
from saccade.training.buffers import Buffer
from saccade.training.claims import Claim, WarmStartedArm
from saccade.training.feeds import Feed
from saccade.training.learner import Update, Updates
from saccade.training.loop import fit
from saccade.training.settings import AdamW, EnvSchedule, Flat, Schedule


@dataclass(frozen=True)
class Settings:
    """ResFiT; the defaults are the embedded check's."""

    schedule: Flat[EnvSchedule] = EnvSchedule(steps=8000, evaluate_every=900, save_every=900, log_every=200, n_envs=4)
    task: ControlTask = ControlTask("push", ("clearance=0.01",), test_episodes=100, test_rows=50)
    demonstrations: Demonstrations = Demonstrations(expert_noise=0.22)
    seed: int = 0
    """Seed of demonstrations, initial weights, episodes and batches."""
    cloning: Cloning = Cloning(chunk=8, steps=1500)
    residual: Residual = Residual()
    algo: OffPolicy = OffPolicy(
        stochastic=False,
        action_noise=0.05,
        n_critics=4,
        actor_value="mean",
        layer_norm=True,
        hidden=(64, 64),
        entropy_in_backup=False,
        target_policy_noise=0.05,
        target_noise_clip=0.3,
        n_steps=3,
        gradient_steps=2,
        policy_delay=2,
        offline_fraction=0.5,
        batch_size=128,
        buffer_size=200_000,
        learning_starts=800,
    )
    critic_optim: AdamW = AdamW(lr=3e-4, weight_decay=1e-4, fused=True)
    actor_optim: AdamW = AdamW(lr=5e-5, weight_decay=1e-4, fused=True)
    method: Literal["residual", "scratch", "filtered"] = "residual"
    """Corrections of the base policy; the same learner without one (RLPD); or cloning again, with its successes."""
    refresh_every: Count = 2000
    """Environment steps after which filtered cloning adds its successes to the data and acts with its new weights."""


_TINY = Settings()
PRESETS = {
    "tiny": _TINY,
    "robomimic-square": Settings(
        schedule=EnvSchedule(steps=300_000, evaluate_every=10_000, save_every=10_000, log_every=200),
        task=ControlTask("robomimic/Square-v0", ("size=96", "state=true"), test_episodes=100, test_rows=1),
        demonstrations=Demonstrations("robomimic-square"),
        cloning=Cloning(
            "transformer",
            chunk=16,
            width=256,
            steps=150_000,
            evaluate_every=10_000,
            optim=replace(_TINY.cloning.optim, lr=1e-4),
        ),
        residual=Residual(critic_steps=10_000, encoder="vit", error="squared mean of absolutes"),
        algo=replace(
            _TINY.algo,
            action_noise=0.025,
            n_critics=10,
            hidden=(1024, 1024),
            target_policy_noise=0.025,
            gamma=0.995,
            gradient_steps=4,
            policy_delay=4,
            image_shift=4,
            batch_size=256,
            learning_starts=10_000,
        ),
        critic_optim=replace(_TINY.critic_optim, lr=1e-4),
        actor_optim=replace(_TINY.actor_optim, lr=1e-6),
    ),
}


def policies(cfg: Settings) -> dict[str, Any]:
    """The cloned policy and the residual actor, with their initial weights."""
    base, actor, _ = networks(cfg, cfg.task.make(1))
    return {"base": base, "policy": actor}


def networks(cfg: Settings, environment: Environment) -> tuple[BCPolicy, ResidualActor, Critics]:
    """Base policy, actor and critics for an environment's observations, their weights from the seed.

    ValueError for a stochastic actor, which corrections do not have.
    """
    if cfg.algo.stochastic:
        raise ValueError("the residual actor is deterministic: algo.stochastic must be off")
    space, actions, algo = environment.observation_space, environment.action_space.shape[0], cfg.algo
    residual = replace(cfg.residual, scale=1.0) if cfg.method == "scratch" else cfg.residual
    with initialized(cfg.seed, "weights"):
        base = cfg.cloning.build(space, actions)
        encoder = ViewEncoder(space) if residual.encoder == "vit" else Encoder(space, convolutions=algo.convolutions)
        critics = Critics(encoder, encoder.size, actions, algo.n_critics, algo.hidden, algo.layer_norm)
        actor = residual.actor(encoder, encoder.size, actions, algo.hidden, algo.action_noise)
    return base, actor, critics


def train(cfg: Settings, run: Run) -> dict[str, dict[str, float]]:
    """Clone, collect experience, train critics, then critics and corrections.

    Returns the scores of test episodes before and after the last stage.
    """
    base, actor, critics = networks(cfg, cfg.task.make(1))
    episodes = clone_base(cfg, base, run.stage("bc"))
    if cfg.method == "filtered":
        return clone_successes(cfg, base, episodes, run)
    return learn_corrections(cfg, base, actor, critics, episodes, run)


def clone_base(cfg: Settings, base: BCPolicy, stage: Run) -> list[dict[str, np.ndarray]]:
    """Train the base policy; the demonstrations, with actions in their range."""
    environment = cfg.task.make(cfg.schedule.n_envs)
    episodes = cfg.demonstrations.load_episodes(environment, cfg.seed, stage.folder / "demonstrations")
    episodes = base.fit_action_range(episodes, cfg.residual.scale, cfg.residual.least_range)
    # The best weights are selected by other episodes than those of the test.
    validation = replace(
        residual_task(cfg, base), task=replace(cfg.task, held_out_seed=stream(cfg.task.held_out_seed, "validation"))
    )
    cfg.cloning.fit(base, episodes, stage, stream(cfg.seed, "cloning"), lambda: validation.score(NoisyBasePolicy(0.0)))
    return episodes


def learn_corrections(
    cfg: Settings,
    base: BCPolicy,
    actor: ResidualActor,
    critics: Critics,
    episodes: Sequence[dict[str, np.ndarray]],
    run: Run,
) -> dict[str, dict[str, float]]:
    """Off-policy learning of corrections, after a stage of the critics alone."""
    algo, collector = cfg.algo, collector_of(cfg, base, NoisyBasePolicy(cfg.residual.base_noise))
    demonstrations = demonstrations_with_proposals(
        episodes, residual_task(cfg, base).proposer(1), stream(cfg.seed, "demonstration buffer")
    )
    target, target_head = Target(critics, algo.tau), Target(actor.head, algo.tau)
    critic_loss = CriticLoss(actor.with_head(target_head.net), critics, target.net, algo)
    critic_update = cfg.critic_optim.update(
        "critic",
        algo.autocast(cfg.residual.critic_loss(critic_loss)),
        list(critics.parameters()),
        after=lambda steps: target.soft_update(),
    )
    actor_update = cfg.actor_optim.update(
        "actor",
        algo.autocast(ActorLoss(actor, critics, algo)),
        actor.trained,
        every=algo.policy_delay,
        after=lambda steps: target_head.soft_update(),
    )
    state = {"base": base, "policy": actor, "critics": critics, "target": target, "target_head": target_head}
    if cfg.schedule.steps:
        feed = algo.replay(collection(cfg, collector, only_at_start=True), demonstrations)
        fit_at_start(cfg, feed, critic_update, state, run.stage(f"{cfg.method} critic"))
    collector.policy = actor
    feed = algo.replay(collection(cfg, collector), demonstrations, first=cfg.residual.critic_steps)
    return fit_while_collecting(cfg, feed, [critic_update, actor_update], state, base, actor, run)


def clone_successes(
    cfg: Settings, base: BCPolicy, episodes: Sequence[dict[str, np.ndarray]], run: Run
) -> dict[str, dict[str, float]]:
    """Filtered cloning: as many gradient steps as corrections have, on demonstrations and successes of the policy."""
    acting = copy.deepcopy(base)
    collector, update = collector_of(cfg, acting, NoisyBasePolicy(cfg.algo.action_noise)), cfg.cloning.update(base)
    state: dict[str, Stateful] = {"base": base, "acting": acting}

    def feed(only_at_start: bool) -> FilteredBCFeed:
        schedule, seed = collection(cfg, collector, only_at_start), cfg.seed
        if only_at_start:
            seed = stream(seed, "filtered bc")
        return FilteredBCFeed(schedule, base, acting, episodes, cfg.refresh_every, cfg.cloning.batch_size, seed)

    fit_at_start(cfg, feed(only_at_start=True), update, state, run.stage("filtered bc"))
    return fit_while_collecting(cfg, feed(only_at_start=False), [update], state, base, NoisyBasePolicy(0.0), run)


def collector_of(cfg: Settings, base: BCPolicy, policy: ActingPolicy) -> Collector:
    """A collector of experience in the task with the base policy's proposals, with an empty buffer."""
    environment, buffer = residual_task(cfg, base).make(cfg.schedule.n_envs), Buffer(cfg.algo.buffer_size, cfg.seed)
    return Collector(environment, policy, buffer, cfg.seed)


def collection(cfg: Settings, collector: Collector, only_at_start: bool = False) -> CollectionSchedule:
    """Environment steps before learning starts, then one of all rows for their gradient steps unless only at start."""
    n_envs = cfg.schedule.n_envs
    every = 0 if only_at_start else n_envs * cfg.algo.gradient_steps
    return CollectionSchedule(collector, cfg.algo.learning_starts // n_envs, every)


def fit_at_start(cfg: Settings, feed: Feed, update: Update, state: Mapping[str, Stateful], stage: Run) -> None:
    """One update alone, on the experience from before learning starts."""
    steps = cfg.residual.critic_steps
    schedule = Schedule(steps, evaluate_every=steps, save_every=steps, log_every=cfg.schedule.log_every)
    fit(feed, Updates([update]), stage, schedule, state=state)


def fit_while_collecting(
    cfg: Settings,
    feed: Feed,
    updates: Sequence[Update],
    state: Mapping[str, Stateful],
    base: BCPolicy,
    actor: ActingPolicy,
    run: Run,
) -> dict[str, dict[str, float]]:
    """All updates while experience is collected. Returns the scores of test episodes before and after."""
    schedule = cfg.schedule.gradient_schedule(cfg.algo.learning_starts, cfg.algo.gradient_steps)
    score: Callable[[int], ProblemScores] = lambda step: residual_task(cfg, base).score(actor, run.show(step))
    return fit(feed, Updates(updates), run, schedule, state=state, evaluate=score)


def residual_task(cfg: Settings, base: BCPolicy) -> ResidualTask:
    """The task with the base policy's proposals, or with zeros."""
    return ResidualTask(cfg.task, base, cfg.method == "scratch")


def evaluate(cfg: Settings, policies: Mapping[str, Any]) -> ProblemScores:
    """Scores of the test episodes, acted greedily."""
    return residual_task(cfg, policies["base"]).score(policies["policy"])


def sample(cfg: Settings, policies: Mapping[str, Any], prompts: Sequence[str], seeds_B: Tensor) -> list[dict[str, Any]]:
    """A video of one episode for each seed; prompts have no effect."""
    return residual_task(cfg, policies["base"]).record_video(policies["policy"], seeds_B)


_RLPD = replace(
    _TINY,
    method="scratch",
    residual=replace(_TINY.residual, base_noise=1.0),
    algo=replace(_TINY.algo, action_noise=0.1),
    actor_optim=replace(_TINY.actor_optim, lr=3e-4),
)
ARMS = {
    "ResFiT": _TINY,
    "RLPD": WarmStartedArm("ResFiT", _RLPD),
    "filtered BC": WarmStartedArm("ResFiT", replace(_TINY, method="filtered")),
    "base": WarmStartedArm("ResFiT", replace(_TINY, schedule=replace(_TINY.schedule, steps=0))),
}

CLAIMS = (
    Claim(
        "corrections succeed more often than the cloned policy",
        lambda arm: arm["ResFiT"]["success"] - arm["base"]["success"],
    ),
    Claim(
        "and than the same learner without one",
        lambda arm: arm["ResFiT"]["success"] - arm["RLPD"]["success"],
    ),
    Claim(
        "and than cloning demonstrations and successes",
        lambda arm: arm["ResFiT"]["success"] - arm["filtered BC"]["success"],
    ),
    Claim(
        "before the first correction they are the cloned policy, in return and length",
        lambda arm: -max(abs(arm["ResFiT"][f"{name}@0"] - arm["base"][name]) for name in ("return", "length")),
        origin="sanity",
    ),
)
