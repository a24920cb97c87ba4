"""Supervised fine-tuning on answers: the questions and the model of GRPO, trained on the correct answers themselves.

paper: Training language models to follow instructions with human feedback, arXiv 2203.02155 (its first stage).
idea: Where the correct answer is known, the model can imitate it token by token; nothing is sampled and nothing is
    judged.
claims: Rewards of held-out questions rise above those of the untrained model; with answers permuted at random they do
    not.
differs: A batch holds each question once, with its answer, where GRPO has a group of samples. The target is the answer
    as it stands in the data, without thoughts, between tags where the template asks for them; boxes are written in the
    pixels of the picture as the model is shown it. In the check 240 steps gain 0.037, 0.039 and 0.014 (60 steps, the
    first try: 0.025, 0.035 and 0.012).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from saccade.algorithms.sft import SupervisedLoss, sft_batch
from saccade.config import Count
from saccade.core import Problem, Rollout, Run
from saccade.evaluation.templates import Template, answer_template, prompt_template
from saccade.policies.token_presets import QWEN25_VL_3B
from saccade.policies.tokens import TokenModel, TokenPolicy, build_token_policy
from saccade.random import generator
from saccade.training.claims import Claim, gain
from saccade.training.feeds import OnPolicy
from saccade.training.learner import Updates
from saccade.training.loop import fit
from saccade.training.settings import AdamW, Flat, Schedule
from saccade.worlds.questions import task
from saccade.worlds.questions.task import AnsweringTask


@dataclass(frozen=True)
class Settings:
    """Supervised fine-tuning; the defaults are the embedded miniature's and match those of `grpo`."""

    schedule: Flat[Schedule] = Schedule(steps=60, evaluate_every=20, save_every=20)
    seed: int = 0
    """Seed of the order of questions and of the initial LoRA weights."""
    prompts_per_step: Count = 16
    """Number of different questions in a batch, over all processes."""
    micro_rows: Count = 128
    """Answers that go through the network at once in an update; lower it if memory runs out."""
    model: TokenModel = TokenModel(max_new_tokens=16)
    task: AnsweringTask = AnsweringTask()
    template: Template = "plain"
    """Form of the answer that the prompt asks for and the target has: plain, or in answer tags (think has no data)."""
    average: Literal["decisions", "rows"] = "decisions"
    """How the loss is averaged: over all tokens of the batch, or over the tokens of each answer first."""
    optim: AdamW = AdamW(lr=1e-4, warmup=5)
    shuffle_answers: bool = False
    """Control experiment: permute the answers of a batch at random, so that only their distribution can be learned."""


PRESETS = {
    "tiny": Settings(),
    "qwen25-vl-3b": Settings(
        schedule=Schedule(steps=1000, evaluate_every=100, save_every=100),
        prompts_per_step=64,
        micro_rows=8,
        model=replace(QWEN25_VL_3B, max_new_tokens=512, lora_rank=64, max_pixels=1_003_520),
        task=AnsweringTask(questions="train.jsonl", held_out="test.jsonl"),
        optim=AdamW(lr=1e-5, warmup=1),
    ),
}


def policies(cfg: Settings) -> dict[str, TokenPolicy]:
    """The model that answers."""
    return {"policy": build_token_policy(cfg.model, prompt_template(cfg.template), cfg.seed)}


def train(cfg: Settings, run: Run) -> dict[str, dict[str, float]]:
    """Train, evaluate, save. Returns the scores of held-out questions before and after."""
    policy = policies(cfg)["policy"]

    def collect(problems: Sequence[Problem], seeds_P: Tensor, step: int) -> Rollout:
        targets = permuted_answers(problems, seeds_P) if cfg.shuffle_answers else problems
        return sft_batch(policy, targets, answer_template(cfg.template))

    update = cfg.optim.update("words", SupervisedLoss(policy, cfg.average), policy.trained)
    return fit(
        OnPolicy(cfg.task.training(cfg.seed), collect, cfg.prompts_per_step, cfg.seed),
        Updates([update], micro_rows=cfg.micro_rows),
        run,
        cfg.schedule,
        state={"policy": policy},
        evaluate=lambda step: cfg.task.score(policy.greedy().rollout, run.show(step)),
    )


def permuted_answers(problems: Sequence[Problem], seeds_P: Tensor) -> list[Problem]:
    """The same questions, each with the answer of a random one of them."""
    order = torch.randperm(len(problems), generator=generator(int(seeds_P[0]), "permuted answers")).tolist()
    return [replace(problem, answer=problems[i].answer) for problem, i in zip(problems, order)]


evaluate, sample = task.evaluate, task.sample


_CHECK = Settings(
    schedule=Schedule(steps=240, evaluate_every=240, save_every=20), task=AnsweringTask(held_out_size=2048)
)
ARMS = {"sft": _CHECK, "shuffled answers": replace(_CHECK, shuffle_answers=True)}
CLAIMS = (
    Claim(
        "held-out answers are right more often than the untrained model's",
        lambda arm: gain(arm["sft"], "held out, exact"),
        least=0.0,
        origin="design",
    ),
    Claim(
        "correct answers gain more than answers permuted at random",
        lambda arm: arm["sft"]["held out, exact"] - arm["shuffled answers"]["held out, exact"],
        least=0.0,
        origin="sanity",
    ),
)
