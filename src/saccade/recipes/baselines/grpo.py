"""GRPO on answers: groups of samples at one question, each compared with the others, and its kin as presets.

paper: DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models, arXiv 2402.03300; Dr. GRPO
    2503.20783, DAPO 2503.14476, GSPO 2507.18071, RLOO 2402.14740, CISPO 2506.13585.
idea: The advantage of an answer is its reward above the mean of the other answers to the same question, so no critic is
    needed. Dr. GRPO leaves out the standard deviation and divides by a constant length; DAPO clips higher upwards,
    samples groups until their rewards differ and penalizes overlong answers; GSPO has one ratio an answer; RLOO
    compares with the other samples alone.
claims: Held-out questions are answered correctly more often than by the untrained model, with shuffled rewards they are
    not; each of its kin gains too.
differs: Correct answers earn 1 and wrong ones 0, where DAPO's earn 1 and -1; its length penalty is halved with them.
    RLOO's KL term is in the loss, not in the reward. All have the learning rate of GRPO. In the check 60 steps gain
    0.025, 0.016 and 0.004: the miniature names every colour from the start, learns to count, and not to relate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from saccade.algorithms.grpo import GRPO, dynamic_sampling
from saccade.config import Count
from saccade.core import Problem, Rollout, Run
from saccade.evaluation.templates import Template, prompt_template
from saccade.math.advantages import shuffle_rewards
from saccade.models.snapshot import Snapshot
from saccade.policies.token_presets import QWEN25_VL_3B
from saccade.policies.tokens import TokenModel, TokenPolicy, build_token_policy
from saccade.random import stream
from saccade.rewards.text.length import Overlong
from saccade.training.claims import Claim, gain
from saccade.training.feeds import join
from saccade.training.loop import fit
from saccade.training.settings import AdamW, Batch, Flat, Schedule
from saccade.worlds.questions import task
from saccade.worlds.questions.task import AnsweringTask


@dataclass(frozen=True)
class Settings:
    """GRPO on answers; the defaults are the embedded miniature's."""

    schedule: Flat[Schedule] = Schedule(steps=60, evaluate_every=20, save_every=20)
    batch: Flat[Batch] = Batch(prompts_per_step=16, group_size=8, minibatches=2, micro_rows=128)
    seed: int = 0
    """Seed of questions, sampled tokens and initial LoRA weights."""
    model: TokenModel = TokenModel(max_new_tokens=16)
    task: AnsweringTask = AnsweringTask()
    template: Template = "plain"
    """Form of the answer that the prompt asks for: plain, in answer tags, or thoughts and answer in tags."""
    grpo: GRPO = GRPO(unbiased_std=True, average="rows", beta=0.04)
    optim: AdamW = AdamW(lr=1e-4, warmup=5)
    sampling_rounds: Count = 1
    """Rounds of new questions that are sampled until the rewards of enough groups differ (DAPO); 1 takes what comes."""
    overlong: int = 0
    """Tokens before the longest answer over which the length penalty grows to -1/2 (DAPO); 0 has no penalty."""
    shuffle_rewards: bool = False
    """Control experiment: permute the rewards of a batch at random, so that nothing can be learned."""


_TINY = Settings()
_CLIPPED = replace(_TINY.grpo, beta=0.0)
PRESETS = {
    "tiny": _TINY,
    "dr-grpo": replace(_TINY, grpo=replace(_CLIPPED, std="none", adv_clip=None, average="constant")),
    "dapo": replace(_TINY, grpo=replace(_CLIPPED, average="decisions", clip_high=0.28), sampling_rounds=4, overlong=4),
    "gspo": replace(_TINY, grpo=replace(_CLIPPED, ratio="row", clip=3e-4, clip_high=4e-4)),
    "rloo": replace(_TINY, grpo=replace(_TINY.grpo, baseline="leave_one_out", average="sum", beta=0.05)),
    "cispo": replace(_TINY, grpo=replace(_CLIPPED, surrogate="cispo", average="decisions", clip=1.0, clip_high=4.0)),
    "qwen25-vl-3b": Settings(
        schedule=Schedule(steps=1000, evaluate_every=100, save_every=100),
        batch=Batch(prompts_per_step=64, group_size=8, minibatches=2, micro_rows=8),
        model=replace(QWEN25_VL_3B, max_new_tokens=512, lora_rank=64, max_pixels=1_003_520),
        task=AnsweringTask(questions="train.jsonl", held_out="test.jsonl"),
        template="think",
        optim=AdamW(lr=1e-5, warmup=1),
    ),
}


def policies(cfg: Settings) -> dict[str, TokenPolicy]:
    """The model that answers."""
    return {"policy": build_token_policy(cfg.model, prompt_template(cfg.template), cfg.seed)}


def train(cfg: Settings, run: Run) -> dict[str, dict[str, float]]:
    """Train, evaluate, save. Returns the scores of held-out questions before and after."""
    policy = policies(cfg)["policy"]
    reference, questions = Snapshot(policy.trained), cfg.task.training(cfg.seed)

    def collect(problems: Sequence[Problem], seeds_P: Tensor, step: int) -> Rollout:
        rollout = sampled(cfg, policy, questions, problems, seeds_P, run, step)
        reward = total_reward(cfg, rollout, seeds_P)
        rollout.advantage_BT = rollout.broadcast(cfg.grpo.advantage(reward, rollout.group_B))
        return cfg.grpo.with_reference(rollout, policy, reference, cfg.batch.micro_rows)

    update = cfg.optim.update("words", cfg.grpo.loss(policy, cfg.model.max_new_tokens), policy.trained)
    return fit(
        cfg.batch.feed(questions, collect, cfg.seed),
        cfg.batch.learner(update),
        run,
        cfg.schedule,
        state={"policy": policy, "reference": reference},
        evaluate=lambda step: cfg.task.score(policy.greedy().rollout, run.show(step)),
    )


def sampled(
    cfg: Settings,
    policy: TokenPolicy,
    questions: Sequence[Problem],
    problems: Sequence[Problem],
    seeds_P: Tensor,
    run: Run,
    step: int,
) -> Rollout:
    """Groups of answers to the questions of a step, judged; with dynamic sampling only groups whose rewards differ."""
    sample = lambda asked, seeds: cfg.batch.groups(policy.rollout, asked, seeds)
    judge = lambda rollout: rollout.rewards.setdefault("right", cfg.task.judge(rollout))
    if cfg.sampling_rounds == 1:
        rollout = sample(problems, seeds_P)
        judge(rollout)
        return rollout
    if cfg.model.sharded:
        raise ValueError(f"sampling_rounds {cfg.sampling_rounds}: sharded networks must be called in step, so 1 round")
    drawn = dynamic_sampling(sample, judge, rounds(cfg, questions, problems, seeds_P), len(problems))
    run.log(step + 1, {"cost/generated": drawn.generated})
    return join(drawn.parts)


def rounds(
    cfg: Settings, questions: Sequence[Problem], problems: Sequence[Problem], seeds_P: Tensor
) -> Iterator[tuple[Sequence[Problem], Tensor]]:
    """The questions of the step, then fresh ones for each further round of dynamic sampling."""
    yield problems, seeds_P
    for again in range(1, cfg.sampling_rounds):
        drawn_P = stream(seeds_P, "question", again).tolist()
        yield [questions[number % len(questions)] for number in drawn_P], stream(seeds_P, "round", again)


def total_reward(cfg: Settings, rollout: Rollout, seeds_P: Tensor) -> Tensor:
    """The judge's reward and the length penalty, kept as ``rewards["total"]`` ``[B]``."""
    reward = rollout.rewards["right"]
    if cfg.overlong:
        # DAPO takes up to 1 from rewards of -1 and 1; correct answers earn 1 and wrong ones 0 here, so half of it is
        # taken.
        reward = reward + Overlong(cfg.model.max_new_tokens, cfg.overlong)(rollout) / 2
    rollout.rewards["total"] = shuffle_rewards(reward, int(seeds_P[0])) if cfg.shuffle_rewards else reward
    return rollout.rewards["total"]


evaluate, sample = task.evaluate, task.sample


KIN = ("dr-grpo", "dapo", "gspo", "rloo", "cispo")
_VARIANTS = {"grpo": _TINY, "shuffled rewards": replace(_TINY, shuffle_rewards=True)} | {
    name: PRESETS[name] for name in KIN
}
ARMS = {name: replace(cfg, task=replace(cfg.task, held_out_size=2048)) for name, cfg in _VARIANTS.items()}


RIGHT = "held out, exact"
CLAIMS = (
    Claim(
        "held-out answers are right more often than the untrained model's",
        lambda arm: gain(arm["grpo"], RIGHT),
    ),
    Claim(
        "with shuffled rewards they gain less than half of that",
        lambda arm: gain(arm["grpo"], RIGHT) / 2 - gain(arm["shuffled rewards"], RIGHT),
        origin="sanity",
    ),
    Claim("each of its variants gains too", lambda arm: min(gain(arm[name], RIGHT) for name in KIN), origin="design"),
)
