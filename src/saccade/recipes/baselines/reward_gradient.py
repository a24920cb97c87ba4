"""ReFL and DRaFT: the gradient of a differentiable reward, backpropagated through the last steps of a sampler.

paper: ImageReward (ReFL), arXiv 2304.05977; Directly Fine-Tuning Diffusion Models on Differentiable Rewards (DRaFT),
    arXiv 2309.17400.
idea: A sample is a differentiable function of the weights, so a differentiable reward needs no policy gradient. ReFL
    stops at a random one of the last steps and rewards the sample predicted there; DRaFT samples to the end and
    differentiates the last K steps; its low-variance form repeats the last step several times with new noise.
claims: The reward that is trained on rises, and with it, at first, the exact judge's; gradients through more steps
    raise it faster.
differs: ReFL has no second loss on a data set's pictures, and its reward is not cut by a ReLU. DRaFT's gradient passes
    through the Euler steps of a flow's ODE instead of DDIM. LoRA is not rescaled after training. The reward of the
    embedded default is a small reward model, trained on rendered scenes in the first stage. The default samples without
    guidance: with a scale of 2 the reward model's reward rose and the judge's points fell at both rates tried (0.443 to
    0.364 at 5e-5, to 0.403 at 1.5e-5). In the check rewards rise by 0.03 to 0.06, and points with them; three steps
    gain more than one and move pictures further from real ones. The checkpoint's grid ends with a step from t = 0.001,
    so two copies of it are nearly equal pictures, and earn as much to four digits; both claims about more gradients
    asked for 0 before that was known. A reward of noisy latents harms the pictures.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from saccade.algorithms.reward_gradient import RewardGradient
from saccade.algorithms.reward_model import RewardModelConfig
from saccade.config import Fraction
from saccade.core import ProblemScores, Run
from saccade.evaluation.scoring import score_with_reward
from saccade.models.snapshot import Snapshot
from saccade.policies.flow import FlowModel, FlowPolicy, build_flow_policy
from saccade.policies.flow_presets import SD35_MEDIUM
from saccade.rewards.registry import learned_reward
from saccade.training.claims import Claim, WarmStartedArm, gain
from saccade.training.loop import fit
from saccade.training.settings import AdamW, Batch, Flat, Schedule
from saccade.worlds.shapes import task
from saccade.worlds.shapes.sample_metrics import SampleMetrics
from saccade.worlds.shapes.task import DrawingTask


@dataclass(frozen=True)
class Settings:
    """ReFL; the defaults are the embedded miniature's."""

    schedule: Flat[Schedule] = Schedule(steps=60, evaluate_every=30, save_every=30)
    batch: Flat[Batch] = Batch(prompts_per_step=32, group_size=1)
    seed: int = 0
    """Seed of prompts, noise, reward model and initial LoRA weights."""
    flow: FlowModel = FlowModel()
    task: DrawingTask = DrawingTask()
    reward: str = "reward_model"
    """Differentiable reward to train on: reward_model, latents (both trained in the first stage; the second rewards
    noisy latents, so that nothing is decoded), text_image or FILE.py:FUNCTION.
    """
    encoders: str = ""
    """Folder or hub id of the text and image encoders of the reward text_image."""
    reward_model: RewardModelConfig = RewardModelConfig()
    gradient: RewardGradient = RewardGradient(refl_window=4)
    optim: AdamW = AdamW(lr=3e-5, warmup=5)
    ema: Fraction = 0.9
    """Decay of the exponential moving average of the weights that is evaluated; 0 evaluates the trained weights."""


_REFL = Settings()
_DRAFT = replace(_REFL, gradient=RewardGradient(grad_steps=1))
_DRAFT_LV = replace(_REFL, gradient=RewardGradient(copies=2))
_LATENTS = replace(_REFL, reward="latents")
_REAL = Settings(
    schedule=Schedule(steps=2000, evaluate_every=100, save_every=100),
    batch=Batch(prompts_per_step=64, group_size=1, micro_rows=2),
    flow=replace(SD35_MEDIUM, sampling_steps=20, guidance=4.5, lora_rank=32, lora_alpha=64.0),
    task=DrawingTask(prompts="prompts.txt", held_out="parti.txt", rewards=("sharpness",)),
    reward="text_image",
    encoders="yuvalkirstain/PickScore_v1",
    reward_model=RewardModelConfig(steps=0),
    gradient=RewardGradient(refl_window=8),
    optim=AdamW(lr=1e-4, warmup=50),
    ema=0.99,
)
PRESETS = {
    "refl": _REFL,
    "draft": _DRAFT,
    "draft-lv": _DRAFT_LV,
    "latents": _LATENTS,
    "refl-sd35-medium": _REAL,
    "draft-sd35-medium": replace(_REAL, gradient=RewardGradient(grad_steps=1)),
}


def policies(cfg: Settings) -> dict[str, FlowPolicy]:
    """The model that draws."""
    return {"policy": build_flow_policy(cfg.flow, stochastic=(), seed=cfg.seed)}


def train(cfg: Settings, run: Run) -> dict[str, dict[str, float]]:
    """Train the reward model, then the policy. Returns the scores of held-out prompts before and after."""
    policy = policies(cfg)["policy"]
    ema = Snapshot(policy.trained)
    reward_model = cfg.reward_model.fit(cfg.task, policy, run, cfg.seed)
    if cfg.reward == "latents":
        reward = cfg.reward_model.fit_latents(cfg.task, policy, run, cfg.seed)
    else:
        reward = learned_reward(cfg.reward, reward_model, cfg.encoders, str(policy.device))
    sample_metrics = SampleMetrics(reward_model, cfg.task, policy.size) if reward_model else None

    def evaluate(step: int) -> ProblemScores:
        with ema:
            scores = score_with_reward(cfg.task, policy.greedy().rollout, reward, run.show(step))
            if sample_metrics and step in (0, cfg.schedule.steps):
                scores |= sample_metrics(policy.greedy().rollout, group_size=4)
        return scores

    loss, collect = cfg.gradient.loss(policy, reward), cfg.gradient.collect(policy, cfg.batch.group_size)
    update = cfg.optim.update("flow", loss, policy.trained, after=ema.ema_update(cfg.ema))
    return fit(
        cfg.batch.feed(cfg.task.training(cfg.seed), collect, cfg.seed),
        cfg.batch.learner(update),
        run,
        cfg.schedule,
        state={"policy": policy, "ema": ema},
        evaluate=evaluate,
    )


evaluate, sample = task.evaluate, task.sample


ARMS = {
    "ReFL": _REFL,
    "DRaFT-1": WarmStartedArm("ReFL", _DRAFT),
    "DRaFT-3": WarmStartedArm("ReFL", replace(_REFL, gradient=RewardGradient(grad_steps=3))),
    "DRaFT-LV": WarmStartedArm("ReFL", _DRAFT_LV),
    "latents": WarmStartedArm("ReFL", _LATENTS),
}
CLAIMS = (
    Claim(
        "each form raises the reward model's reward, which it is trained on",
        lambda arm: min(gain(arm[name], "reward model") for name in ("ReFL", "DRaFT-1", "DRaFT-3", "DRaFT-LV")),
    ),
    Claim("with it the exact judge's points rise", lambda arm: gain(arm["ReFL"], "held out")),
    Claim(
        "gradients through three steps raise the reward more than through one",
        lambda arm: arm["DRaFT-3"]["reward model"] - arm["DRaFT-1"]["reward model"],
    ),
    Claim(
        "so do two copies of the last step",
        lambda arm: arm["DRaFT-LV"]["reward model"] - arm["DRaFT-1"]["reward model"],
    ),
    Claim(
        "a reward of noisy latents raises that of pictures too, and decodes nothing",
        lambda arm: gain(arm["latents"], "reward model"),
        least=0.0,
        origin="design",
    ),
)
