"""GRPO on answers: groups of attempts at one question, each compared with the others, and its kin as presets.

paper: DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models, arXiv 2402.03300; Dr. GRPO
    2503.20783, DAPO 2503.14476, GSPO 2507.18071, RLOO 2402.14740, CISPO 2506.13585.
idea: What an answer scored above the others at the same question is its credit, so no critic is needed. Dr. GRPO leaves
    out the spread and weighs every token alike over a constant; DAPO clips higher upwards, draws groups until they tell
    their answers apart and punishes overlong ones; GSPO has one ratio an answer; RLOO compares with the others alone.
claims: Held-out questions are answered rightly more often than by the untrained model, with shuffled rewards they are
    not; each of its kin gains too.
differs: Right answers earn 1 and wrong ones 0, where DAPO's earn 1 and -1; its punishment of length is halved with
    them. RLOO's pull to the reference is in the loss, not in the reward. All have the learning rate of GRPO. In the
    check 60 steps gain 0.025, 0.016 and 0.004: the miniature names every colour from the start, learns to count, and
    not to relate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from saccade.algorithms.grpo import PolicyGradient, remember_reference, until_telling
from saccade.core import Problem, Rollout, spawn
from saccade.evaluation.templates import Template, asking
from saccade.math import surrogates
from saccade.math.advantages import group_advantage, leave_one_out, shuffled
from saccade.models.snapshot import Snapshot
from saccade.policies.token_presets import QWEN25_VL_3B
from saccade.policies.tokens import TokenModel, TokenPolicy, build
from saccade.rewards.text.length import Overlong
from saccade.training import distributed
from saccade.training.claims import Claim, gain
from saccade.training.feeds import OnPolicy, join
from saccade.training.groups import in_groups
from saccade.training.learner import Update, Updates, warmup
from saccade.training.loop import train as run_loop
from saccade.training.run import Run
from saccade.worlds.questions import task
from saccade.worlds.questions.task import AnsweringTask

SURROGATES = {"clipped": surrogates.clipped, "dual_clipped": surrogates.dual_clipped, "cispo": surrogates.cispo}


@dataclass(frozen=True)
class Settings:
    """GRPO on answers; the defaults are the embedded miniature's."""

    model: TokenModel = TokenModel(max_new_tokens=16)
    task: AnsweringTask = AnsweringTask()
    template: Template = "plain"
    """What is asked for: an answer alone, in tags, or after thoughts."""
    seed: int = 0
    """Seed of everything: questions, words, initial LoRA."""
    steps: int = 60
    """Training steps (batches of attempts)."""
    prompts_per_step: int = 16
    """Different questions in a batch, over all processes."""
    group: int = 8
    """Attempts at each question, compared with one another."""
    credit: Literal["group", "batch", "none", "leave_one_out"] = "group"
    """Reward minus the group's mean, over the spread of the group, of the batch or of none (Dr. GRPO); or minus that
    of the others (RLOO)."""
    surrogate: Literal["clipped", "dual_clipped", "cispo"] = "clipped"
    """What is done about ratios that leave their range."""
    ratio: Literal["decision", "row", "row_decision"] = "decision"
    """One ratio a token, or one an answer (GSPO, GSPO-token)."""
    average: Literal["rows", "decisions", "constant", "sum"] = "rows"
    """How tokens are averaged: answers alike, tokens alike, over a constant length, or summed."""
    clip: float = 0.2
    """Range of the probability ratio."""
    clip_high: float | None = None
    """Range upwards, where it differs."""
    beta: float = 0.04
    """Weight of the k3 distance to the reference; 0 needs none."""
    draws: int = 1
    """With more than 1, questions are drawn up to so many times until enough groups tell their attempts apart
    (DAPO).
    """
    overlong: int = 0
    """Tokens before the longest answer from which length is punished, up to -1/2 (DAPO); 0 does not."""
    lr: float = 1e-4
    """Learning rate of AdamW."""
    warmup: int = 5
    """Optimiser steps over which the learning rate rises."""
    minibatches: int = 2
    """Optimiser steps a batch; from the second on ratios differ from 1, so that clipping acts."""
    micro_rows: int = 128
    """Attempts that go through the network at once in an update."""
    shuffle_rewards: bool = False
    """Control: rewards are dealt out at random, so nothing can be learned."""
    evaluate_every: int = 20
    save_every: int = 20


_TINY = Settings()
PRESETS = {
    "tiny": _TINY,
    "dr-grpo": replace(_TINY, credit="none", average="constant", beta=0.0),
    "dapo": replace(_TINY, average="decisions", clip_high=0.28, beta=0.0, draws=4, overlong=4),
    "gspo": replace(_TINY, ratio="row", clip=3e-4, clip_high=4e-4, beta=0.0),
    "rloo": replace(_TINY, credit="leave_one_out", average="sum", beta=0.05),
    "cispo": replace(_TINY, surrogate="cispo", average="decisions", clip=1.0, clip_high=4.0, beta=0.0),
    "qwen25-vl-3b": Settings(
        model=replace(QWEN25_VL_3B, max_new_tokens=512, lora_rank=64, max_pixels=1_003_520),
        task=AnsweringTask(questions="train.jsonl", held_out="test.jsonl"), template="think",
        steps=1000, prompts_per_step=64, lr=1e-5, warmup=1, micro_rows=8, evaluate_every=100, save_every=100,
    ),
}  # fmt: skip


def policies(cfg: Settings) -> dict[str, TokenPolicy]:
    """The model that answers."""
    return {"policy": build(cfg.model, asking(cfg.template), cfg.seed)}


def train(cfg: Settings, run: Run) -> dict[str, dict[str, float]]:
    """Train, evaluate, save. Returns the scores of held-out questions before and after."""
    if cfg.draws > 1 and cfg.model.sharded:
        raise ValueError(
            f"draws {cfg.draws}: processes draw until each has enough, but sharded networks must be called in step"
        )
    policy = policies(cfg)["policy"]
    reference = Snapshot(policy.trained)
    questions = cfg.task.training(cfg.seed)
    # DAPO takes up to 1 from rewards of -1 and 1; right answers earn 1 and wrong ones 0 here, so half of it is taken.
    overlong = lambda rollout: Overlong(cfg.model.max_new_tokens, cfg.overlong)(rollout) / 2

    def judged(rollout: Rollout) -> Tensor:
        rollout.rewards["right"] = cfg.task.judge(rollout)
        return rollout.rewards["right"]

    def rounds(problems: Sequence[Problem], seeds_P: Tensor) -> Iterator[tuple[Sequence[Problem], Tensor]]:
        yield problems, seeds_P
        for again in range(1, cfg.draws):
            fresh_P = spawn(seeds_P, again)
            yield [questions[seed % len(questions)] for seed in fresh_P.tolist()], fresh_P

    def collect(problems: Sequence[Problem], seeds_P: Tensor, step: int) -> Rollout:
        attempt = partial(in_groups, policy.rollout, group=cfg.group)
        if cfg.draws > 1:
            drawn = until_telling(attempt, judged, rounds(problems, seeds_P), len(problems))
            rollout = join(drawn.parts)
            run.log(step + 1, {"cost/generated": drawn.generated})
        else:
            rollout = attempt(problems, seeds_P)
            judged(rollout)
        reward_B = rollout.rewards["right"] + (overlong(rollout) if cfg.overlong else 0)
        rollout.rewards["total"] = shuffled(reward_B, int(seeds_P[0])) if cfg.shuffle_rewards else reward_B
        rollout.advantage_BT = rollout.credit(credit(cfg, rollout))
        if cfg.beta:
            remember_reference(policy, reference, rollout, cfg.micro_rows)
        return rollout

    objective = PolicyGradient(
        policy,
        cfg.clip,
        cfg.clip_high,
        cfg.beta,
        "k3",
        cfg.average,
        cfg.model.max_new_tokens,
        SURROGATES[cfg.surrogate],
        cfg.ratio,
    )
    update = Update(
        "words",
        objective,
        policy.trained,
        torch.optim.AdamW(policy.trained, lr=cfg.lr, weight_decay=0.0),
        schedule=warmup(cfg.warmup),
    )
    return run_loop(
        OnPolicy(questions, collect, cfg.prompts_per_step, cfg.seed),
        Updates([update], minibatches=cfg.minibatches, micro_rows=cfg.micro_rows),
        run,
        cfg.steps,
        state={"policy": policy, "reference": reference},
        evaluate=lambda step: cfg.task.score(policy.greedy().rollout, run.show(step)),
        evaluate_every=cfg.evaluate_every,
        save_every=cfg.save_every,
    )


def credit(cfg: Settings, rollout: Rollout) -> Tensor:
    """What each attempt scored above the others at its question ``[B]``."""
    reward, group_B = rollout.rewards["total"], rollout.group_B
    if cfg.credit == "leave_one_out":
        return leave_one_out(reward, group_B)
    return group_advantage(reward, group_B, scale=cfg.credit, unbiased=True, all_sum=distributed.all_sum)


evaluate, sample = task.evaluate, task.sample


KIN = ("dr-grpo", "dapo", "gspo", "rloo", "cispo")
ARMS = {"grpo": _TINY, "shuffled rewards": replace(_TINY, shuffle_rewards=True)} | {name: PRESETS[name] for name in KIN}


RIGHT = "held out, exact"
CLAIMS = (
    Claim(
        "held-out answers are right 3 points more often than the untrained model's",
        lambda arm: gain(arm["grpo"], RIGHT),
        least=0.03,
    ),
    Claim(
        "with shuffled rewards they gain less than half of that",
        lambda arm: gain(arm["grpo"], RIGHT) / 2 - gain(arm["shuffled rewards"], RIGHT),
    ),
    Claim(
        "each of its kin gains at least 1 point", lambda arm: min(gain(arm[name], RIGHT) for name in KIN), least=0.01
    ),
)
