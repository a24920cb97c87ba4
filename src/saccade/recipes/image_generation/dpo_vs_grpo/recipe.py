"""DPO and GRPO on the codes of pictures, at equal cost, with rewards that generalise well and badly.

paper: Delving into RL for Image Generation with CoT: A Study on DPO vs. GRPO, arXiv 2505.17017.
idea: A picture written code by code is one long chain of decisions, so both algorithms of language models apply: DPO
    learns from the best and the worst of several pictures of the base model, GRPO from all pictures of the present one.
claims: DPO is ahead on prompts like those trained on, GRPO on others; a reward model that generalises better by itself
    makes the policy generalise better.
differs: The embedded policy writes 64 codes of a picture of 32 px. Prompts are those of the world of shapes: long ones
    about bindings and places against short ones of all kinds, with other combinations. In place of HPS, ImageReward and
    UnifiedReward stand the world's judge and two small towers, taught on prompts of both domains or of the first alone.
    GRPO's ratio is 1 at every update, as in the study. It draws without guidance: with a scale of 3 codes come from
    other probabilities than those of the prompt alone, which are trained, and neither method gained (seed 11 at 3e-5:
    DPO 0.004, GRPO -0.011). Of 3e-5, 1e-4 and 3e-4 both gained most at 1e-4 without it, 0.032 and 0.031; at 3e-4
    neither did. Scores are the judge's points. Lessons for towers come from rendered scenes, not from people. In the
    check arms end within -0.03 and 0.05 of the base in domain, and DPO 0.01 ahead of GRPO there and elsewhere; the
    order of rewards is lost in that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from saccade.algorithms.dpo import Preference, pairs
from saccade.algorithms.grpo import PolicyGradient, remember_reference
from saccade.core import NothingJudged, Problem, Reward, Rollout
from saccade.evaluation.best_of import BestOf
from saccade.math.advantages import group_advantage
from saccade.models.snapshot import Snapshot
from saccade.policies.image_tokens import ImageTokenModel, ImageTokenPolicy, build
from saccade.recipes.image_generation.dpo_vs_grpo.domains import DomainsTask, towers
from saccade.rewards.registry import reward
from saccade.rewards.rubric import judge
from saccade.training import distributed
from saccade.training.claims import Arms, Claim, gain
from saccade.training.feeds import OnPolicy, Rounds, join, kept
from saccade.training.groups import in_groups
from saccade.training.learner import Update, Updates, warmup
from saccade.training.loop import train as run_loop
from saccade.training.run import Run
from saccade.worlds.shapes import task


@dataclass(frozen=True)
class Settings:
    """DPO and GRPO on image tokens; the defaults are the embedded miniature's."""

    model: ImageTokenModel = ImageTokenModel(guidance=1.0)
    task: DomainsTask = DomainsTask()
    method: Literal["grpo", "dpo"] = "grpo"
    """What learns from the pictures: all of them as they come, or pairs of the best and the worst, made in advance."""
    judged_by: str = "geneval"
    """Reward to train on: by name, FILE.py:FUNCTION, or "towers" and "towers_in_domain", which are taught first."""
    seed: int = 0
    """Seed of everything: prompts, codes, towers, initial LoRA."""
    steps: int = 60
    """Optimiser steps; both methods draw the pictures of so many batches and learn from as many codes."""
    prompts_per_step: int = 40
    """Different prompts in a batch, over all processes."""
    group: int = 4
    """Pictures of each prompt (the sampling axis)."""
    rounds: int = 1
    """How often the reference becomes the present policy, which then draws DPO's pairs (the axis of iterations)."""
    gap: float = 0.0
    """Pairs are kept where the rewards differ by more than this."""
    kept_pairs: str = ""
    """Folder in which DPO's pairs are kept, and taken from if they are there: pairs of an earlier run are learned
    from offline.
    """
    beta_pairs: float = 0.1
    """DPO's beta, on log-probs summed over codes."""
    beta: float = 0.01
    """GRPO's pull to the reference; 0 spares its pass."""
    clip: float = 0.2
    """GRPO's range of the probability ratio."""
    lr: float = 1e-4
    """Learning rate of AdamW."""
    warmup: int = 5
    """Optimiser steps over which the learning rate rises."""
    micro_rows: int = 80
    """Pictures that go through the model at once in an update; an even number."""
    candidates: int = 4
    """Pictures of which the one with the highest reward is scored too, before training; 1 for none."""
    tower_steps: int = 300
    """Batches of pictures and captions that towers are taught with."""
    evaluate_every: int = 30
    save_every: int = 30


_REAL = Settings(
    model=ImageTokenModel("deepseek-community/Janus-Pro-1B", guidance=5.0, precision="bfloat16", checkpointing=True),
    task=DomainsTask("t2i_compbench_train.txt", "t2i_compbench_val.txt", "geneval.jsonl", verdict="rewards.py:verdict"),
    judged_by="rewards.py:hps", steps=1600, prompts_per_step=8, group=8, lr=1e-6, micro_rows=4, evaluate_every=200, save_every=100,
)  # fmt: skip

PRESETS = {
    "tiny": Settings(),
    "janus-pro-1b": _REAL,
    "janus-pro-1b-dpo": replace(_REAL, method="dpo", lr=1e-5),
    "janus-pro-7b": replace(
        _REAL, model=replace(_REAL.model, model="deepseek-community/Janus-Pro-7B", sharded=True), micro_rows=2
    ),
}


def policies(cfg: Settings) -> dict[str, ImageTokenPolicy]:
    """The model that draws."""
    return {"policy": build(cfg.model, seed=cfg.seed)}


def train(cfg: Settings, run: Run) -> dict[str, dict[str, float]]:
    """Train, evaluate, save. Returns the scores of prompts kept back before and after."""
    if cfg.steps % cfg.rounds:
        raise ValueError(f"{cfg.steps} steps cannot be cut into {cfg.rounds} rounds of equal length")
    policy = policies(cfg)["policy"]
    reference, wanted = Snapshot(policy.trained), reward_of(cfg, policy)
    feed, loss = {"grpo": group_relative, "dpo": preferred}[cfg.method](cfg, policy, reference, wanted, run)

    def counted(step: int) -> Rollout:
        batch = feed(step)
        run.log(step + 1, {"cost/trained_codes": batch.logp_BT.numel()})
        return batch

    def settle(taken: int) -> None:
        if taken % (cfg.steps // cfg.rounds) == 0:
            reference.follow(0.0)

    def look(step: int) -> dict[str, float]:
        found = cfg.task.score(policy.rollout, run.show(step))
        return found | (chosen_scores(cfg, policy, wanted) if step == 0 else {})

    optimizer = torch.optim.AdamW(policy.trained, lr=cfg.lr, weight_decay=0.01)
    update = Update(cfg.method, loss, policy.trained, optimizer, schedule=warmup(cfg.warmup), after=settle)
    return run_loop(
        counted,
        Updates([update], micro_rows=cfg.micro_rows),
        run,
        cfg.steps,
        state={"policy": policy, "reference": reference},
        evaluate=look,
        evaluate_every=cfg.evaluate_every,
        save_every=cfg.save_every,
    )


def group_relative(
    cfg: Settings, policy: ImageTokenPolicy, reference: Snapshot, wanted: Reward, run: Run
) -> tuple[OnPolicy, PolicyGradient]:
    """GRPO: fresh pictures of the present policy each step, credit within their group."""

    def collect(problems: Sequence[Problem], seeds_P: Tensor, step: int) -> Rollout:
        rollout = judge(in_groups(policy.rollout, problems, seeds_P, cfg.group), {"total": wanted})
        rollout.advantage_BT = rollout.credit(group_advantage(rollout.rewards["total"], rollout.group_B, unbiased=True))
        if cfg.beta:
            remember_reference(policy, reference, rollout, cfg.micro_rows)
            run.log(step + 1, {"cost/reference_codes": rollout.logp_BT.numel()})
        run.log(step + 1, sampling_facts(policy, [rollout]))
        return rollout

    feed = OnPolicy(cfg.task.training(cfg.seed), collect, cfg.prompts_per_step, cfg.seed)
    return feed, PolicyGradient(policy, cfg.clip, beta=cfg.beta)


def preferred(
    cfg: Settings, policy: ImageTokenPolicy, reference: Snapshot, wanted: Reward, run: Run
) -> tuple[Rounds, Preference]:
    """DPO: pairs from as many pictures of the reference, drawn at the start of a round, as GRPO draws in its course."""
    draw = lambda problems, seeds_P, step: in_groups(policy.rollout, problems, seeds_P, cfg.group)
    source = OnPolicy(cfg.task.training(cfg.seed), draw, cfg.prompts_per_step, cfg.seed)
    length = cfg.steps // cfg.rounds

    def make(round: int) -> Rollout:
        with reference:
            drawn = [judge(source(step), {"total": wanted}) for step in range(round * length, (round + 1) * length)]
        found = join([pairs(rollout, rollout.rewards["total"], cfg.gap) for rollout in drawn])
        if not len(found):
            raise NothingJudged(
                f"in no group do rewards '{cfg.judged_by}' differ by more than {cfg.gap}: there are no pairs"
            )
        found.extras["reference_logp_BT"] = found.logp_BT  # the reference drew them
        facts = {"cost/images": sum(map(len, drawn)), "health/pairs": len(found) / 2}
        run.log(round * length + 1, facts | sampling_facts(policy, drawn))
        return found

    again = lambda round: kept(Path(cfg.kept_pairs), round, lambda: make(round)) if cfg.kept_pairs else make(round)
    rows = len(distributed.share(range(cfg.prompts_per_step))) * cfg.group
    feed = Rounds(again, length, rows, cfg.seed, together=2)
    return feed, Preference(policy, cfg.beta_pairs)


def sampling_facts(policy: ImageTokenPolicy, drawn: Sequence[Rollout]) -> dict[str, float]:
    """Codes that went through the model while pictures were drawn, and the entropies with the prompt alone and as
    drawn.
    """
    passes = 1 if policy.guidance == 1 else 2
    mean = lambda name: float(torch.cat([rollout.extras[name] for rollout in drawn]).mean())
    return {
        "cost/sampled_codes": passes * sum(rollout.logp_BT.numel() for rollout in drawn),
        "health/entropy": mean("entropy_B"),
        "health/guided_entropy": mean("guided_entropy_B"),
    }


def reward_of(cfg: Settings, policy: ImageTokenPolicy) -> Reward:
    """What pictures are judged by; towers are taught on pictures as they come out of the policy's codes."""
    everywhere = {"towers": True, "towers_in_domain": False}
    if cfg.judged_by not in everywhere:
        return reward(cfg.judged_by)
    painter = policy.painter
    seen = lambda pictures: painter.pictures(painter.encode(pictures))
    return towers(everywhere[cfg.judged_by], painter.size, cfg.tower_steps, cfg.seed, seen)


def chosen_scores(cfg: Settings, policy: ImageTokenPolicy, wanted: Reward) -> dict[str, float]:
    """Scores of the picture of several that the reward likes best: how well the reward itself generalises."""
    if cfg.candidates == 1:
        return {}
    found = cfg.task.score(BestOf(policy.rollout, wanted, cfg.candidates), rows=32)
    return {f"{name}, best of {cfg.candidates}": value for name, value in found.items()}


evaluate, sample = task.evaluate, task.sample

_CHECK = Settings(evaluate_every=60)

_JUDGES = {"program": "geneval", "towers": "towers", "in domain": "towers_in_domain"}

ARMS = {
    f"{m}, {name}": replace(_CHECK, method=m, judged_by=by) for m in ("dpo", "grpo") for name, by in _JUDGES.items()
}


def lead(arm: Arms, score: str) -> float:
    """How far GRPO is ahead of DPO, in the mean over rewards."""
    return sum(arm[f"grpo, {name}"][score] - arm[f"dpo, {name}"][score] for name in _JUDGES) / len(_JUDGES)


def disorder(arm: Arms, method: str) -> float:
    """The least lead out of domain of a policy over one whose reward chooses worse among the base's pictures."""
    after = {name: arm[f"{method}, {name}"]["out of domain"] for name in _JUDGES}
    alone = {name: arm[f"{method}, {name}"]["out of domain, best of 4@0"] for name in _JUDGES}
    ranked = sorted(_JUDGES, key=alone.get)
    return min(after[better] - after[worse] for worse, better in zip(ranked, ranked[1:]))


CLAIMS = (
    Claim(
        "out of domain GRPO is ahead of DPO by 0.02, in the mean over rewards",
        lambda arm: lead(arm, "out of domain"),
        least=0.02,
    ),
    Claim(
        "in domain DPO is not behind GRPO",
        lambda arm: -lead(arm, "in domain"),
    ),
    Claim(
        "the better a reward chooses out of domain among the base's pictures, the better the policy that learned from it",
        lambda arm: min(disorder(arm, method) for method in ("dpo", "grpo")),
    ),
    Claim(
        "every arm is ahead of the base by 0.05 in domain",
        lambda arm: min(gain(scores, "in domain") for scores in arm.values()),
        least=0.05,
    ),
)
