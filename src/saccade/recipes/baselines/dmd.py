"""DMD and Diff-Instruct: a generator of few steps, distilled from a diffusion by the integral KL divergence.

paper: One-step Diffusion with Distribution Matching Distillation, arXiv 2311.18828, and DMD2, arXiv 2405.14867;
    Diff-Instruct, arXiv 2305.18455.
idea: Along the forward process the gradient of the KL divergence of the generator from the diffusion is the difference
    of their scores, backpropagated through the generator alone. The diffusion gives its own score, with guidance; a
    second network learns the generator's score.
claims: One step of the generator scores higher than one step of the diffusion, and not far below the many guided steps
    from which the generator was distilled.
differs: No regression to pairs of noise and picture (DMD), no adversarial loss on real pictures (DMD2), so no data at
    all. Times are uniform. DMD and Diff-Instruct differ here in the weight of a sample and in the updates of the score
    network for each update of the generator. In the check one step of the diffusion scores 0.05, one of the generator
    0.29 and four 0.38, the diffusion 0.50 in 20 guided steps; of learning rates 3e-4 and 1e-4 (200 and 300 steps) the
    lower one was better, and scores were still rising.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from saccade.algorithms.dmd import Distillation, sample_generator
from saccade.core import ProblemScores, Run
from saccade.models.snapshot import Snapshot
from saccade.policies.flow import FlowModel, FlowPolicy, build_flow_policy
from saccade.policies.flow_presets import SD35_MEDIUM
from saccade.training.claims import Claim, gain
from saccade.training.loop import fit
from saccade.training.settings import AdamW, Batch, Flat, Schedule
from saccade.worlds.shapes import task
from saccade.worlds.shapes.task import DrawingTask


@dataclass(frozen=True)
class Settings:
    """DMD2 without its adversarial loss; the defaults are the embedded miniature's."""

    schedule: Flat[Schedule] = Schedule(steps=300, evaluate_every=150, save_every=150)
    batch: Flat[Batch] = Batch(prompts_per_step=32, group_size=1)
    seed: int = 0
    """Seed of prompts and noise."""
    flow: FlowModel = FlowModel(sampling_steps=1)
    task: DrawingTask = DrawingTask()
    distillation: Distillation = Distillation(normalize=True, score_updates=2)


_TINY = Settings()
_FOUR_STEPS = replace(_TINY, flow=FlowModel(sampling_steps=4, kernel="renoise"))
_SLOW = AdamW(lr=5e-7, betas=(0.0, 0.999), warmup=500)
_REAL = Settings(
    schedule=Schedule(steps=100_000, evaluate_every=1000, save_every=500),
    batch=Batch(prompts_per_step=64, group_size=1, micro_rows=1),
    flow=replace(SD35_MEDIUM, size=1024, sampling_steps=1, sharded=True, forward_batch_size=4),
    task=DrawingTask(prompts="prompts.txt", held_out="coco.txt", rewards=("sharpness",)),
    distillation=Distillation(
        reference_guidance=4.5,
        reference_steps=40,
        normalize=True,
        score_updates=5,
        generator_optim=_SLOW,
        score_optim=_SLOW,
        ema=0.999,
    ),
)
PRESETS = {
    "dmd": _TINY,
    "diff-instruct": replace(_TINY, distillation=Distillation()),
    "four-steps": _FOUR_STEPS,
    "sd35-medium": _REAL,
    "sd35-medium-four-steps": replace(_REAL, flow=replace(_REAL.flow, sampling_steps=4, kernel="renoise")),
}


def policies(cfg: Settings) -> dict[str, FlowPolicy]:
    """The generator."""
    return {"policy": build_flow_policy(cfg.flow, stochastic=range((cfg.flow.sampling_steps or 1) - 1), seed=cfg.seed)}


def train(cfg: Settings, run: Run) -> dict[str, dict[str, float]]:
    """Train, evaluate, save. Returns the scores of held-out prompts before and after."""
    policy = policies(cfg)["policy"]
    fake, reference = cfg.distillation.networks(cfg.flow, policy, cfg.seed)
    loss, ema = cfg.distillation.loss(policy, fake, reference), Snapshot(policy.trained)

    def evaluate(step: int) -> ProblemScores:
        with ema:
            scores = cfg.task.score(policy.greedy().rollout, run.show(step))
        limits = cfg.task.score(reference.greedy().rollout) if step == 0 else {}
        return scores | {f"reference, {name}": value for name, value in limits.items()}

    return fit(
        cfg.batch.feed(cfg.task.training(cfg.seed), sample_generator(policy, cfg.batch.group_size), cfg.seed),
        cfg.batch.learner(*cfg.distillation.updates(loss, ema)),
        run,
        cfg.schedule,
        state={"policy": policy, "score": fake, "ema": ema},
        evaluate=evaluate,
    )


evaluate, sample = task.evaluate, task.sample


ARMS = {"dmd": _TINY, "diff-instruct": PRESETS["diff-instruct"], "four steps": _FOUR_STEPS}
SCORE = "held out"
CLAIMS = (
    Claim(
        "one step of the generator earns more points than one step of the diffusion",
        lambda arm: gain(arm["dmd"], SCORE),
    ),
    Claim(
        "and at least 0.8 of those of the guided diffusion in many steps",
        lambda arm: arm["dmd"][SCORE] / arm["dmd"][f"reference, {SCORE}@0"] - 0.8,
        tolerance="the paper's generator of one step is close to its teacher, not equal to it",
    ),
    Claim(
        "so does Diff-Instruct",
        lambda arm: arm["diff-instruct"][SCORE] / arm["diff-instruct"][f"reference, {SCORE}@0"] - 0.8,
        origin="design",
        tolerance="as for DMD",
    ),
    Claim(
        "four steps earn no less than one",
        lambda arm: arm["four steps"][SCORE] - arm["dmd"][SCORE],
        tolerance="none: more steps of the same network may not cost anything",
    ),
)
