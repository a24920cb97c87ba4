"""Training a reward model: a small network learns from rendered scenes how right a picture is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.algorithms.dmd import noised_at
from saccade.core import Loss, Problem, Rollout, seeded, seeds, spawn
from saccade.math.flow import add_noise
from saccade.math.pixels import to_unit
from saccade.policies.flow import FlowPolicy
from saccade.policies.unrolling import empty_rollout
from saccade.rewards.learned.reward_model import LatentReward, RewardModel, RewardNetwork, timed
from saccade.training.feeds import DatasetFeed, Feed
from saccade.training.learner import Update, Updates, rise_and_fall
from saccade.training.loop import fit
from saccade.training.run import Run
from saccade.worlds import shapes
from saccade.worlds.shapes import corruption, kinds
from saccade.worlds.shapes.task import DrawingTask


@dataclass(frozen=True)
class RecognitionLoss:
    """-sum_k [y_k log p_k + (1 - y_k) log(1 - p_k)], p = sigmoid of ``critic(pictures)``, y =
    ``rollout.extras["present_B"]``.

    A mean over pictures. Metric: the share of kinds present that have p > 1/2, "found".
    """

    critic: Callable[[Tensor], Tensor]

    def __call__(self, rollout: Rollout) -> Loss:
        logit_BK, present_BK = self.critic(rollout.outputs), rollout.extras["present_B"]
        loss = F.binary_cross_entropy_with_logits(logit_BK, present_BK, reduction="sum")
        found_B = ((logit_BK.detach() > 0) * present_BK).sum(1) / present_BK.sum(1).clamp(min=1)
        return Loss(loss, torch.tensor(float(len(rollout))), {"found": found_B.sum()})


FittedNetwork = TypeVar("Taught", RewardModel, LatentReward)


@dataclass(frozen=True)
class RewardModelConfig:
    """A small critic of the embedded world: it is shown rendered scenes, half of them spoiled, and told what is
    there.
    """

    critic_lessons: int = 3072
    """Rendered pictures that the critic learns from."""
    critic_wrong: float = 0.1
    """Share of them that it is told the wrong things of: the critic is to be imperfect."""
    critic_steps: int = 250
    """Batches that the critic learns from; 0 for no critic."""
    critic_batch: int = 64
    """Pictures in a batch."""
    critic_lr: float = 2e-3
    """Highest learning rate of AdamW for the critic; it falls to 0."""
    critic_width: int = 24
    """Channels of the critic's first layer."""

    def fitted(self, task: DrawingTask, policy: FlowPolicy, run: Run, seed: int) -> RewardModel | None:
        """The critic after a stage of the run, frozen; None for ``critic_steps`` 0.

        It looks at pictures as the policy's own autoencoder shows them. ValueError for prompts of another world.
        """
        if not self.critic_steps:
            return None
        if task.prompts != "shapes":
            raise ValueError(
                f"the critic is taught on the embedded world, not on {task.prompts}: critic_steps 0, another scorer"
            )
        lesson = self.lesson(task, policy.size, seed, lambda pictures: policy.decode(policy.encode(pictures)))
        return self._learned(self.new(seed), DatasetFeed(lesson, self.critic_batch, seed), run.stage("critic"))

    def fitted_latents(self, task: DrawingTask, policy: FlowPolicy, run: Run, seed: int) -> LatentReward:
        """A second critic after a stage of its own, which sees latents under noise. ValueError as with `taught`."""
        if not self.critic_steps or task.prompts != "shapes":
            raise ValueError(
                "the scorer latents is taught on the embedded world: it needs critic_steps and its prompts"
            )
        lesson = self.lesson(task, policy.size, seed, lambda pictures: pictures)
        lesson.outputs = policy.encode(lesson.outputs)
        clean = DatasetFeed(lesson, self.critic_batch, seed)

        def feed(step: int) -> Rollout:
            batch = clean(step)
            t_B, eps = noised_at(spawn(batch.extras["seed_B"], step), batch.outputs, 0, 0.0, 0.8)
            return replace(batch, outputs=timed(add_noise(batch.outputs, eps, t_B), t_B))

        untaught = LatentReward(self._critic(seed, policy.latent_shape[0] + 1), wanted)
        return self._learned(untaught, feed, run.stage("latent critic"))

    def new(self, seed: int) -> RewardModel:
        """An untaught critic."""
        return RewardModel(self._critic(seed, 3), wanted)

    def _critic(self, seed: int, channels: int) -> RewardNetwork:
        with seeded(seed):
            return RewardNetwork(len(kinds.KINDS), self.critic_width, channels)

    def _learned(self, critic: FittedNetwork, feed: Feed, stage: Run) -> FittedNetwork:
        """The critic after the stage, frozen."""
        weights = list(critic.critic.parameters())
        update = Update(
            "critic",
            RecognitionLoss(critic.critic),
            weights,
            torch.optim.AdamW(weights, lr=self.critic_lr, weight_decay=1e-2),
            schedule=rise_and_fall(self.critic_steps, 20),
        )
        fit(feed, Updates([update]), stage, self.critic_steps, state={"critic": critic}, save_every=self.critic_steps)
        critic.critic.requires_grad_(False)
        return critic

    def lesson(self, task: DrawingTask, size: int, seed: int, seen: Callable[[Tensor], Tensor]) -> Rollout:
        """Pictures, and what the exact judge sees in them. ``seen`` is how pictures come out of the generator's own
        codes.
        """
        rng = np.random.default_rng([seed, 23])
        problems = task.training(seed)
        asked = [problems[i] for i in rng.integers(len(problems), size=self.critic_lessons)]
        scenes = shapes.depict([problem.answer for problem in asked], rng)
        half = len(scenes) // 2
        pictures = shapes.render(corruption.spoiled(scenes[:half], rng) + scenes[half:], size)
        pictures[::2] = corruption.smeared(pictures[::2], rng)
        lesson = empty_rollout(asked, seeds(seed, len(asked)))
        lesson.outputs = seen(to_unit(pictures))
        present_BK = kinds.present(lesson.outputs)
        astray_B = torch.from_numpy(rng.random(len(asked)) < self.critic_wrong)
        other_BK = present_BK[torch.from_numpy(rng.permutation(len(asked)))]
        lesson.extras["present_B"] = torch.where(astray_B[:, None], other_BK, present_BK)
        return lesson


def wanted(problem: Problem) -> Tensor:
    """The kinds of things that a problem's meaning asks for."""
    return kinds.wanted(problem.answer)
