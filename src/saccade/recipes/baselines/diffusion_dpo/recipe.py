"""Diffusion-DPO on flows: of two pictures of a prompt the better one shall be denoised better, the worse one worse.

paper: Diffusion Model Alignment Using Direct Preference Optimization, arXiv 2311.12908; on flows, arXiv 2501.13918.
idea: The DPO loss needs the likelihood of a whole picture; its bound needs only how well a noised picture is denoised,
    by the model and by the frozen reference, under the same noise for both pictures of a pair.
claims: Pairs drawn anew from the model in training raise the reward of kept-back prompts; pairs drawn once from the
    reference raise it less; with random preferences nothing is learned.
differs: Velocities of a flow in place of predicted noise, all noise levels of the sampler's grid alike. In the embedded
    default pairs are the best and the worst of a group that the judge tells apart, drawn by the model itself; people's
    pairs come from a file. Sampled and trained without guidance. In the check pairs drawn before training do more for
    the points (0.06 to 0.12) than those drawn in its course (0.04 to 0.09), for two thirds of the pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from saccade.algorithms.dpo import DiffusionDPO, pairs
from saccade.core import Problem, Rollout, seeds, spawn
from saccade.math.advantages import shuffled
from saccade.models.snapshot import Snapshot
from saccade.policies.flow import FlowModel, FlowPolicy, build
from saccade.policies.flow_presets import SD35_MEDIUM
from saccade.policies.unrolling import unmade
from saccade.recipes.baselines.diffusion_dpo import preferences
from saccade.training.claims import Claim, gain
from saccade.training.feeds import Feed, OnPolicy, Stored
from saccade.training.groups import in_groups
from saccade.training.learner import Update, Updates, warmup
from saccade.training.loop import train as run_loop
from saccade.training.run import Run
from saccade.worlds.shapes import task
from saccade.worlds.shapes.task import OCR, DrawingTask


@dataclass(frozen=True)
class Settings:
    """Diffusion-DPO; the defaults are the embedded miniature's."""

    flow: FlowModel = FlowModel()
    task: DrawingTask = DrawingTask()
    method: Literal["online", "offline"] = "online"
    """Pairs drawn by the model in training, or once, before it."""
    pairs: str = ""
    """A JSONL of prompt, chosen, rejected (offline); empty: pairs are drawn by the untrained model."""
    seed: int = 0
    """Seed of everything: prompts, noise, initial LoRA."""
    steps: int = 60
    """Training steps."""
    prompts_per_step: int = 16
    """Prompts in a batch, over all processes; each has one pair, or none."""
    group: int = 6
    """Attempts at a prompt, of which the best and the worst make its pair."""
    pool: int = 640
    """Prompts that pairs are drawn for before training (offline, without a file)."""
    beta: float = 100.0
    """How firmly the model is held to the reference (mean squared error of velocities)."""
    lr: float = 1e-4
    """Learning rate of AdamW."""
    warmup: int = 5
    """Optimiser steps over which the learning rate rises."""
    micro_rows: int = 64
    """Attempts that go through the network at once in an update; an even number."""
    shuffle_rewards: bool = False
    """Control: rewards are dealt out at random, so nothing can be learned."""
    evaluate_every: int = 30
    save_every: int = 30


_TINY = Settings()

_REAL = Settings(
    flow=replace(SD35_MEDIUM, sampling_steps=20, lora_rank=64, lora_alpha=128.0),
    task=OCR,
    steps=2000, prompts_per_step=48, group=8, beta=500.0, lr=1e-5, warmup=100, micro_rows=4,
    evaluate_every=100, save_every=100,
)  # fmt: skip

PRESETS = {
    "online": _TINY,
    "offline": replace(_TINY, method="offline"),
    "sd35-medium": _REAL,
    "sd35-medium-offline": replace(_REAL, method="offline", pairs="pickapic.jsonl", prompts_per_step=128),
}


def policies(cfg: Settings) -> dict[str, FlowPolicy]:
    """The model that draws."""
    return {"policy": build(cfg.flow, stochastic=(), seed=cfg.seed)}


def train(cfg: Settings, run: Run) -> dict[str, dict[str, float]]:
    """Train, evaluate, save. Returns the scores of kept-back prompts before and after."""
    if cfg.micro_rows % 2:
        raise ValueError(f"micro_rows {cfg.micro_rows} would cut pairs apart; an even number keeps them")
    policy = policies(cfg)["policy"]
    reference = Snapshot(policy.trained)
    update = Update(
        "flow",
        DiffusionDPO(policy, reference, cfg.beta),
        policy.trained,
        torch.optim.AdamW(policy.trained, lr=cfg.lr, weight_decay=1e-4),
        schedule=warmup(cfg.warmup),
    )
    return run_loop(
        feed(cfg, policy, reference),
        Updates([update], micro_rows=cfg.micro_rows),
        run,
        cfg.steps,
        state={"policy": policy, "reference": reference},
        evaluate=lambda step: cfg.task.score(policy.best, run.show(step)),
        evaluate_every=cfg.evaluate_every,
        save_every=cfg.save_every,
    )


def feed(cfg: Settings, policy: FlowPolicy, reference: Snapshot) -> Feed:
    """Where pairs come from: the model as it is, a file, or the model as it was."""
    if cfg.method == "online":
        collect = lambda problems, seeds_P, step: drawn(cfg, policy, problems, seeds_P, step)
        return OnPolicy(cfg.task.training(cfg.seed), collect, cfg.prompts_per_step, cfg.seed)
    if cfg.pairs:
        collect = lambda problems, seeds_P, step: given(policy, problems, seeds_P)
        return OnPolicy(preferences.load(cfg.pairs), collect, cfg.prompts_per_step, cfg.seed)
    return Remembered(cfg, policy, reference)


def drawn(cfg: Settings, policy: FlowPolicy, problems: Sequence[Problem], seeds_P: Tensor, step: int) -> Rollout:
    """The best and the worst of a group of attempts at each problem."""
    rollout = in_groups(policy.best, problems, seeds_P, cfg.group)
    reward_B = cfg.task.judge(rollout)
    rollout.rewards["total"] = shuffled(reward_B, cfg.seed + step) if cfg.shuffle_rewards else reward_B
    return preferred(pairs(rollout, rollout.rewards["total"]))


def given(policy: FlowPolicy, problems: Sequence[Problem], seeds_P: Tensor) -> Rollout:
    """The pictures of preferences as latents, chosen and rejected side by side."""
    twice = [problem for problem in problems for _ in range(2)]
    x0 = policy.encode(preferences.pictures(problems, policy.size))
    rollout = unmade(twice, seeds_P.repeat_interleave(2), x0_B=x0)
    rollout.group_B = torch.arange(len(problems)).repeat_interleave(2)
    return preferred(rollout)


def preferred(rollout: Rollout) -> Rollout:
    """Rows in pairs, the better one first, with the credit that says so."""
    rollout.advantage_BT = torch.tensor([1.0, -1.0]).repeat(len(rollout) // 2)[:, None]
    return rollout


class Remembered:
    """Pairs drawn once by the untrained model, each time under fresh noise; drawn again by it after a resume."""

    def __init__(self, cfg: Settings, policy: FlowPolicy, reference: Snapshot):
        self.cfg, self.policy, self.reference = cfg, policy, reference
        self.stored: Stored | None = None

    def __call__(self, step: int) -> Rollout:
        self.stored = self.stored or Stored(self.draw(), 2 * self.cfg.prompts_per_step, self.cfg.seed, together=2)
        rollout = self.stored(step)
        rollout.extras["seed_B"] = spawn(rollout.extras["seed_B"], step)
        return rollout

    def draw(self) -> Rollout:
        problems = self.cfg.task.training(self.cfg.seed)[: self.cfg.pool]
        with self.reference:
            return drawn(self.cfg, self.policy, problems, seeds(self.cfg.seed, len(problems), key=1 << 20), 0)


evaluate, sample = task.evaluate, task.sample

ARMS = {
    "online": _TINY,
    "offline": PRESETS["offline"],
    "random preferences": replace(_TINY, shuffle_rewards=True),
}

POINTS = "train wording"

CLAIMS = (
    Claim("pairs drawn anew in training raise the points by 0.03", lambda arm: gain(arm["online"], POINTS), least=0.03),
    Claim(
        "and more than pairs drawn before it", lambda arm: gain(arm["online"], POINTS) - gain(arm["offline"], POINTS)
    ),
    Claim("which raise them too", lambda arm: gain(arm["offline"], POINTS), least=0.01),
    Claim(
        "random preferences change them by less than 0.03",
        lambda arm: 0.03 - abs(gain(arm["random preferences"], POINTS)),
    ),
)
