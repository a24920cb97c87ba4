"""DMD and Diff-Instruct: a generator of one step or a few, made of a diffusion by the integral KL of their scores.

paper: One-step Diffusion with Distribution Matching Distillation, arXiv 2311.18828, and DMD2, arXiv 2405.14867;
    Diff-Instruct, arXiv 2305.18455.
idea: Along the forward process the gradient of the KL from the generator to the diffusion is the difference of their
    scores, carried back through the generator alone. The diffusion knows its own, guided; a second network learns the
    generator's.
claims: One step of the generator is worth more than one step of the diffusion, and is not far from the many guided
    steps that it was made of.
differs: No regression to pairs of noise and picture (DMD), no adversarial loss on real pictures (DMD2), so no data at
    all. Times are drawn evenly. DMD and Diff-Instruct differ here in the weight of a row and in how often the score is
    taught. In the check one step of the diffusion earns 0.05, one of the generator 0.29 and four 0.38, the diffusion
    0.50 in 20 guided ones; of learning rates 3e-4 and 1e-4 (200 and 300 steps) the lower one was better, and was still
    rising.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from saccade.algorithms.dmd import Distilling, ScoreDistillation
from saccade.policies.flow import FlowModel, FlowPolicy, build
from saccade.policies.flow_presets import SD35_MEDIUM
from saccade.training.claims import Claim, gain
from saccade.training.loop import train as run_loop
from saccade.training.run import Run
from saccade.worlds.shapes import task
from saccade.worlds.shapes.task import DrawingTask


@dataclass(frozen=True)
class Settings:
    """DMD2 without its adversary; the defaults are the embedded miniature's."""

    flow: FlowModel = FlowModel(sampling_steps=1)
    task: DrawingTask = DrawingTask()
    distilling: Distilling = Distilling(score_updates=2)
    seed: int = 0
    """Seed of prompts and noise."""
    steps: int = 300
    """Training steps; each teaches the score network, every ``score_updates``-th the generator too."""
    normalised: bool = True
    """Weigh rows by how far the diffusion's picture lies from the generator's (DMD)."""
    evaluate_every: int = 150
    save_every: int = 150


_TINY = Settings()
_REAL = Settings(
    flow=replace(SD35_MEDIUM, size=1024, sampling_steps=1, sharded=True, at_once=4),
    task=DrawingTask(prompts="prompts.txt", held_out="coco.txt", rewards=("sharpness",)),
    distilling=Distilling(
        reference_guidance=4.5, reference_steps=40, prompts_per_step=64, score_updates=5, lr=5e-7, score_lr=5e-7,
        warmup=500, ema=0.999, micro_rows=1,
    ),
    steps=100_000, evaluate_every=1000, save_every=500,
)  # fmt: skip
PRESETS = {
    "dmd": _TINY,
    "diff-instruct": replace(_TINY, normalised=False, distilling=Distilling()),
    "four-steps": replace(_TINY, flow=FlowModel(sampling_steps=4, kernel="renoise")),
    "sd35-medium": _REAL,
    "sd35-medium-four-steps": replace(_REAL, flow=replace(_REAL.flow, sampling_steps=4, kernel="renoise")),
}


def policies(cfg: Settings) -> dict[str, FlowPolicy]:
    """The generator."""
    return {"policy": build(cfg.flow, stochastic=range(cfg.flow.sampling_steps - 1), seed=cfg.seed)}


def train(cfg: Settings, run: Run) -> dict[str, dict[str, float]]:
    """Train, evaluate, save. Returns the scores of kept-back prompts before and after."""
    policy = policies(cfg)["policy"]
    fake, reference = cfg.distilling.networks(cfg.flow, policy, cfg.seed)
    loss = ScoreDistillation(
        policy, fake, reference, "integral_kl", through_scores=False, normalised=cfg.normalised,
        guidance=cfg.distilling.reference_guidance,
    )  # fmt: skip
    feed, learner, state = cfg.distilling.parts(cfg.task.training(cfg.seed), loss, cfg.seed)

    def look(step: int) -> dict[str, float]:
        with state["average"]:
            found = cfg.task.score(policy.best, run.show(step))
        whole = cfg.task.score(reference.best) if step == 0 else {}
        return found | {f"reference, {name}": value for name, value in whole.items()}

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


ARMS = {"dmd": PRESETS["dmd"], "diff-instruct": PRESETS["diff-instruct"], "four steps": PRESETS["four-steps"]}
CLAIMS = (
    Claim(
        "one step of the generator earns 0.05 more points than one step of the diffusion",
        lambda arm: gain(arm["dmd"], "train wording"),
        least=0.05,
    ),
    Claim(
        "and at least 0.8 of those of the guided diffusion in many steps",
        lambda arm: arm["dmd"]["train wording"] / arm["dmd"]["reference, train wording@0"] - 0.8,
    ),
    Claim(
        "so does Diff-Instruct",
        lambda arm: arm["diff-instruct"]["train wording"] / arm["diff-instruct"]["reference, train wording@0"] - 0.8,
    ),
    Claim(
        "four steps earn no less than one", lambda arm: arm["four steps"]["train wording"] - arm["dmd"]["train wording"]
    ),
)
