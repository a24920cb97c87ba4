"""DiffusionNFT: reinforcement learning on the forward process.

paper: DiffusionNFT: Online Diffusion Reinforcement with Forward Process, arXiv 2509.16117.
idea: No likelihood and no stochastic sampler: noised samples of the old policy teach a velocity that explains the good
    ones, while its mirror image about the old one must explain the bad ones.
claims: With half the network evaluations its reward is at least Flow-GRPO's; with shuffled rewards nothing is learned.
differs: Sampled with the Euler steps of the checkpoint's scheduler, not a second-order solver. The embedded default
    trains the weights themselves (the release has LoRA alone). In the check NFT gains 0.10 to 0.19 in 36 batches where
    Flow-GRPO gains about 0.10 in 60, but at half the network's evaluations it is 0.04 behind; and random credit is not
    harmless to it: with shuffled rewards one seed lost 0.09.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from saccade.algorithms.nft import NFT
from saccade.core import Problem, Rollout
from saccade.math.advantages import group_advantage, shuffled
from saccade.models.snapshot import Snapshot
from saccade.policies.flow import FlowModel, FlowPolicy, build
from saccade.policies.flow_presets import SD35_MEDIUM
from saccade.training import distributed
from saccade.training.claims import Claim, Other, gain
from saccade.training.feeds import OnPolicy
from saccade.training.groups import in_groups
from saccade.training.learner import Update, Updates, warmup
from saccade.training.loop import train as run_loop
from saccade.training.run import Run
from saccade.worlds.shapes import task
from saccade.worlds.shapes.task import OCR, DrawingTask


@dataclass(frozen=True)
class Settings:
    """DiffusionNFT; the defaults are the embedded miniature's."""

    flow: FlowModel = FlowModel()
    task: DrawingTask = DrawingTask()
    seed: int = 0
    """Seed of everything: prompts, noise, initial LoRA."""
    steps: int = 60
    """Training steps (batches of attempts)."""
    prompts_per_step: int = 8
    """Different prompts in a batch, over all processes."""
    group: int = 12
    """Attempts of each prompt, compared with one another."""
    beta: float = 0.3
    """How far the mirrored velocities lie from the old one (release: 1; 0.1 for OCR and several rewards)."""
    beta_reference: float = 0.0
    """Weight of the distance to the reference's velocity; 0 spares its evaluation."""
    times: int = 4
    """Noise levels of the sampling grid at which each picture is trained, drawn anew for each."""
    decay_after: int = 0
    """Steps over which the old policy is the present one."""
    decay_slope: float = 0.001
    """Past these it keeps min(slope x steps, most) of itself after each step."""
    decay_most: float = 0.5
    lr: float = 1e-4
    """Learning rate of AdamW."""
    warmup: int = 5
    """Optimiser steps over which the learning rate rises."""
    micro_rows: int = 64
    """Attempts that go through the network at once in an update."""
    shuffle_rewards: bool = False
    """Control: rewards are dealt out at random, so nothing can be learned."""
    evaluate_every: int = 20
    save_every: int = 20


PRESETS = {
    "tiny": Settings(),
    "sd35-medium": Settings(
        flow=replace(SD35_MEDIUM, sampling_steps=10, lora_rank=32, lora_alpha=64.0),
        task=OCR,
        steps=2000, prompts_per_step=48, group=24, beta=0.1, beta_reference=1e-4, times=10,
        decay_after=75, decay_slope=0.0075, decay_most=0.999, lr=3e-4, warmup=1,
        micro_rows=4, evaluate_every=30,
    ),
}  # fmt: skip


def policies(cfg: Settings) -> dict[str, FlowPolicy]:
    """The model that draws."""
    return {"policy": build(cfg.flow, stochastic=(), seed=cfg.seed)}


def train(cfg: Settings, run: Run) -> dict[str, dict[str, float]]:
    """Train, evaluate, save. Returns the scores of held-out prompts before and after."""
    policy = policies(cfg)["policy"]
    reference, old = Snapshot(policy.trained), Snapshot(policy.trained)

    def collect(problems: Sequence[Problem], seeds_P: Tensor, step: int) -> Rollout:
        with old:
            rollout = in_groups(policy.best, problems, seeds_P, cfg.group)
        reward = cfg.task.judge(rollout)
        rollout.rewards["total"] = shuffled(reward, cfg.seed + step) if cfg.shuffle_rewards else reward
        credit_B = group_advantage(
            rollout.rewards["total"], rollout.group_B, scale="batch", all_sum=distributed.all_sum
        )
        rollout.advantage_BT = credit_B[:, None]
        return rollout

    update = Update(
        "flow",
        NFT(policy, old, reference, cfg.beta, cfg.beta_reference, cfg.times),
        policy.trained,
        torch.optim.AdamW(policy.trained, lr=cfg.lr, weight_decay=1e-4),
        schedule=warmup(cfg.warmup),
        after=lambda taken: old.follow(kept(cfg, taken)),
    )
    return run_loop(
        OnPolicy(cfg.task.training(cfg.seed), collect, cfg.prompts_per_step, cfg.seed),
        Updates([update], micro_rows=cfg.micro_rows),
        run,
        cfg.steps,
        state={"policy": policy, "reference": reference, "old": old},
        evaluate=lambda step: cfg.task.score(policy.best, run.show(step)),
        evaluate_every=cfg.evaluate_every,
        save_every=cfg.save_every,
    )


def kept(cfg: Settings, taken: int) -> float:
    """What the old policy keeps of itself after so many steps."""
    return min(cfg.decay_slope * max(taken - cfg.decay_after, 0), cfg.decay_most)


evaluate, sample = task.evaluate, task.sample


_CHECK = Settings(task=DrawingTask(held_out_size=192), steps=36, evaluate_every=18)
ARMS = {
    "nft": _CHECK,
    "shuffled rewards": replace(_CHECK, shuffle_rewards=True),
    "grpo": Other("flow_grpo", {"task": _CHECK.task, "steps": 60, "evaluate_every": 30}),
}
# Evaluations of the network for a picture: NFT 8 to draw and 2 at each of 4 noise levels, GRPO 8 to draw and 1 for each
# of 2 trained steps. 18 steps of 16 are just less than half of 60 steps of 10, with the same number of pictures a step.

CLAIMS = (
    Claim(
        "rewards of held-out prompts rise by 0.10 over the untrained model in every seed",
        lambda arm: gain(arm["nft"], "train wording"),
        least=0.10,
        every_seed=True,
    ),
    Claim(
        "with shuffled rewards they change by less than 0.03",
        lambda arm: 0.03 - abs(gain(arm["shuffled rewards"], "train wording")),
    ),
    Claim(
        "with half the network evaluations (and 30 % of the pictures) it reaches Flow-GRPO's reward",
        lambda arm: arm["nft"]["train wording@18"] - arm["grpo"]["train wording@60"],
    ),
)
