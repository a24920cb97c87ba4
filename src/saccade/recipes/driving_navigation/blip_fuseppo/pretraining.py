"""The captioner and its pre-training: a given BLIP, or a small one trained on pictures of training roads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from saccade.config import Count, Fraction
from saccade.core import Loss, Problem, Rollout, Run
from saccade.envs.lane import LENGTH, WORDS
from saccade.envs.lane.scenes import scenes
from saccade.random import stream
from saccade.recipes.driving_navigation.blip_fuseppo.captioner import (
    BlipSizes,
    Captioner,
    build_captioner,
    load_captioner,
)
from saccade.recipes.driving_navigation.blip_fuseppo.task import LaneTask, caption_accuracy
from saccade.training.learner import Updates, linear_decay
from saccade.training.loop import fit
from saccade.training.settings import AdamW, Schedule, StageSteps

PLACES = 4
"""Pictures of one road in a batch: generating a road takes longer than a picture."""


@dataclass(frozen=True)
class CaptionerConfig:
    """The model that writes captions of the road ahead."""

    model: str = ""
    """Hub id or folder of a BLIP; empty pre-trains a small BLIP in the first stage."""
    prompt: str = ""
    """Text that begins every caption."""
    length: Count = LENGTH + 1
    """Number of token ids of a caption that the policy observes."""
    num_beams: Count = 1
    """Number of beams in beam search; 1 decodes greedily."""
    no_repeat_ngram_size: int = 0
    """Length of token sequences that may not be repeated in a caption; 0 allows all."""
    precision: Literal["float32", "float16", "bfloat16"] = "float32"
    """Precision of the weights of a model from elsewhere, which is not trained; float16 is for a GPU."""
    device: str = "cpu"
    """Device of a BLIP from a hub id or a folder: cpu, cuda or auto."""
    steps: StageSteps = 600
    """Number of training steps of the first stage."""
    batch_size: Count = 128
    """Number of pictures with captions in a batch of the first stage, four of each road."""
    optim: AdamW = AdamW(lr=1e-3, weight_decay=0.01, warmup=40)
    final_lr: Fraction = 0.05
    """Learning rate at the end of the first stage, as a fraction of its peak: after the warmup it falls linearly."""
    save_every: Count = 100
    """Training steps of the first stage between checkpoints."""
    test_pictures: Count = 256
    """Number of held-out pictures on which the accuracy of captions is measured."""

    def build(self, seed: int) -> Captioner:
        """The named model, or a small one with random weights."""
        if not self.model:
            return build_captioner(WORDS, self.length, BlipSizes(), seed)
        dtype = getattr(torch, self.precision)
        decoding = self.num_beams, self.no_repeat_ngram_size
        return load_captioner(self.model, self.length, self.prompt, *decoding, dtype, self.device)


def pretrain(cfg: CaptionerConfig, captioner: Captioner, task: LaneTask, seed: int, stage: Run) -> None:
    """Train the captioner on pictures and true captions from anywhere on training roads, new ones in each step."""
    lane, test_lane = task.world(cfg.batch_size // PLACES), task.world(cfg.test_pictures)

    def feed(step: int) -> Rollout:
        pictures, captions = scenes(lane, stream(seed, "captioned scenes", step), places=PLACES)
        return Rollout(
            problems=[Problem(i, "caption of the road ahead", caption) for i, caption in enumerate(captions)],
            decisions={"picture_B": torch.from_numpy(pictures)},
            outputs=None,
            logp_BT=torch.zeros(len(captions), 1),
            mask_BT=torch.ones(len(captions), 1),
            group_B=torch.arange(len(captions)),
        )

    def loss(rollout: Rollout) -> Loss:
        total, count = captioner.loss(rollout.decisions["picture_B"].numpy(), [p.answer for p in rollout.problems])
        return Loss(total, count.float())

    decay = linear_decay(cfg.steps, cfg.final_lr)
    fit(
        feed,
        Updates([cfg.optim.update("captions", loss, captioner.parameters(), decay=decay)]),
        stage,
        Schedule(cfg.steps, evaluate_every=cfg.steps, save_every=cfg.save_every),
        state={"captioner": captioner},
        evaluate=lambda step: caption_accuracy(captioner, test_lane),
    )
