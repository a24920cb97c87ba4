"""BLIP-FusePPO: keeping a lane by camera, LiDAR, a controller's hint and what a captioner says of the road ahead.

paper: BLIP-FusePPO: A Vision-Language Deep Reinforcement Learning Framework for Lane Keeping in Autonomous Vehicles,
    arXiv 2510.22370.
idea: Words of a vision-language model belong into the state, not into the reward. Every few steps BLIP says what the
    front camera sees; its token ids, held in between, are one more sensor beside picture, LiDAR and PID, for PPO to
    learn from.
claims: The lateral error is at most 0.9 times that of picture and LiDAR alone, with the PID's hint it is not larger,
    and the words lower it further: below that without them, with captions of other times, and with random words that
    never change. The captioner is asked once in ten steps.
differs: The world is our own lane in place of Webots; the policy sees the near part of the frame, the captioner the far
    part. Hint and reward have the lane error from the geometry (`--task.error vision`: from edges and lines). The
    embedded BLIP is pre-trained on true captions of training roads in the first stage. Mirrored decisions are made in
    the segment, not in the simulator, with log-probs and values of their own; of the caption of the flipped picture
    only left and right are exchanged. The hint is shown in tenths of a radian. A crash earns -3 + T / 50 with the time
    of the episode; hitting something and the end of the road end episodes too. The abstract's reward for semantic
    alignment is in neither code nor equations, and is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from saccade.algorithms import ppo
from saccade.algorithms.ppo import Proximal
from saccade.envs.rollout import Segments
from saccade.policies.actor_critic import ActorCritic
from saccade.recipes.driving_navigation.blip_fuseppo.captioner import Captioner
from saccade.recipes.driving_navigation.blip_fuseppo.fusion import fused
from saccade.recipes.driving_navigation.blip_fuseppo.mirror import Mirroring
from saccade.recipes.driving_navigation.blip_fuseppo.speaker import Speaker, teach
from saccade.recipes.driving_navigation.blip_fuseppo.task import LaneTask, driven
from saccade.training.claims import Claim, Following
from saccade.training.loop import train as run_loop
from saccade.training.run import Run


@dataclass(frozen=True)
class Settings:
    """BLIP-FusePPO; the defaults are the embedded miniature's."""

    task: LaneTask = LaneTask()
    speaker: Speaker = Speaker()
    ppo: Proximal = Proximal(length=256, epochs=5, minibatch=128, lr=5e-4, anneal=True, scale_rewards=True)
    channels: tuple[int, ...] = (16, 32, 32)
    """Of the three convolutions."""
    log_std: float = -1.0
    """Logarithm of the spread of actions at the start."""
    mirror: bool = True
    """Whether every segment is learned from in the mirror too."""
    rows: int = 4
    """Episodes that are driven side by side."""
    seed: int = 0
    """Seed of everything: roads, actions, weights, the captioner's pictures."""
    steps: int = 59
    """Training steps, each a segment of all rows."""
    evaluate_every: int = 59
    save_every: int = 20


_TINY = Settings()

PRESETS = {
    "tiny": _TINY,
    "blip-large": Settings(
        task=LaneTask(image=(224, 244), far=(160, 700), rays=180, road=500.0, error="vision"),
        speaker=Speaker(
            "Salesforce/blip-image-captioning-large", prompt="a photo of the road, its condition and surroundings:",
            caption_length=50, beams=5, no_repeat=2, precision="float16", device="cuda",
        ),
        ppo=Proximal(length=2048), channels=(32, 64, 64), log_std=0.0, rows=1, steps=49, evaluate_every=10,
    ),
}  # fmt: skip


def policies(cfg: Settings) -> dict[str, Any]:
    """The policy that drives and, where it is our own, the captioner."""
    words = captioner(cfg)
    return {"policy": driver(cfg, words)} | ({"captioner": words} if words and not cfg.speaker.model else {})


def captioner(cfg: Settings) -> Captioner | None:
    """Who writes captions, if captions are shown."""
    return None if cfg.task.caption == "none" else cfg.speaker.captioner(cfg.seed)


def driver(cfg: Settings, words: Captioner | None) -> ActorCritic:
    """The policy for what the task shows, its weights from the seed."""
    world = cfg.task.make(1, words, cfg.seed)
    return fused(world.observation_space, world.action_space, cfg.channels, cfg.log_std, cfg.seed)


def train(cfg: Settings, run: Run) -> dict[str, dict[str, float]]:
    """Teach the captioner to speak, then drive. Returns the scores of the test episodes before and after driving."""
    own = policies(cfg)
    policy, words = own["policy"], own.get("captioner") or captioner(cfg)
    if "captioner" in own and cfg.task.caption != "constant":
        teach(cfg.speaker, words, cfg.task, cfg.seed, run.stage("captioner"))
    world = cfg.task.make(cfg.rows, words, cfg.seed)
    segments = Segments(world, policy, cfg.ppo.length, cfg.seed)
    if cfg.mirror:
        segments = Mirroring(segments, policy, cfg.task.flips(words))
    rows = cfg.rows * (1 + cfg.mirror)
    return run_loop(
        ppo.feed(cfg.ppo, segments, rows, driven(run)),
        ppo.learner(cfg.ppo, policy, rows, cfg.steps, cfg.seed),
        run,
        cfg.steps,
        state=own,
        evaluate=lambda step: cfg.task.score(policy, words, cfg.seed, run.show(step)),
        evaluate_every=cfg.evaluate_every,
        save_every=cfg.save_every,
    )


def evaluate(cfg: Settings, policies: Mapping[str, Any]) -> dict[str, float]:
    """How well the test episodes go."""
    return cfg.task.score(policies["policy"], policies.get("captioner") or captioner(cfg), cfg.seed)


def sample(cfg: Settings, policies: Mapping[str, Any], prompts: Sequence[str], seeds_B: Tensor) -> list[dict]:
    """One filmed episode for each seed; there is nothing to prompt."""
    words = policies.get("captioner") or captioner(cfg)
    return cfg.task.drive(policies["policy"], words, cfg.seed, seeds_B.tolist())


_PLAIN = replace(_TINY.task, hint=False, caption="none")

ARMS = {
    "BLIP-FusePPO": _TINY,
    "shuffled captions": Following("BLIP-FusePPO", replace(_TINY, task=replace(_TINY.task, caption="shuffled"))),
    "image and LiDAR": replace(_TINY, task=_PLAIN),
    "with hint": replace(_TINY, task=replace(_PLAIN, hint=True)),
    "random tokens": replace(_TINY, task=replace(_TINY.task, caption="constant")),
}

CLAIMS = (
    Claim(
        "the lateral error is at most 0.9 times that of image and LiDAR alone",
        lambda arm: 0.9 * arm["image and LiDAR"]["rmse"] - arm["BLIP-FusePPO"]["rmse"],
    ),
    Claim(
        "which the hint does not make larger",
        lambda arm: arm["image and LiDAR"]["rmse"] - arm["with hint"]["rmse"],
    ),
    Claim(
        "with captions it is smaller than with the hint alone",
        lambda arm: arm["with hint"]["rmse"] - arm["BLIP-FusePPO"]["rmse"],
    ),
    Claim(
        "and than with captions of other times",
        lambda arm: arm["shuffled captions"]["rmse"] - arm["BLIP-FusePPO"]["rmse"],
    ),
    Claim(
        "and than with random words that never change",
        lambda arm: arm["random tokens"]["rmse"] - arm["BLIP-FusePPO"]["rmse"],
    ),
    Claim(
        "the captioner is asked at most 1 / 10 + 0.02 times a step, never by the reward",
        lambda arm: 1 / _TINY.task.every + 0.02 - arm["BLIP-FusePPO"]["captions a step"],
        every_seed=True,
    ),
)
