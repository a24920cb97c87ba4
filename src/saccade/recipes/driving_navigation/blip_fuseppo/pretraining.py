"""Who says what lies ahead on a road: a captioner from elsewhere, or a small one that is taught on pictures of
training roads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from saccade.core import Loss, Problem, Rollout, seeds
from saccade.envs.lane import LENGTH, WORDS
from saccade.envs.lane.scenes import scenes
from saccade.recipes.driving_navigation.blip_fuseppo.captioner import Captioner, Sizes, fresh, load
from saccade.recipes.driving_navigation.blip_fuseppo.task import LaneTask, accuracy
from saccade.training.learner import Update, Updates, rise_and_fall
from saccade.training.loop import fit as run_loop
from saccade.training.run import Run

PLACES = 4
"""Pictures of one road in a batch of teaching: drawing a road takes longer than a picture."""


@dataclass(frozen=True)
class CaptionerConfig:
    """Who says what lies ahead."""

    model: str = ""
    """A BLIP by hub id or folder; empty for a small one that is pre-trained in the first stage."""
    prompt: str = ""
    """How every caption begins."""
    caption_length: int = LENGTH + 1
    """Token ids of a caption that the policy is shown."""
    beams: int = 1
    """Captions that are followed side by side while one is written."""
    no_repeat: int = 0
    """Runs of so many words come once at most; 0 allows all."""
    precision: str = "float32"
    """Of the weights: float32, float16 or bfloat16."""
    device: str = "cpu"
    """cpu, cuda or auto."""
    speaker_steps: int = 600
    """Training steps of the first stage."""
    speaker_batch: int = 128
    """Pictures with captions in each, four of a road."""
    speaker_lr: float = 1e-3
    """Highest learning rate of the first stage; it falls in a line to a twentieth."""
    tests: int = 256
    """Pictures on which the small one is tested."""

    def captioner(self, seed: int) -> Captioner:
        """The one that is named, or a small one with random weights."""
        if not self.model:
            return fresh(WORDS, self.caption_length, Sizes(), seed)
        dtype = getattr(torch, self.precision)
        return load(self.model, self.caption_length, self.prompt, self.beams, self.no_repeat, dtype, self.device)


def fit(who: CaptionerConfig, words: Captioner, task: LaneTask, seed: int, stage: Run) -> None:
    """Train the captioner on pictures and true captions from anywhere on training roads, new ones in each step."""
    lane, tests = task.world(who.speaker_batch // PLACES), task.world(who.tests)

    def pairs(step: int) -> Rollout:
        pictures, told = scenes(lane, int(seeds(seed, 1, key=step)), places=PLACES)
        problems = [Problem(i, "what lies ahead", caption) for i, caption in enumerate(told)]
        logp_BT, mask_BT = torch.zeros(len(told), 1), torch.ones(len(told), 1)
        return Rollout(
            problems, {"picture_B": torch.from_numpy(pictures)}, None, logp_BT, mask_BT, torch.arange(len(told))
        )

    def loss(rollout: Rollout) -> Loss:
        total, count = words.loss(rollout.decisions["picture_B"].numpy(), [p.answer for p in rollout.problems])
        return Loss(total, count.float())

    optimizer = torch.optim.AdamW(words.parameters(), lr=who.speaker_lr, weight_decay=0.01)
    fall = rise_and_fall(who.speaker_steps, who.speaker_steps // 15, 0.05)
    run_loop(
        pairs,
        Updates([Update("captions", loss, words.parameters(), optimizer, schedule=fall)]),
        stage,
        who.speaker_steps,
        state={"captioner": words},
        evaluate=lambda step: accuracy(words, tests),
        evaluate_every=who.speaker_steps,
        save_every=100,
    )
