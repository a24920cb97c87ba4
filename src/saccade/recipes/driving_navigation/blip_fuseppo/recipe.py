"""BLIP-FusePPO: keeping a lane by camera, LiDAR, a PID controller's hint and captions of the road ahead.

paper: BLIP-FusePPO: A Vision-Language Deep Reinforcement Learning Framework for Lane Keeping in Autonomous Vehicles,
    arXiv 2510.22370.
idea: Captions of a vision-language model belong into the state, not into the reward. Every few steps BLIP describes the
    front camera's picture; the token ids, held until the next caption, are one more observation besides picture, LiDAR
    and PID, for PPO to learn from.
claims: The lateral error is at most 0.9 times that of picture and LiDAR alone, with the PID's hint it is not larger,
    and captions lower it further: below that without them, with captions of other times, and with random words that
    never change. The captioner is called once in ten steps.
differs: The environment is our own lane in place of Webots; the policy observes the near part of the frame, the
    captioner the far part. Hint and reward have the lane error from the geometry (`--task.lane-error vision`: from
    edges and lines). The embedded BLIP is pre-trained on true captions of training roads in the first stage. Mirrored
    decisions are made in the segment, not in the simulator, with log-probabilities and values of their own; in the
    caption of the mirrored picture only left and right are exchanged. The hint is in tenths of a radian. A crash earns
    -3 + T / 50 with the time of the episode; a collision and the end of the road end episodes too. The abstract's
    reward for semantic alignment is in neither code nor equations, and is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from saccade.algorithms.ppo import PPO
from saccade.config import Count, Signed
from saccade.core import ProblemScores, RolloutFeed, Run
from saccade.envs.rollout import RolloutCollector
from saccade.policies.actor_critic import ActorCritic
from saccade.recipes.driving_navigation.blip_fuseppo.captioner import Captioner
from saccade.recipes.driving_navigation.blip_fuseppo.fusion import build_fusion_policy
from saccade.recipes.driving_navigation.blip_fuseppo.pretraining import CaptionerConfig, pretrain
from saccade.recipes.driving_navigation.blip_fuseppo.symmetry import SymmetryAugmentedFeed
from saccade.recipes.driving_navigation.blip_fuseppo.task import LaneTask, log_driving
from saccade.training.claims import Claim, WarmStartedArm
from saccade.training.loop import fit
from saccade.training.settings import AdamW, Flat, Schedule

ADAM = AdamW(lr=5e-4, eps=1e-5, max_grad_norm=0.5, fused=True)


@dataclass(frozen=True)
class Settings:
    """BLIP-FusePPO; the defaults are the embedded miniature's."""

    schedule: Flat[Schedule] = Schedule(steps=59, evaluate_every=59, save_every=20)
    task: LaneTask = LaneTask()
    n_envs: Count = 4
    """Number of episodes that run side by side; a training step learns from one segment of all of them."""
    seed: int = 0
    """Seed of roads, actions, initial weights and the captioner's pictures."""
    captioner: CaptionerConfig = CaptionerConfig()
    channels: tuple[int, ...] = (16, 32, 32)
    """Numbers of channels of the convolutions of the policy's picture."""
    log_std: Signed = -1.0
    """Logarithm of the standard deviation of actions at the start."""
    mirror: bool = True
    """Learn from the mirror image of every segment too."""
    ppo: PPO = PPO(n_steps=256, n_epochs=5, batch_size=128, anneal_lr=True, normalize_rewards=True)
    optim: AdamW = ADAM


_TINY = Settings()
PRESETS = {
    "tiny": _TINY,
    "blip-large": Settings(
        schedule=Schedule(steps=49, evaluate_every=10, save_every=20),
        task=LaneTask(
            image_size=(224, 244),
            caption_image_size=(160, 700),
            lidar_rays=180,
            road_length=500.0,
            lane_error="vision",
        ),
        n_envs=1,
        captioner=CaptionerConfig(
            model="Salesforce/blip-image-captioning-large",
            prompt="a photo of the road, its condition and surroundings:",
            length=50,
            num_beams=5,
            no_repeat_ngram_size=2,
            precision="float16",
            device="cuda",
        ),
        channels=(32, 64, 64),
        log_std=0.0,
        ppo=PPO(n_steps=2048),
        optim=replace(ADAM, lr=3e-4),
    ),
}


def policies(cfg: Settings) -> dict[str, Any]:
    """The policy that drives and, where it is trained here, the captioner."""
    captioner = build_captioner(cfg)
    trained = {"captioner": captioner} if captioner and not cfg.captioner.model else {}
    return {"policy": build_policy(cfg, captioner)} | trained


def build_captioner(cfg: Settings) -> Captioner | None:
    """The captioner, if captions are observed."""
    return None if cfg.task.captions == "none" else cfg.captioner.build(cfg.seed)


def build_policy(cfg: Settings, captioner: Captioner | None) -> ActorCritic:
    """The policy for the task's observations, its weights initialized from the seed."""
    env = cfg.task.make(1, captioner, cfg.seed)
    return build_fusion_policy(env.observation_space, env.action_space, cfg.channels, cfg.log_std, cfg.seed)


def train(cfg: Settings, run: Run) -> dict[str, dict[str, float]]:
    """Pre-train the captioner, then drive. Returns the scores of the test episodes before and after driving."""
    state = policies(cfg)
    policy, captioner = state["policy"], state.get("captioner") or build_captioner(cfg)
    if "captioner" in state and cfg.task.captions != "constant":
        pretrain(cfg.captioner, state["captioner"], cfg.task, cfg.seed, run.stage("captioner"))
    env = cfg.task.make(cfg.n_envs, captioner, cfg.seed)
    segments: RolloutFeed = RolloutCollector(env, policy, cfg.ppo.n_steps, cfg.seed)
    if cfg.mirror:
        segments = SymmetryAugmentedFeed(segments, policy, cfg.task.symmetry(captioner))
    rows = cfg.n_envs * (1 + cfg.mirror)
    return fit(
        cfg.ppo.feed(segments, rows, log_driving(run)),
        cfg.ppo.learner(policy, cfg.optim, rows, cfg.schedule.steps, cfg.seed),
        run,
        cfg.schedule,
        state=state,
        evaluate=lambda step: cfg.task.score(policy, captioner, cfg.seed, run.show(step)),
    )


def evaluate(cfg: Settings, policies: Mapping[str, Any]) -> ProblemScores:
    """Scores of the test episodes, acted greedily."""
    return cfg.task.score(policies["policy"], policies.get("captioner") or build_captioner(cfg), cfg.seed)


def sample(cfg: Settings, policies: Mapping[str, Any], prompts: Sequence[str], seeds_B: Tensor) -> list[dict[str, Any]]:
    """A video of one episode for each seed; prompts have no effect."""
    captioner = policies.get("captioner") or build_captioner(cfg)
    return cfg.task.record_video(policies["policy"], captioner, cfg.seed, seeds_B.tolist())


_PLAIN = replace(_TINY.task, pid_hint=False, captions="none")
ARMS = {
    "BLIP-FusePPO": _TINY,
    "shuffled captions": WarmStartedArm("BLIP-FusePPO", replace(_TINY, task=replace(_TINY.task, captions="shuffled"))),
    "image and LiDAR": replace(_TINY, task=_PLAIN),
    "with hint": replace(_TINY, task=replace(_PLAIN, pid_hint=True)),
    "random tokens": replace(_TINY, task=replace(_TINY.task, captions="constant")),
}

CLAIMS = (
    Claim(
        "the lateral error is at most 0.9 times that of image and LiDAR alone",
        lambda arm: 0.9 * arm["image and LiDAR"]["rmse"] - arm["BLIP-FusePPO"]["rmse"],
    ),
    Claim(
        "which the hint does not make larger",
        lambda arm: arm["image and LiDAR"]["rmse"] - arm["with hint"]["rmse"],
        origin="design",
        tolerance="the hint repeats what the controller knows; it must not cost anything",
    ),
    Claim(
        "with captions it is smaller than with the hint alone",
        lambda arm: arm["with hint"]["rmse"] - arm["BLIP-FusePPO"]["rmse"],
    ),
    Claim(
        "and than with captions of other times",
        lambda arm: arm["shuffled captions"]["rmse"] - arm["BLIP-FusePPO"]["rmse"],
        origin="design",
    ),
    Claim(
        "and than with random words that never change",
        lambda arm: arm["random tokens"]["rmse"] - arm["BLIP-FusePPO"]["rmse"],
        origin="design",
    ),
    Claim(
        "the captioner is called at most 1 / 10 + 0.02 times a step, never by the reward",
        lambda arm: 1 / _TINY.task.caption_every + 0.02 - arm["BLIP-FusePPO"]["captions per step"],
        origin="sanity",
    ),
)
