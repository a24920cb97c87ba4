"""ReFL and DRaFT: the gradient of a differentiable reward, back through the last steps of a sampler.

paper: ImageReward (ReFL), arXiv 2304.05977; Directly Fine-Tuning Diffusion Models on Differentiable Rewards (DRaFT),
    arXiv 2309.17400.
idea: A picture is a differentiable function of the weights that drew it, so a reward that can be differentiated needs
    no policy gradient. ReFL stops at a random late step and judges the picture predicted there; DRaFT walks to the end
    and keeps the last K steps; its low-variance form takes the last step several times from fresh noise.
claims: The reward that is trained on rises, and with it, at first, the exact judge's; gradients through more steps move
    it faster.
differs: ReFL has no second loss on a data set's pictures, and its reward is not cut by a ReLU. DRaFT's gradient runs
    through the Euler steps of a flow's ODE instead of DDIM. No mixing of LoRA by a scale after training. The reward of
    the embedded default is a small critic taught on rendered scenes in the first stage. It draws without guidance: with
    a scale of 2 the critic's reward rose and the judge's points fell at both rates tried (0.443 to 0.364 at 5e-5, to
    0.403 at 1.5e-5). In the check rewards rise by 0.03 to 0.06, and points with them; three steps carry more than one
    and move pictures further from real ones. The checkpoint's grid ends with a step from t = 0.001, so two copies of it
    see one picture, and earn as much to four digits; both claims about more gradients asked for 0 before that was seen.
    A reward that reads noisy latents harms the pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from saccade.algorithms.reward_gradient import RewardGradient
from saccade.algorithms.reward_model import Criticism
from saccade.core import Problem, Rollout
from saccade.evaluation.scoring import measured
from saccade.models.snapshot import Snapshot
from saccade.policies.flow import FlowModel, FlowPolicy, build
from saccade.policies.flow_presets import SD35_MEDIUM
from saccade.policies.unrolling import unmade
from saccade.rewards.registry import scorer
from saccade.training.claims import Claim, Following, gain
from saccade.training.feeds import OnPolicy
from saccade.training.learner import Update, Updates, warmup
from saccade.training.loop import train as run_loop
from saccade.training.run import Run
from saccade.worlds.shapes import task
from saccade.worlds.shapes.sample_metrics import Survey
from saccade.worlds.shapes.task import DrawingTask


@dataclass(frozen=True)
class Settings:
    """ReFL; the defaults are the embedded miniature's."""

    flow: FlowModel = FlowModel()
    task: DrawingTask = DrawingTask()
    criticism: Criticism = Criticism()
    scorer: str = "critic"
    """The differentiable reward: critic or latents (taught in the first stage; the second reads latents under noise,
    so that nothing is decoded), text_image, or FILE.py:FUNCTION."""
    scorer_model: str = ""
    """Encoders of the scorer text_image: a folder or a hub id."""
    seed: int = 0
    """Seed of everything: prompts, noise, critic, initial LoRA."""
    steps: int = 60
    """Training steps."""
    prompts_per_step: int = 32
    """Prompts in a batch, one attempt at each, over all processes."""
    through: int = 1
    """Steps at the end of the walk that carry gradients (DRaFT-K); 0 is all of them."""
    late: int = 4
    """ReFL: a random one of so many last steps is left for the picture predicted there; 0 walks to the end."""
    copies: int = 0
    """DRaFT-LV: times that the last step is taken, each from fresh noise on the picture that was made; 0 switches it
    off.
    """
    lr: float = 3e-5
    """Learning rate of AdamW."""
    warmup: int = 5
    """Optimiser steps over which the learning rate rises."""
    ema: float = 0.9
    """Decay of the averaged weights that are evaluated; 0 evaluates the trained ones."""
    micro_rows: int = 64
    """Attempts that go through the network at once in an update."""
    evaluate_every: int = 30
    save_every: int = 30


_REAL = Settings(
    flow=replace(SD35_MEDIUM, sampling_steps=20, guidance=4.5, lora_rank=32, lora_alpha=64.0),
    task=DrawingTask(prompts="prompts.txt", held_out="parti.txt", rewards=("sharpness",)),
    criticism=Criticism(critic_steps=0),
    scorer="text_image", scorer_model="yuvalkirstain/PickScore_v1",
    steps=2000, prompts_per_step=64, late=8, lr=1e-4, warmup=50, ema=0.99, micro_rows=2, evaluate_every=100, save_every=100,
)  # fmt: skip
PRESETS = {
    "refl": Settings(),
    "draft": Settings(through=1, late=0),
    "draft-lv": Settings(late=0, copies=2),
    "latents": Settings(scorer="latents"),
    "refl-sd35-medium": _REAL,
    "draft-sd35-medium": replace(_REAL, late=0),
}


def policies(cfg: Settings) -> dict[str, FlowPolicy]:
    """The model that draws."""
    return {"policy": build(cfg.flow, stochastic=(), seed=cfg.seed)}


def train(cfg: Settings, run: Run) -> dict[str, dict[str, float]]:
    """Teach the critic, then train on its gradient. Returns the scores of kept-back prompts before and after."""
    policy = policies(cfg)["policy"]
    average = Snapshot(policy.trained)
    critic = cfg.criticism.taught(cfg.task, policy, run, cfg.seed)
    if cfg.scorer == "latents":
        judge = cfg.criticism.taught_latents(cfg.task, policy, run, cfg.seed)
    else:
        judge = scorer(cfg.scorer, critic, cfg.scorer_model, str(policy.device))
    survey = Survey(critic, cfg.task, cfg.flow.size) if critic else None

    def collect(problems: Sequence[Problem], seeds_P: Tensor, step: int) -> Rollout:
        # The loss makes the attempts itself; only where it begins at their end must they be made before.
        if not cfg.copies:
            return unmade(problems, seeds_P)
        with torch.no_grad():
            return unmade(problems, seeds_P, x0_B=policy.unroll(problems, seeds_P, 1))

    update = Update(
        "flow",
        RewardGradient(policy, judge, cfg.through or None, cfg.late, cfg.copies),
        policy.trained,
        torch.optim.AdamW(policy.trained, lr=cfg.lr, weight_decay=0.0),
        schedule=warmup(cfg.warmup),
        after=average.average(cfg.ema),
    )

    def look(step: int) -> dict[str, float]:
        with average:
            found = measured(cfg.task, policy.best, judge, run.show(step))
            return found | (survey(policy.best, each=4) if survey and step in (0, cfg.steps) else {})

    return run_loop(
        OnPolicy(cfg.task.training(cfg.seed), collect, cfg.prompts_per_step, cfg.seed),
        Updates([update], micro_rows=cfg.micro_rows),
        run,
        cfg.steps,
        state={"policy": policy, "average": average},
        evaluate=look,
        evaluate_every=cfg.evaluate_every,
        save_every=cfg.save_every,
    )


evaluate, sample = task.evaluate, task.sample


ARMS = {
    "ReFL": PRESETS["refl"],
    "DRaFT-1": Following("ReFL", PRESETS["draft"]),
    "DRaFT-3": Following("ReFL", Settings(through=3, late=0)),
    "DRaFT-LV": Following("ReFL", PRESETS["draft-lv"]),
    "latents": Following("ReFL", PRESETS["latents"]),
}


CLAIMS = (
    Claim(
        "each form raises the critic's reward, which it is trained on, by 0.05",
        lambda arm: min(gain(arm[name], "critic") for name in ("ReFL", "DRaFT-1", "DRaFT-3", "DRaFT-LV")),
        least=0.05,
    ),
    Claim("with it the exact judge's points rise", lambda arm: gain(arm["ReFL"], "train wording"), least=0.01),
    Claim(
        "gradients through three steps raise the reward by 0.005 more than through one",
        lambda arm: arm["DRaFT-3"]["critic"] - arm["DRaFT-1"]["critic"],
        least=0.005,
    ),
    Claim(
        "so do two copies of the last step",
        lambda arm: arm["DRaFT-LV"]["critic"] - arm["DRaFT-1"]["critic"],
        least=0.005,
    ),
    Claim(
        "a reward that reads noisy latents raises that of pictures too, and decodes nothing",
        lambda arm: gain(arm["latents"], "critic"),
        least=0.02,
    ),
)
