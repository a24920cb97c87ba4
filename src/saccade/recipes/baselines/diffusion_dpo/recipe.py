"""Diffusion-DPO on flows: of two pictures of a prompt, the better one is denoised better and the other one worse.

paper: Diffusion Model Alignment Using Direct Preference Optimization, arXiv 2311.12908; on flows, arXiv 2501.13918.
idea: The DPO loss needs the likelihood of a picture; its bound needs only the error with which a noised picture is
    denoised, by the model and by the frozen reference, under the same noise for both pictures of a pair.
claims: Pairs sampled from the model in training raise the reward of held-out prompts; pairs sampled once from the
    reference raise it less; with random preferences nothing is learned.
differs: Velocities of a flow in place of predicted noise, all noise levels of the sampler's grid with equal weight. In
    the embedded default pairs are the best and the worst of a group whose rewards differ, sampled by the model; human
    preferences come from a file. Sampled and trained without guidance. In the check pairs sampled before training do
    more for the points (0.06 to 0.12) than those sampled during it (0.04 to 0.09), for two thirds of the pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from saccade.algorithms.dpo import DiffusionDPO, preferred
from saccade.config import Count
from saccade.core import Problem, Rollout, Run
from saccade.math.advantages import shuffle_rewards
from saccade.models.snapshot import Snapshot
from saccade.policies.flow import FlowModel, FlowPolicy, build_flow_policy
from saccade.policies.flow_presets import SD35_MEDIUM
from saccade.policies.unrolling import empty_rollout
from saccade.random import seeds, stream
from saccade.recipes.baselines.diffusion_dpo.preferences import load_preferences, open_pairs
from saccade.training.claims import Claim, gain
from saccade.training.feeds import DatasetFeed, Feed
from saccade.training.loop import fit
from saccade.training.settings import AdamW, Batch, Flat, Schedule
from saccade.worlds.shapes import task
from saccade.worlds.shapes.task import OCR, DrawingTask


@dataclass(frozen=True)
class Settings:
    """Diffusion-DPO; the defaults are the embedded miniature's."""

    schedule: Flat[Schedule] = Schedule(steps=60, evaluate_every=30, save_every=30)
    batch: Flat[Batch] = Batch(prompts_per_step=16, group_size=6, micro_rows=64)
    seed: int = 0
    """Seed of prompts, noise and initial LoRA weights."""
    flow: FlowModel = FlowModel()
    task: DrawingTask = DrawingTask()
    method: Literal["online", "offline"] = "online"
    """When pairs are sampled: by the model during training, or once by the untrained model."""
    preferences: str = ""
    """File of human preferences for offline training: JSONL of prompt, chosen, rejected; empty samples the pairs."""
    pool: Count = 640
    """Number of prompts that pairs are sampled for before offline training without a file."""
    dpo: DiffusionDPO = DiffusionDPO(beta=100.0)
    optim: AdamW = AdamW(lr=1e-4, weight_decay=1e-4, warmup=5)
    shuffle_rewards: bool = False
    """Control experiment: permute the rewards of a batch at random, so that nothing can be learned."""


_TINY = Settings()
_REAL = Settings(
    schedule=Schedule(steps=2000, evaluate_every=100, save_every=100),
    batch=Batch(prompts_per_step=48, group_size=8, micro_rows=4),
    flow=replace(SD35_MEDIUM, sampling_steps=20, lora_rank=64, lora_alpha=128.0),
    task=OCR,
    dpo=DiffusionDPO(beta=500.0),
    optim=AdamW(lr=1e-5, weight_decay=1e-4, warmup=100),
)
PRESETS = {
    "online": _TINY,
    "offline": replace(_TINY, method="offline"),
    "sd35-medium": _REAL,
    "sd35-medium-offline": replace(
        _REAL, method="offline", preferences="pickapic.jsonl", batch=replace(_REAL.batch, prompts_per_step=128)
    ),
}


def policies(cfg: Settings) -> dict[str, FlowPolicy]:
    """The model that generates pictures."""
    return {"policy": build_flow_policy(cfg.flow, stochastic=(), seed=cfg.seed)}


def train(cfg: Settings, run: Run) -> dict[str, dict[str, float]]:
    """Train, evaluate, save. Returns the scores of held-out prompts before and after."""
    if cfg.batch.micro_rows % 2:
        raise ValueError(f"micro_rows {cfg.batch.micro_rows} would cut pairs apart; use an even number")
    policy = policies(cfg)["policy"]
    reference = Snapshot(policy.trained)
    update = cfg.optim.update("flow", cfg.dpo.loss(policy, reference), policy.trained)
    return fit(
        pair_feed(cfg, policy, reference),
        cfg.batch.learner(update),
        run,
        cfg.schedule,
        state={"policy": policy, "reference": reference},
        evaluate=lambda step: cfg.task.score(policy.greedy().rollout, run.show(step)),
    )


def pair_feed(cfg: Settings, policy: FlowPolicy, reference: Snapshot) -> Feed:
    """Where pairs come from: the model in training, a file, or the untrained model."""
    if cfg.method == "online":
        collect = lambda problems, seeds_P, step: sampled_pairs(cfg, policy, problems, seeds_P, step)
        return cfg.batch.feed(cfg.task.training(cfg.seed), collect, cfg.seed)
    if cfg.preferences:
        collect = lambda problems, seeds_P, step: stored_pairs(policy, problems, seeds_P)
        return cfg.batch.feed(load_preferences(cfg.preferences), collect, cfg.seed)
    return OfflinePairs(cfg, policy, reference)


def sampled_pairs(
    cfg: Settings, policy: FlowPolicy, problems: Sequence[Problem], seeds_P: Tensor, step: int
) -> Rollout:
    """The best and the worst sample of a group for each problem whose rewards differ."""
    rollout = cfg.batch.groups(policy.greedy().rollout, problems, seeds_P)
    reward = cfg.task.judge(rollout)
    reward = rollout.rewards["total"] = shuffle_rewards(reward, int(seeds_P[0])) if cfg.shuffle_rewards else reward
    return cfg.dpo.pairs(rollout, reward)


def stored_pairs(policy: FlowPolicy, problems: Sequence[Problem], seeds_P: Tensor) -> Rollout:
    """The pictures of human preferences as latents, chosen and rejected as neighbours."""
    repeated = [problem for problem in problems for _ in range(2)]
    x0 = policy.encode(open_pairs(problems, policy.size))
    rollout = empty_rollout(repeated, seeds_P.repeat_interleave(2), x0_B=x0)
    rollout.group_B = torch.arange(len(problems)).repeat_interleave(2)
    return preferred(rollout)


class OfflinePairs:
    """Pairs sampled once by the untrained model, under fresh noise in each step; sampled again after a resume."""

    def __init__(self, cfg: Settings, policy: FlowPolicy, reference: Snapshot):
        self.cfg, self.policy, self.reference = cfg, policy, reference
        self.stored: DatasetFeed | None = None

    def __call__(self, step: int) -> Rollout:
        rows = 2 * self.cfg.batch.prompts_per_step
        self.stored = self.stored or DatasetFeed(self.sample(), rows, self.cfg.seed, pair_size=2)
        rollout = self.stored(step)
        rollout.extras["seed_B"] = stream(rollout.extras["seed_B"], "step", step)
        return rollout

    def sample(self) -> Rollout:
        """Pairs of the reference for the first ``pool`` prompts."""
        problems = self.cfg.task.training(self.cfg.seed)[: self.cfg.pool]
        with self.reference:
            return sampled_pairs(
                self.cfg, self.policy, problems, seeds(self.cfg.seed, len(problems), "offline pairs"), 0
            )


evaluate, sample = task.evaluate, task.sample

ARMS = {
    "online": _TINY,
    "offline": PRESETS["offline"],
    "random preferences": replace(_TINY, shuffle_rewards=True),
}

POINTS = "held out"

CLAIMS = (
    Claim("pairs drawn anew in training raise the points", lambda arm: gain(arm["online"], POINTS)),
    Claim(
        "and more than pairs drawn before it", lambda arm: gain(arm["online"], POINTS) - gain(arm["offline"], POINTS)
    ),
    Claim("which raise them too", lambda arm: gain(arm["offline"], POINTS)),
    Claim(
        "random preferences change them by less than 0.03",
        lambda arm: 0.03 - abs(gain(arm["random preferences"], POINTS)),
        origin="sanity",
    ),
)
