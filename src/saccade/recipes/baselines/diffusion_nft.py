"""DiffusionNFT: reinforcement learning on the forward process.

paper: DiffusionNFT: Online Diffusion Reinforcement with Forward Process, arXiv 2509.16117.
idea: No likelihood and no stochastic sampler: noised samples of the old policy train a velocity that explains the good
    ones, while its mirror image about the old policy's velocity must explain the bad ones.
claims: With half the network evaluations its reward is at least Flow-GRPO's; with shuffled rewards nothing is learned.
differs: Sampled with the Euler steps of the checkpoint's scheduler, not a second-order solver. The embedded default
    trains the weights themselves (the release has LoRA alone). In the check NFT gains 0.10 to 0.19 in 36 batches where
    Flow-GRPO gains about 0.10 in 60, but at half the network's evaluations it is 0.04 behind; and random rewards are
    not harmless to it: with shuffled rewards one seed lost 0.09.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from saccade.algorithms.nft import NFT
from saccade.core import Problem, Rollout, Run
from saccade.math.advantages import shuffle_rewards
from saccade.models.snapshot import Snapshot
from saccade.policies.flow import FlowModel, FlowPolicy, build_flow_policy
from saccade.policies.flow_presets import SD35_MEDIUM
from saccade.training.claims import BaselineArm, Claim, gain
from saccade.training.loop import fit
from saccade.training.settings import AdamW, Batch, Flat, Schedule
from saccade.worlds.shapes import task
from saccade.worlds.shapes.task import OCR, DrawingTask


@dataclass(frozen=True)
class Settings:
    """DiffusionNFT; the defaults are the embedded miniature's."""

    schedule: Flat[Schedule] = Schedule(steps=60, evaluate_every=20, save_every=20)
    batch: Flat[Batch] = Batch(prompts_per_step=8, group_size=12, micro_rows=64)
    seed: int = 0
    """Seed of prompts, noise and initial LoRA weights."""
    flow: FlowModel = FlowModel()
    task: DrawingTask = DrawingTask()
    nft: NFT = NFT()
    optim: AdamW = AdamW(lr=1e-4, weight_decay=1e-4, warmup=5)
    shuffle_rewards: bool = False
    """Control experiment: permute the rewards of a batch at random, so that nothing can be learned."""


PRESETS = {
    "tiny": Settings(),
    "sd35-medium": Settings(
        schedule=Schedule(steps=2000, evaluate_every=30, save_every=20),
        batch=Batch(prompts_per_step=48, group_size=24, micro_rows=4),
        flow=replace(SD35_MEDIUM, sampling_steps=10, lora_rank=32, lora_alpha=64.0),
        task=OCR,
        nft=NFT(beta=0.1, reference_weight=1e-4, noise_levels=10, decay_after=75, decay_slope=0.0075, decay_max=0.999),
        optim=AdamW(lr=3e-4, weight_decay=1e-4, warmup=1),
    ),
}


def policies(cfg: Settings) -> dict[str, FlowPolicy]:
    """The model that generates pictures."""
    return {"policy": build_flow_policy(cfg.flow, stochastic=(), seed=cfg.seed)}


def train(cfg: Settings, run: Run) -> dict[str, dict[str, float]]:
    """Train, evaluate, save. Returns the scores of held-out prompts before and after."""
    policy = policies(cfg)["policy"]
    reference, old = Snapshot(policy.trained), Snapshot(policy.trained)

    def collect(problems: Sequence[Problem], seeds_P: Tensor, step: int) -> Rollout:
        with old:
            rollout = cfg.batch.groups(policy.greedy().rollout, problems, seeds_P)
        reward = cfg.task.judge(rollout)
        reward = rollout.rewards["total"] = shuffle_rewards(reward, int(seeds_P[0])) if cfg.shuffle_rewards else reward
        rollout.advantage_BT = cfg.nft.advantage(reward, rollout.group_B)[:, None]
        return rollout

    update = cfg.optim.update(
        "flow",
        cfg.nft.loss(policy, old, reference),
        policy.trained,
        after=lambda taken: old.update(cfg.nft.old_decay(taken)),
    )
    return fit(
        cfg.batch.feed(cfg.task.training(cfg.seed), collect, cfg.seed),
        cfg.batch.learner(update),
        run,
        cfg.schedule,
        state={"policy": policy, "reference": reference, "old": old},
        evaluate=lambda step: cfg.task.score(policy.greedy().rollout, run.show(step)),
    )


evaluate, sample = task.evaluate, task.sample


_CHECK = Settings(schedule=Schedule(steps=36, evaluate_every=18, save_every=20), task=DrawingTask(held_out_size=1024))
ARMS = {
    "nft": _CHECK,
    "shuffled rewards": replace(_CHECK, shuffle_rewards=True),
    "grpo": BaselineArm("flow_grpo", {"task": _CHECK.task, "schedule": Schedule(steps=60, evaluate_every=30)}),
}
# Network evaluations of a picture: NFT 8 to sample it and 2 at each of 4 noise levels, GRPO 8 to sample it and 1 for
# each of 2 trained steps. 18 steps of 16 are just less than half of 60 steps of 10, with as many pictures in each step.

CLAIMS = (
    Claim(
        "rewards of held-out prompts rise over the untrained model",
        lambda arm: gain(arm["nft"], "held out"),
    ),
    Claim(
        "with shuffled rewards they change by less than 0.03",
        lambda arm: 0.03 - abs(gain(arm["shuffled rewards"], "held out")),
        origin="sanity",
    ),
    Claim(
        "with half the network evaluations (and 30 % of the pictures) it reaches Flow-GRPO's reward",
        lambda arm: arm["nft"]["held out@18"] - arm["grpo"]["held out@60"],
    ),
)
