"""Training a reward model: a small network learns from rendered scenes which kinds of things a picture shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.algorithms.dmd import time_and_noise
from saccade.config import Count, Fraction
from saccade.core import Loss, Problem, Rollout, Run
from saccade.math.flow import add_noise
from saccade.math.pixels import to_float
from saccade.policies.flow import FlowPolicy
from saccade.policies.unrolling import empty_rollout
from saccade.random import initialized, numpy_generator, seeds, stream
from saccade.rewards.learned.reward_model import LatentReward, RewardModel, RewardNetwork, with_time_channel
from saccade.training.feeds import DatasetFeed, Feed
from saccade.training.learner import Updates, linear_decay
from saccade.training.loop import fit
from saccade.training.settings import AdamW, Schedule, StageSteps
from saccade.worlds import shapes
from saccade.worlds.shapes import corruption, kinds
from saccade.worlds.shapes.task import DrawingTask


@dataclass(frozen=True)
class RecognitionLoss:
    """-sum_k [y_k log p_k + (1 - y_k) log(1 - p_k)], p = sigmoid of the network's logits, a mean over pictures.

    y is ``rollout.extras["present_B"]`` ``[B, K]``. Metric: the share of present kinds that have p > 1/2, "recall".
    """

    network: Callable[[Tensor], Tensor]

    def __call__(self, rollout: Rollout) -> Loss:
        logit_BK, present_BK = self.network(rollout.outputs), rollout.extras["present_B"]
        loss = F.binary_cross_entropy_with_logits(logit_BK, present_BK, reduction="sum")
        recall_B = ((logit_BK.detach() > 0) * present_BK).sum(1) / present_BK.sum(1).clamp(min=1)
        return Loss(loss, torch.tensor(float(len(rollout))), {"recall": recall_B.sum()})


AnyRewardModel = TypeVar("AnyRewardModel", RewardModel, LatentReward)


@dataclass(frozen=True)
class RewardModelConfig:
    """A small reward model of the embedded world, trained on rendered scenes of which half are corrupted."""

    pictures: Count = 3072
    """Number of rendered pictures in the training set."""
    label_noise: Fraction = 0.1
    """Share of pictures with the labels of another picture, so that the reward model is imperfect."""
    steps: StageSteps = 250
    """Training steps of the reward model; 0 trains no reward model."""
    batch_size: Count = 64
    """Pictures in a batch."""
    width: Count = 24
    """Channels of the first convolution; later ones have twice as many."""
    optim: AdamW = AdamW(lr=2e-3, weight_decay=1e-2, warmup=20)
    """Optimizer of the reward model; after the warmup its learning rate falls linearly to 0."""

    def fit(self, task: DrawingTask, policy: FlowPolicy, run: Run, seed: int) -> RewardModel | None:
        """The frozen reward model of pictures, trained in a stage of the run; None if ``steps`` is 0.

        It is trained on pictures as the policy's autoencoder reconstructs them. ValueError for prompts from a file.
        """
        if not self.steps:
            return None
        if task.prompts != "shapes":
            raise ValueError(
                f"the reward model is trained on the embedded world, not on {task.prompts}: "
                "set reward_model.steps to 0 and choose another reward"
            )
        reconstruct = lambda pictures: policy.decode(policy.encode(pictures))
        seed = stream(seed, "reward model")
        dataset = self.dataset(task, policy.size, seed, reconstruct)
        return self._fit(self.untrained(seed), DatasetFeed(dataset, self.batch_size, seed), run.stage("reward model"))

    def fit_latents(self, task: DrawingTask, policy: FlowPolicy, run: Run, seed: int) -> LatentReward:
        """The frozen reward model of noisy latents, trained in a stage of the run. ValueError as with `fit`."""
        if not self.steps or task.prompts != "shapes":
            raise ValueError(
                "the reward latents is trained on the embedded world: it needs its prompts and reward_model.steps"
            )
        seed = stream(seed, "latent reward model")
        dataset = self.dataset(task, policy.size, seed, lambda pictures: pictures)
        dataset.outputs = policy.encode(dataset.outputs)
        clean = DatasetFeed(dataset, self.batch_size, seed)

        def noisy(step: int) -> Rollout:
            batch = clean(step)
            t_B, eps = time_and_noise(stream(batch.extras["seed_B"], "step", step), batch.outputs, "noising", 0.0, 0.8)
            return replace(batch, outputs=with_time_channel(add_noise(batch.outputs, eps, t_B), t_B))

        network = self._network(seed, policy.latent_shape[0] + 1)
        return self._fit(LatentReward(network, requested_kinds), noisy, run.stage("latent reward model"))

    def untrained(self, seed: int) -> RewardModel:
        """A reward model of pictures with random weights."""
        return RewardModel(self._network(seed, 3), requested_kinds)

    def _network(self, seed: int, channels: int) -> RewardNetwork:
        with initialized(seed, "reward network"):
            return RewardNetwork(len(kinds.KINDS), self.width, channels)

    def _fit(self, model: AnyRewardModel, feed: Feed, stage: Run) -> AnyRewardModel:
        loss, params = RecognitionLoss(model.network), list(model.network.parameters())
        update = self.optim.update("reward_model", loss, params, decay=linear_decay(self.steps))
        length = Schedule(steps=self.steps, save_every=self.steps)
        fit(feed, Updates([update]), stage, length, state={"reward_model": model})
        model.network.requires_grad_(False)
        return model

    def dataset(self, task: DrawingTask, size: int, seed: int, reconstruct: Callable[[Tensor], Tensor]) -> Rollout:
        """Reconstructed pictures ``[B, 3, size, size]``, labelled with the kinds that the exact judge detects."""
        rng = numpy_generator(seed, "labelled pictures")
        problems = task.training(seed)
        chosen = [problems[i] for i in rng.integers(len(problems), size=self.pictures)]
        scenes = shapes.depict([problem.answer for problem in chosen], rng)
        half = len(scenes) // 2
        pictures = shapes.render(corruption.corrupt_scenes(scenes[:half], rng) + scenes[half:], size)
        pictures[::2] = corruption.degrade_pictures(pictures[::2], rng)
        dataset = empty_rollout(chosen, seeds(seed, len(chosen), "rows"))
        dataset.outputs = reconstruct(to_float(pictures))
        present_BK = kinds.present_kinds(dataset.outputs)
        mislabelled_B = torch.from_numpy(rng.random(len(chosen)) < self.label_noise)
        other_BK = present_BK[torch.from_numpy(rng.permutation(len(chosen)))]
        dataset.extras["present_B"] = torch.where(mislabelled_B[:, None], other_BK, present_BK)
        return dataset


def requested_kinds(problem: Problem) -> Tensor:
    """The kinds of things that a problem's meaning asks for, see `kinds.requested_kinds`."""
    return kinds.requested_kinds(problem.answer)
