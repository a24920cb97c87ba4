"""Distilling by turns: a network learns the scores of what a generator draws, the generator follows a diffusion by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from saccade.core import Problem
from saccade.models.snapshot import Snapshot
from saccade.objectives.distillation import ScoreDistillation, ScoreMatching, fresh
from saccade.policies.flow import FlowModel, FlowPolicy, build, frozen
from saccade.training.feeds import OnPolicy
from saccade.training.learner import Update, Updates, warmup


@dataclass(frozen=True)
class Distilling:
    """Generator and score network side by side on the generator's fresh samples, so that no picture of a data set is needed."""

    reference: str = ""
    """The diffusion that is followed, and where the score network begins; empty: where the generator begins."""
    reference_guidance: float = 3.0
    """Scale of the diffusion's classifier-free guidance."""
    reference_steps: int = 20
    """Denoising steps of the diffusion when it is measured itself."""
    prompts_per_step: int = 32
    """Prompts in a batch, one attempt at each, over all processes."""
    score_updates: int = 1
    """Updates of the score network for each of the generator; every training step has one."""
    lr: float = 1e-4
    """Learning rate of AdamW for the generator."""
    score_lr: float = 3e-4
    """Learning rate of AdamW for the score network."""
    warmup: int = 5
    """Optimiser steps over which the learning rates rise."""
    ema: float = 0.95
    """Decay of the averaged weights that are evaluated; 0 evaluates the trained ones."""
    micro_rows: int = 64
    """Attempts that go through the networks at once in an update."""

    def networks(self, flow: FlowModel, policy: FlowPolicy, seed: int) -> tuple[FlowPolicy, FlowPolicy]:
        """The score network and the frozen diffusion, equal at first; both borrow text encoders and autoencoder of ``policy``."""
        diffusion = replace(flow, model=self.reference or flow.model, kernel="flow_sde", sampling_steps=self.reference_steps)
        guided = replace(diffusion, sharded=False, guidance=self.reference_guidance)
        return build(diffusion, (), seed, beside=policy), frozen(guided, beside=policy)

    def parts(
        self, problems: Sequence[Problem], loss: ScoreDistillation, seed: int
    ) -> tuple[OnPolicy, Updates, dict[str, Any]]:
        """Feed, learner, and what a checkpoint holds; its "average" is what is evaluated."""
        policy, fake = loss.generator, loss.fake
        average, rise = Snapshot(policy.trained), warmup(self.warmup)
        # As in SiD and Diff-Instruct without momentum: what the other network taught a step ago no longer holds.
        adam = lambda part, lr: torch.optim.AdamW(part.trained, lr=lr, betas=(0.0, 0.999), weight_decay=0.0)
        teach = Update("score", ScoreMatching(fake), fake.trained, adam(fake, self.score_lr), schedule=rise)
        follow = Update(
            "generator", loss, policy.trained, adam(policy, self.lr), every=self.score_updates, schedule=rise,
            after=average.average(self.ema),
        )  # fmt: skip
        feed = OnPolicy(problems, fresh(policy), self.prompts_per_step, seed)
        return feed, Updates([teach, follow], micro_rows=self.micro_rows), {"policy": policy, "score": fake, "average": average}
