"""Diff-Instruct*: a one-step generator tuned to a reward while a score-based divergence holds it to a diffusion.

paper: David and Goliath: Small One-step Model Beats Large Diffusion with Score Post-training (Diff-Instruct*), arXiv
    2410.20898.
idea: A generator of one step is taught by a differentiable reward, and by a divergence from a frozen guided diffusion
    that is taken between their scores along the forward process: its pseudo-Huber norm, with gradients through both
    score networks. A second network learns the generator's own score online. No picture of a data set is used.
claims: At equal reward the pseudo-Huber divergence keeps pictures nearer to real ones, or more diverse, than the
    integral KL of Diff-Instruct++; the best generator has more reward than the guided diffusion in many steps and than
    its own start; without a divergence pictures leave the distribution.
differs: SDXL's network, which predicts noise, is not among our backbones: the preset is of the SD3 class, where a step
    from pure noise is defined. Learning rates, batch, rounding of the norm and weights over time are ours, the paper
    gives none. Products are means over the latent, so the reward's weight is the paper's over the square root of its
    dimensions. The embedded world is ours at 32 px, its one-step start is distilled in the run, its reward a small
    critic taught on rendered scenes; the check has two weights of the reward, its design three. In it DI++ is ahead: at
    equal reward its pictures are as diverse, and nearer to real ones by 0.12, 0.48 and 0.32 of the distance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from saccade.algorithms.dmd import Distilling, ScoreDistillation
from saccade.algorithms.reward_model import Criticism
from saccade.evaluation.scoring import measured
from saccade.policies.flow import FlowModel, FlowPolicy, build
from saccade.policies.flow_presets import SD35_MEDIUM
from saccade.rewards.registry import scorer
from saccade.training.claims import Arms, Claim, Following, Scores
from saccade.training.loop import train as run_loop
from saccade.training.run import Run
from saccade.worlds.shapes import task
from saccade.worlds.shapes.sample_metrics import Survey
from saccade.worlds.shapes.task import DrawingTask


@dataclass(frozen=True)
class Settings:
    """Diff-Instruct*; the defaults are the embedded miniature's."""

    flow: FlowModel = FlowModel(sampling_steps=1)
    task: DrawingTask = DrawingTask()
    criticism: Criticism = Criticism()
    distilling: Distilling = Distilling(score_lr=2e-4)
    scorer: str = "critic"
    """The differentiable reward: critic (taught in the first stage), text_image, or FILE.py:FUNCTION."""
    scorer_model: str = ""
    """Encoders of the scorer text_image: a folder or a hub id."""
    seed: int = 0
    """Seed of everything: prompts, noise, critic."""
    distil_steps: int = 120
    """Steps of the stage that makes a one-step generator of the diffusion by the integral KL; 0 for one that is
    made.
    """
    distil_lr: float = 3e-4
    """Learning rate of that stage, of both networks."""
    steps: int = 120
    """Training steps; each teaches the score network, every ``score_updates``-th the generator too."""
    divergence: Literal["pseudo_huber", "integral_kl", "squared"] = "pseudo_huber"
    """Norm of the difference of scores; integral_kl (Diff-Instruct++) needs through_scores off."""
    kappa: float = 0.03
    """Rounding of the pseudo-Huber norm, in units of a latent coordinate."""
    through_scores: bool = True
    """Let gradients pass through both score networks to the generator, as the derivation asks."""
    normalised: bool = False
    """Weigh rows by how far the reference's picture lies from the generator's, as DMD does."""
    guide: Literal["in", "out", "none"] = "in"
    """The reference's classifier-free guidance (the paper's alpha_cfg) in it, as a term of its own, or not at all."""
    reward_weight: float = 0.2
    """Weight of the reward (the paper's alpha_rew)."""
    divergence_weight: float = 1.0
    """Weight of the divergence; 0 leaves the reward alone."""
    evaluate_every: int = 60
    save_every: int = 60


PRESETS = {
    "tiny": Settings(),
    "sd35-medium": Settings(
        flow=replace(SD35_MEDIUM, size=1024, sampling_steps=1, sharded=True, at_once=4),
        task=DrawingTask(prompts="prompts.txt", held_out="parti.txt", rewards=("sharpness",)),
        criticism=Criticism(critic_steps=0),
        scorer="text_image", scorer_model="yuvalkirstain/PickScore_v1",
        distilling=Distilling(
            reference_guidance=7.5, prompts_per_step=128, lr=1e-6, score_lr=1e-6, warmup=500, ema=0.999, micro_rows=1
        ),
        distil_steps=20_000, distil_lr=1e-5, steps=20_000, reward_weight=0.4, evaluate_every=500, save_every=500,
    ),
}  # fmt: skip


def policies(cfg: Settings) -> dict[str, FlowPolicy]:
    """The generator."""
    return {"policy": build(cfg.flow, stochastic=range(cfg.flow.sampling_steps - 1), seed=cfg.seed)}


def train(cfg: Settings, run: Run) -> dict[str, dict[str, float]]:
    """Teach the critic, distil the start, then train on reward and divergence. Returns the scores before and after."""
    policy = policies(cfg)["policy"]
    fake, reference = cfg.distilling.networks(cfg.flow, policy, cfg.seed)
    critic = cfg.criticism.taught(cfg.task, policy, run, cfg.seed)
    problems = cfg.task.training(cfg.seed)
    plain = ScoreDistillation(
        policy, fake, reference, "integral_kl", cfg.kappa, through_scores=False, normalised=True,
        guidance=cfg.distilling.reference_guidance,
    )  # fmt: skip
    if cfg.distil_steps:
        distil = replace(cfg.distilling, lr=cfg.distil_lr, score_lr=cfg.distil_lr)
        feed, learner, state = distil.parts(problems, plain, cfg.seed + 1)
        run_loop(feed, learner, run.stage("distil"), cfg.distil_steps, state=state, save_every=cfg.save_every)
        policy.load_state_dict(state["average"].state_dict())
    judge = scorer(cfg.scorer, critic, cfg.scorer_model, str(policy.device))
    chosen = replace(
        plain, divergence=cfg.divergence, through_scores=cfg.through_scores, normalised=cfg.normalised, guide=cfg.guide,
        weight=cfg.divergence_weight, reward=judge, reward_weight=cfg.reward_weight,
    )  # fmt: skip
    feed, learner, state = cfg.distilling.parts(problems, chosen, cfg.seed)
    survey = Survey(critic, cfg.task, cfg.flow.size) if critic else None

    def look(step: int) -> dict[str, float]:
        with state["average"]:
            found = measured(cfg.task, policy.best, judge, run.show(step))
            found |= survey(policy.best) if survey and step in (0, cfg.steps) else {}
        if survey and step == 0:
            found |= {f"reference, {name}": value for name, value in survey(reference.best, each=4).items()}
        return found

    return run_loop(
        feed,
        learner,
        run,
        cfg.steps,
        state=state,
        evaluate=look,
        evaluate_every=cfg.evaluate_every,
        save_every=cfg.save_every,
    )


evaluate, sample = task.evaluate, task.sample


_KL = dict(divergence="integral_kl", through_scores=False)
_HARD = 3 * PRESETS["tiny"].reward_weight
ARMS = {
    "DI*": PRESETS["tiny"],
    "DI*, more reward": Following("DI*", Settings(reward_weight=_HARD)),
    "DI++": Following("DI*", Settings(**_KL)),
    "DI++, more reward": Following("DI*", Settings(reward_weight=_HARD, **_KL)),
    "reward only": Following("DI*", Settings(reward_weight=_HARD, divergence_weight=0.0)),
}


def curve(arm: Arms, method: str) -> list[tuple[float, float, float]]:
    """Reward, distance from real pictures and diversity of a method, from its start to its most rewarded end."""
    ends = [(arm[method], "@0"), (arm[method], ""), (arm[f"{method}, more reward"], "")]
    return sorted(tuple(scores[name + when] for name in ("critic", "frechet", "modes")) for scores, when in ends)


def at_equal_reward(arm: Arms) -> tuple[float, float]:
    """By which share DI* is nearer to real pictures than DI++ and more diverse, at the most reward that both reach."""
    curves = [curve(arm, method) for method in ("DI*", "DI++")]
    level = 0.98 * min(points[-1][0] for points in curves)
    (near, diverse), (other_near, other_diverse) = (_read(points, level) for points in curves)
    return 1 - near / other_near, diverse / other_diverse - 1


def _read(points: list[tuple[float, float, float]], level: float) -> tuple[float, float]:
    """A curve's distance and diversity at a level of reward, on the lines between its points."""
    reward = [point[0] for point in points]
    return tuple(float(np.interp(level, reward, [point[axis] for point in points])) for axis in (1, 2))


def most_rewarded(arm: Arms) -> Scores:
    """The scores of DI* at the weight that earned more."""
    return max((arm["DI*"], arm["DI*, more reward"]), key=lambda scores: scores["critic"])


CLAIMS = (
    Claim(
        "at equal reward pictures of DI* are a tenth nearer to real ones than those of DI++, or a twentieth more diverse",
        lambda arm: max(at_equal_reward(arm)[0] - 0.1, at_equal_reward(arm)[1] - 0.05),
    ),
    Claim("and neither less near nor less diverse", lambda arm: min(at_equal_reward(arm))),
    Claim(
        "its most rewarded generator has more reward than the guided diffusion in many steps",
        lambda arm: most_rewarded(arm)["critic"] - arm["DI*"]["reference, critic@0"],
    ),
    Claim("and than its own start", lambda arm: most_rewarded(arm)["critic"] - arm["DI*"]["critic@0"]),
    Claim(
        "without a divergence pictures end more than twice as far from real ones",
        lambda arm: arm["reward only"]["frechet"] / most_rewarded(arm)["frechet"] - 2,
    ),
)
