"""DPO and GRPO on image tokens at equal cost, with rewards that generalize well and badly.

paper: Delving into RL for Image Generation with CoT: A Study on DPO vs. GRPO, arXiv 2505.17017.
idea: A picture generated token by token is one long chain of decisions, so both algorithms of language models apply:
    DPO learns from the best and the worst of several pictures of the base model, GRPO from all pictures of the current
    policy.
claims: DPO is better on prompts like those trained on, GRPO on others; a reward model that generalizes better by itself
    makes the policy generalize better.
differs: The embedded policy generates 64 codes of a picture of 32 px. Prompts are those of the world of shapes: long
    ones about attribute binding and position against short ones of all kinds, with other combinations. HPS, ImageReward
    and UnifiedReward are replaced by the world's judge and two small dual encoders, trained on prompts of both domains
    or of the first alone. GRPO's ratio is 1 at every update, as in the study. Sampling is without guidance: with a
    scale of 3 codes come from other probabilities than those of the prompt alone, which are trained, and neither method
    gained (seed 11 at 3e-5: DPO 0.004, GRPO -0.011). Of 3e-5, 1e-4 and 3e-4 both gained most at 1e-4 without it, 0.032
    and 0.031; at 3e-4 neither did. Scores are the judge's points. The dual encoders are trained on rendered scenes, not
    on preferences of people. In the check arms end within -0.03 and 0.05 of the base in domain, and DPO 0.01 ahead of
    GRPO there and elsewhere; the order of rewards is lost in that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor

from saccade.algorithms.dpo import PreferenceLoss, make_pairs
from saccade.algorithms.grpo import GRPO, PolicyGradient
from saccade.config import Count
from saccade.core import NothingJudged, Problem, ProblemScores, Reward, Rollout, Run
from saccade.evaluation.best_of import BestOf
from saccade.models.snapshot import Snapshot
from saccade.policies.image_tokens import ImageTokenModel, ImageTokenPolicy, build_image_token_policy
from saccade.recipes.image_generation.dpo_vs_grpo.domains import DomainsTask, dual_encoder_reward
from saccade.recipes.image_generation.dpo_vs_grpo.dual_encoder import DualEncoderModel
from saccade.rewards.registry import reward
from saccade.rewards.rubric import judge
from saccade.training import distributed
from saccade.training.claims import Arms, Claim, Precondition, gain
from saccade.training.feeds import OnPolicy, RegeneratedFeed, cached_rollout, join
from saccade.training.loop import fit
from saccade.training.settings import AdamW, Batch, Flat, Schedule
from saccade.worlds.shapes import task


@dataclass(frozen=True)
class PreferencePairs:
    """How DPO's pairs are made and learned from."""

    beta: float = 0.1
    """Strength of the KL constraint to the reference, on log-probs summed over codes."""
    rounds: Count = 1
    """Number of rounds; in each the reference becomes the current policy and samples new pairs."""
    min_gap: float = 0.0
    """Pairs are used where the rewards of the two pictures differ by more than this."""
    folder: str = ""
    """Folder that pairs are written to, and read from if an earlier run has written them (offline training)."""


@dataclass(frozen=True)
class Settings:
    """DPO and GRPO on image tokens; the defaults are the embedded miniature's."""

    schedule: Flat[Schedule] = Schedule(steps=60, evaluate_every=30, save_every=30)
    batch: Flat[Batch] = Batch(prompts_per_step=40, group_size=4, micro_rows=80)
    seed: int = 0
    """Seed of prompts, sampled codes, dual encoders and initial LoRA weights."""
    model: ImageTokenModel = ImageTokenModel(guidance=1.0)
    task: DomainsTask = DomainsTask()
    method: Literal["grpo", "dpo"] = "grpo"
    """Learning rule: GRPO on all sampled pictures, or DPO on pairs of the best and the worst, sampled in advance."""
    reward: str = "shapes"
    """Training reward: a name, FILE.py:FUNCTION, or dual_encoder, dual_encoder_in_domain, which are trained first."""
    dual_encoder: DualEncoderModel = DualEncoderModel()
    grpo: GRPO = GRPO(unbiased_std=True, beta=0.01)
    dpo: PreferencePairs = PreferencePairs()
    optim: AdamW = AdamW(lr=1e-4, weight_decay=0.01, warmup=5)
    candidates: Count = 4
    """Pictures of which the one with the highest reward is scored, before training; 1 for none."""


_REAL = Settings(
    schedule=Schedule(steps=1600, evaluate_every=200, save_every=100),
    batch=Batch(prompts_per_step=8, group_size=8, micro_rows=4),
    model=ImageTokenModel("deepseek-community/Janus-Pro-1B", guidance=5.0, precision="bfloat16", checkpointing=True),
    task=DomainsTask("t2i_compbench_train.txt", "t2i_compbench_val.txt", "geneval.jsonl", scorer="rewards.py:scorer"),
    reward="rewards.py:hps",
    optim=AdamW(lr=1e-6, weight_decay=0.01, warmup=5),
)
PRESETS = {
    "tiny": Settings(),
    "janus-pro-1b": _REAL,
    "janus-pro-1b-dpo": replace(_REAL, method="dpo", optim=replace(_REAL.optim, lr=1e-5)),
    "janus-pro-7b": replace(
        _REAL,
        model=replace(_REAL.model, name="deepseek-community/Janus-Pro-7B", sharded=True),
        batch=replace(_REAL.batch, micro_rows=2),
    ),
}


def policies(cfg: Settings) -> dict[str, ImageTokenPolicy]:
    """The model that generates pictures."""
    return {"policy": build_image_token_policy(cfg.model, seed=cfg.seed)}


def train(cfg: Settings, run: Run) -> dict[str, dict[str, float]]:
    """Train, evaluate, save. Returns the scores of held-out prompts before and after."""
    steps, rounds = cfg.schedule.steps, cfg.dpo.rounds
    if steps % rounds:
        raise ValueError(f"{steps} steps cannot be cut into {rounds} rounds of equal length")
    policy = policies(cfg)["policy"]
    reference, training_reward = Snapshot(policy.trained), build_reward(cfg, policy)
    feed, loss = {"grpo": grpo, "dpo": dpo}[cfg.method](cfg, policy, reference, training_reward, run)

    def counted(step: int) -> Rollout:
        batch = cast(Rollout, feed(step))
        run.log(step + 1, {"cost/trained_codes": batch.logp_BT.numel()})
        return batch

    def update_reference(taken: int) -> None:
        if taken % (steps // rounds) == 0:
            reference.update(0.0)

    def evaluate(step: int) -> ProblemScores:
        scores = cfg.task.score(policy.rollout, run.show(step))
        return scores | (best_of_scores(cfg, policy, training_reward) if step == 0 else {})

    update = cfg.optim.update(cfg.method, loss, policy.trained, after=update_reference)
    state = {"policy": policy, "reference": reference}
    return fit(counted, cfg.batch.learner(update), run, cfg.schedule, state=state, evaluate=evaluate)


def grpo(
    cfg: Settings, policy: ImageTokenPolicy, reference: Snapshot, training_reward: Reward, run: Run
) -> tuple[OnPolicy, PolicyGradient]:
    """GRPO: new pictures of the current policy each step, with advantages within their groups."""

    def collect(problems: Sequence[Problem], seeds_P: Tensor, step: int) -> Rollout:
        rollout = judge(cfg.batch.groups(policy.rollout, problems, seeds_P), {"total": training_reward})
        advantage_B = cfg.grpo.advantage(rollout.rewards["total"], rollout.group_B)
        rollout.advantage_BT = rollout.broadcast(advantage_B)
        if cfg.grpo.beta:
            run.log(step + 1, {"cost/reference_codes": rollout.logp_BT.numel()})
        run.log(step + 1, sampling_metrics(policy, [rollout]))
        return cfg.grpo.with_reference(rollout, policy, reference, cfg.batch.micro_rows)

    feed = cfg.batch.feed(cfg.task.training(cfg.seed), collect, cfg.seed)
    return feed, cfg.grpo.loss(policy, policy.image_generator.codes_per_picture)


def dpo(
    cfg: Settings, policy: ImageTokenPolicy, reference: Snapshot, training_reward: Reward, run: Run
) -> tuple[RegeneratedFeed, PreferenceLoss]:
    """DPO: pairs of pictures of the reference, as many in a round as GRPO samples in its steps."""
    length = cfg.schedule.steps // cfg.dpo.rounds
    collect = lambda problems, seeds_P, step: cfg.batch.groups(policy.rollout, problems, seeds_P)
    source = cfg.batch.feed(cfg.task.training(cfg.seed), collect, cfg.seed)

    def sample_pairs(round: int) -> Rollout:
        steps = range(round * length, (round + 1) * length)
        with reference:
            rollouts = [judge(cast(Rollout, source(step)), {"total": training_reward}) for step in steps]
        pairs = join([make_pairs(rollout, rollout.rewards["total"], cfg.dpo.min_gap) for rollout in rollouts])
        if not len(pairs):
            raise NothingJudged(
                f"in no group do rewards '{cfg.reward}' differ by more than {cfg.dpo.min_gap}: there are no pairs"
            )
        pairs.extras["reference_logp_BT"] = pairs.logp_BT  # the reference sampled them
        metrics = {"cost/images": sum(map(len, rollouts)), "health/pairs": len(pairs) / 2}
        run.log(steps.start + 1, metrics | sampling_metrics(policy, rollouts))
        return pairs

    def pairs_of(round: int) -> Rollout:
        make = lambda: sample_pairs(round)
        return cached_rollout(Path(cfg.dpo.folder), round, make) if cfg.dpo.folder else make()

    rows = len(distributed.shard(range(cfg.batch.prompts_per_step))) * cfg.batch.group_size
    feed = RegeneratedFeed(pairs_of, length, rows, cfg.seed, pair_size=2)
    return feed, PreferenceLoss(policy, cfg.dpo.beta)


def sampling_metrics(policy: ImageTokenPolicy, rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Codes that went through the model in sampling, and entropies under the prompt alone and under guidance."""
    passes = 1 if policy.guidance == 1 else 2
    mean = lambda name: float(torch.cat([rollout.extras[name] for rollout in rollouts]).mean())
    return {
        "cost/sampled_codes": passes * sum(rollout.logp_BT.numel() for rollout in rollouts),
        "health/entropy": mean("entropy_B"),
        "health/guided_entropy": mean("guided_entropy_B"),
    }


def build_reward(cfg: Settings, policy: ImageTokenPolicy) -> Reward:
    """The training reward; dual encoders are trained on pictures that are reconstructed from the policy's codes."""
    both_domains = {"dual_encoder": True, "dual_encoder_in_domain": False}
    if cfg.reward not in both_domains:
        return reward(cfg.reward, also=list(both_domains))
    generator = policy.image_generator
    reconstruct = lambda pictures: generator.decode_pictures(generator.encode_pictures(pictures))
    return dual_encoder_reward(
        cfg.dual_encoder, both_domains[cfg.reward], generator.picture_size, cfg.seed, reconstruct
    )


def best_of_scores(cfg: Settings, policy: ImageTokenPolicy, training_reward: Reward) -> ProblemScores:
    """Scores of the picture with the highest reward of several: how well the reward itself generalizes."""
    if cfg.candidates == 1:
        return {}
    scores = cfg.task.score(BestOf(policy.rollout, training_reward, cfg.candidates), rows=32)
    return {f"{name}, best of {cfg.candidates}": value for name, value in scores.items()}


evaluate, sample = task.evaluate, task.sample


_CHECK = Settings(schedule=Schedule(steps=60, evaluate_every=60, save_every=30))
_REWARDS = {"program": "shapes", "dual encoder": "dual_encoder", "in domain": "dual_encoder_in_domain"}
ARMS = {
    f"{method}, {name}": replace(_CHECK, method=method, reward=by)
    for method in ("dpo", "grpo")
    for name, by in _REWARDS.items()
}


def grpo_over_dpo(arm: Arms, score: str) -> float:
    """Score of GRPO minus score of DPO, in the mean over rewards."""
    return sum(arm[f"grpo, {name}"][score] - arm[f"dpo, {name}"][score] for name in _REWARDS) / len(_REWARDS)


def order_margin(arm: Arms, method: str) -> float:
    """Smallest difference out of domain between policies of neighbouring rewards, ranked by how well they select."""
    after = {name: arm[f"{method}, {name}"]["out of domain"] for name in _REWARDS}
    selected = {name: arm[f"{method}, {name}"]["out of domain, best of 4@0"] for name in _REWARDS}
    ranked = sorted(_REWARDS, key=lambda name: selected[name])
    return min(after[better] - after[worse] for worse, better in pairwise(ranked))


MOVED = Precondition(
    "every arm gains 0.08 in domain", lambda arm: min(gain(scores, "in domain") for scores in arm.values()) - 0.08
)
CLAIMS = (
    Claim(
        "out of domain GRPO is ahead of DPO, in the mean over rewards",
        lambda arm: grpo_over_dpo(arm, "out of domain"),
        requires=(MOVED,),
    ),
    Claim("in domain DPO is ahead of GRPO", lambda arm: -grpo_over_dpo(arm, "in domain"), requires=(MOVED,)),
    Claim(
        "the better a reward chooses out of domain among the base's pictures, the better the policy that learned from"
        " it",
        lambda arm: min(order_margin(arm, method) for method in ("dpo", "grpo")),
        requires=(MOVED,),
    ),
)
