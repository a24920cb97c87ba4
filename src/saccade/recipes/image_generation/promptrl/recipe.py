"""PromptRL: a language model that rewrites prompts and a flow model that generates pictures, trained together.

paper: PromptRL: Prompt Matters in RL for Flow-Based Image Generation, arXiv 2602.01382.
idea: In each group a few pictures are generated from the user's prompt and the others from rewrites of it. All are
    scored against the original prompt and compared with one another, so the flow model learns from varied wordings
    while the language model learns which wordings are generated well. The two share a reward and no gradient.
claims: The same reward after half the rollouts of flow-only training; less loss of reward under paraphrased prompts;
    keeping two original prompts a group is better, without a rewriter, than keeping none.
differs: Original prompts are retained in every mode (the release has them for editing alone). A rewrite without an
    answer tag is replaced by the original prompt. Each policy has its own optimizer and gradient norm. In the check,
    which samples without guidance, flow-only training does not come to depend on its wording within 3,840 pictures (it
    loses 0.03 of 0.32 under paraphrase, the untrained base nothing), so there is little that the second claim could
    save. The rewriter also exploits the partial credit of the reward: it may drop an object that would be generated
    badly. So the strict score is reported beside it (one seed: 0.08 for the base, 0.16 after training, 0.22 rewritten).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import torch
from torch import Tensor

from saccade.algorithms.grpo import GRPO
from saccade.core import LogSamples, Problem, ProblemScores, Rollout, Run
from saccade.models.snapshot import Snapshot
from saccade.policies.flow import FlowModel, FlowPolicy, build_flow_policy
from saccade.policies.flow_presets import FLUX1_DEV, SD35_MEDIUM, require_window
from saccade.policies.token_presets import QWEN25_VL_3B
from saccade.policies.tokens import TokenModel, TokenPolicy, build_token_policy
from saccade.recipes.image_generation.promptrl.rewriting import (
    format_reward,
    generate_rewritten,
    rewriting_prompt,
    sample_rewrites,
    score_rewritten,
    with_rewrites,
)
from saccade.training.claims import Claim
from saccade.training.groups import repeat_for_groups
from saccade.training.learner import Update, index_in_group
from saccade.training.loop import fit
from saccade.training.settings import AdamW, Batch, Flat, Schedule
from saccade.worlds.shapes.task import OCR, DrawingTask, pictures_of

INSTRUCTION = (
    "Rewrite this prompt for an image generator so that it is drawn exactly as meant."
    " Put the new prompt between <answer> and </answer>.\n"
)


@dataclass(frozen=True)
class Settings:
    """PromptRL; the defaults are the embedded miniatures'."""

    schedule: Flat[Schedule] = Schedule(steps=120, evaluate_every=30, save_every=30)
    batch: Flat[Batch] = Batch(prompts_per_step=8, group_size=8, micro_rows=64)
    seed: int = 0
    """Seed of prompts, noise, sampled tokens and initial LoRA weights."""
    flow: FlowModel = FlowModel()
    rewriter: TokenModel = TokenModel("qwen2-rewriter", max_new_tokens=32)
    task: DrawingTask = DrawingTask()
    instruction: str = ""
    """Text before each prompt that is to be rewritten; the miniature rewrites without an instruction."""
    retained: int = 2
    """Pictures of a group generated from the original prompt; with `group_size` of them there is no rewriter."""
    train_flow: bool = True
    """Train the flow model; off trains the rewriter alone, with pictures sampled along the ODE."""
    format_weight: float = 1.0
    """Weight of the format reward: 1 for a rewrite with an answer between its tags, else 0."""
    window: int = 3
    """Number of denoising steps, the first ones, that are stochastic and trained."""
    flow_grpo: GRPO = GRPO(clip=1e-4, beta=0.01, kl="variance")
    rewriter_grpo: GRPO = GRPO(clip=math.inf, beta=0.01, average="rows")
    flow_optim: AdamW = AdamW(lr=1.5e-4, warmup=5)
    rewriter_optim: AdamW = AdamW(lr=3e-4, warmup=5)

    def __post_init__(self) -> None:
        require_window(self.window, self.flow)
        if self.retained > self.batch.group_size:
            raise ValueError(f"retained {self.retained} is more than the {self.batch.group_size} pictures of a group")


_REAL = Settings(
    schedule=Schedule(steps=1000, evaluate_every=30, save_every=30),
    batch=Batch(prompts_per_step=7, group_size=8, micro_rows=1, micro_decisions=4),
    flow=replace(SD35_MEDIUM, sampling_steps=20, guidance=4.5, noise=0.8),
    rewriter=replace(QWEN25_VL_3B, max_new_tokens=512),
    task=OCR,
    instruction=INSTRUCTION,
    window=10,
    flow_optim=AdamW(lr=2e-7, warmup=1),
    rewriter_optim=AdamW(lr=1e-6, warmup=1),
)
PRESETS = {
    "tiny": Settings(),
    "flux1-dev": replace(_REAL, flow=replace(FLUX1_DEV, sampling_steps=20, noise=0.8)),
    "sd35-medium": _REAL,
}


class Policies(TypedDict):
    """The model that generates pictures and the model that rewrites prompts."""

    policy: FlowPolicy
    rewriter: TokenPolicy


def policies(cfg: Settings) -> Policies:
    """The model that generates pictures and the model that rewrites prompts."""
    stochastic = range(cfg.window) if cfg.train_flow else ()
    return {
        "policy": build_flow_policy(cfg.flow, stochastic, cfg.seed),
        "rewriter": build_token_policy(cfg.rewriter, rewriting_prompt(cfg.instruction), cfg.seed),
    }


def train(cfg: Settings, run: Run) -> dict[str, dict[str, float]]:
    """Train both, evaluate, save. Returns the scores of held-out prompts before and after."""
    both = policies(cfg)
    policy, rewriter = both["policy"], both["rewriter"]
    reference, rewriter_reference = Snapshot(policy.trained), Snapshot(rewriter.trained)

    def collect(problems: Sequence[Problem], seeds_P: Tensor, step: int) -> dict[str, Rollout]:
        originals, seeds_B, group_B = repeat_for_groups(problems, seeds_P, cfg.batch.group_size)
        rows = torch.nonzero(index_in_group(group_B) < cfg.batch.group_size - cfg.retained).flatten()
        rewrites = sample_rewrites(rewriter, originals, seeds_B, group_B, rows)
        images = policy.rollout(with_rewrites(originals, rewrites, rows), seeds_B)
        images.group_B = group_B
        reward = cfg.task.judge(images) + cfg.format_weight * format_reward(rewrites, rows, group_B)
        images.rewards["total"] = reward
        images.advantage_BT = images.broadcast(cfg.flow_grpo.advantage(reward, group_B))
        if cfg.train_flow:
            cfg.flow_grpo.with_reference(images, policy, reference, cfg.batch.micro_rows)
        if rewrites is None:
            return {"images": images}
        rewrites.advantage_BT = rewrites.broadcast(cfg.rewriter_grpo.advantage(reward, group_B)[rows])
        cfg.rewriter_grpo.with_reference(rewrites, rewriter, rewriter_reference, cfg.batch.micro_rows)
        return {"rewrites": rewrites, "images": images}

    return fit(
        cfg.batch.feed(cfg.task.training(cfg.seed), collect, cfg.seed),
        cfg.batch.learner(*updates(cfg, policy, rewriter)),
        run,
        cfg.schedule,
        state={
            "policy": policy,
            "rewriter": rewriter,
            "reference": reference,
            "rewriter_reference": rewriter_reference,
        },
        evaluate=lambda step: score(cfg, both, run.show(step)),
    )


def updates(cfg: Settings, policy: FlowPolicy, rewriter: TokenPolicy) -> list[Update]:
    """The rewriter's update, then the flow model's; a model that is not trained has none."""
    chosen = []
    if cfg.retained < cfg.batch.group_size:
        loss = cfg.rewriter_grpo.loss(rewriter, cfg.rewriter.max_new_tokens)
        chosen.append(cfg.rewriter_optim.update("words", loss, rewriter.trained, on="rewrites"))
    if cfg.train_flow:
        chosen.append(cfg.flow_optim.update("flow", cfg.flow_grpo.loss(policy), policy.trained, on="images"))
    return chosen


def score(cfg: Settings, policies: Policies, show: LogSamples | None = None) -> ProblemScores:
    """Rewards of held-out prompts in their original wording and, where there is a rewriter, rewritten."""
    generate = policies["policy"].greedy().rollout
    scores = cfg.task.score(generate, show)
    if cfg.retained == cfg.batch.group_size:
        return scores
    rewritten = score_rewritten(cfg.task, policies["rewriter"], generate, show)
    return scores | {f"{name}, rewritten": value for name, value in rewritten.items()}


def evaluate(cfg: Settings, policies: Policies) -> ProblemScores:
    """Rewards of held-out prompts, sampled greedily; the same prompts and noise each time."""
    return score(cfg, policies)


def sample(cfg: Settings, policies: Policies, prompts: Sequence[str], seeds_B: Tensor) -> list[dict[str, Any]]:
    """One picture for each prompt, rewritten first where there is a rewriter."""
    generate = policies["policy"].greedy().rollout
    if "rewriter" not in policies or cfg.retained == cfg.batch.group_size:
        return pictures_of(generate, prompts, seeds_B)
    problems = [Problem(i, prompt) for i, prompt in enumerate(prompts)]
    rollout, texts = generate_rewritten(policies["rewriter"], generate, problems, seeds_B)
    return [{"prompt": p, "text": t, "image": x} for p, t, x in zip(prompts, texts, rollout.outputs)]


_CHECK = Settings(schedule=Schedule(steps=60, evaluate_every=30, save_every=30), task=DrawingTask(held_out_size=192))
ARMS = {
    "promptrl": _CHECK,
    "flow only": replace(_CHECK, retained=_CHECK.batch.group_size),
    "nothing retained": replace(_CHECK, retained=0),
}

CLAIMS = (
    Claim(
        "with its rewriter it reaches at half the rollouts what flow-only training reaches with all",
        lambda arm: arm["promptrl"]["held out, rewritten@30"] - arm["flow only"]["held out@60"],
    ),
    Claim(
        "it loses less under paraphrased prompts",
        lambda arm: paraphrase_loss(arm["flow only"]) - paraphrase_loss(arm["promptrl"]),
    ),
    Claim(
        "without the rewriter, retaining two original prompts a group beats retaining none",
        lambda arm: arm["promptrl"]["held out"] - arm["nothing retained"]["held out"],
    ),
)


def paraphrase_loss(scores: Mapping[str, float]) -> float:
    """How much the reward falls when prompts are paraphrased."""
    return scores["held out"] - scores["paraphrase"]
