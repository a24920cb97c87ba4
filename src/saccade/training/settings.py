"""Settings that recipes share: how long a run trains, what a batch is, how an optimizer steps.

On the command line the fields of `Schedule` and `Batch` have no prefix (``--steps``, ``--group-size``); those of every
other group carry the name of their field (``--optim.lr``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import torch
import tyro
from torch import Tensor, nn

from saccade.config import STAGE, Count, Range
from saccade.core import Collect, Objective, Problem, Rollout, Sampler
from saccade.training.feeds import OnPolicy
from saccade.training.groups import sample_groups
from saccade.training.learner import Update, Updates, warmup

T = TypeVar("T")

Rate = Annotated[float, Range(0, 1e18)]
"""A learning rate: Adam moves a weight by about as much, and float32 must hold the square of that."""
Flat = Annotated[T, tyro.conf.arg(name="")]
"""A group of settings whose options carry no prefix."""
StageSteps = Annotated[int, STAGE]
"""Training steps of a stage before the run's own, which a run of fewer --steps than its preset shortens as much."""


@dataclass(frozen=True)
class Schedule:
    """How long a run trains, and how often it is evaluated, saved and logged."""

    steps: int = 60
    """Number of training steps; each learns from one batch."""
    evaluate_every: Count = 20
    """Training steps between evaluations of the held-out problems."""
    save_every: Count = 20
    """Training steps between checkpoints."""
    log_every: Count = 1
    """Training steps that share one line of metrics."""


@dataclass(frozen=True)
class EnvSchedule:
    """How long a run acts and learns, and how often it is evaluated, saved and logged, in environment steps."""

    steps: int = 5000
    """Number of environment steps of all episodes together, including those before learning starts."""
    evaluate_every: Count = 1000
    """Environment steps between evaluations of the test episodes, counted from the start of learning."""
    save_every: Count = 2500
    """Environment steps between checkpoints, counted from the start of learning."""
    log_every: Count = 200
    """Gradient steps that share one line of metrics."""
    n_envs: Count = 1
    """Number of episodes that run side by side."""

    def gradient_schedule(self, learning_starts: int, gradient_steps: int) -> Schedule:
        """The schedule in gradient steps, ``gradient_steps`` for each environment step after ``learning_starts``."""
        return Schedule(
            max(self.steps - learning_starts, 0) * gradient_steps,
            self.evaluate_every * gradient_steps,
            self.save_every * gradient_steps,
            self.log_every,
        )


@dataclass(frozen=True)
class AdamW:
    """One optimizer: AdamW with linear warmup and gradient clipping. Without weight decay it is Adam."""

    lr: Rate = 1e-4
    """Peak learning rate."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the first and the second moment."""
    eps: float = 1e-8
    """Term added to the denominator for numerical stability."""
    warmup: int = 0
    """Optimizer steps over which the learning rate rises linearly to its peak."""
    max_grad_norm: float = 1.0
    """Norm to which the gradient of this optimizer's weights is clipped; inf does not clip."""
    fused: bool = False
    """Use torch's fused kernel, which is faster on small networks."""

    def __post_init__(self) -> None:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be numbers from 0 to below 1, not {' '.join(map(str, self.betas))}")

    def optimizer(self, params: Sequence[nn.Parameter]) -> torch.optim.AdamW:
        """The optimizer of these weights at the peak learning rate."""
        return torch.optim.AdamW(
            params, lr=self.lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay, fused=self.fused or None
        )

    def update(
        self,
        name: str,
        loss: Objective,
        params: Sequence[nn.Parameter],
        *,
        on: str = "",
        every: int = 1,
        repeats: int = 1,
        after: Callable[[int], None] | None = None,
        decay: Callable[[int], float] | None = None,
        prepare: Callable[[Any], Any] | None = None,
    ) -> Update:
        """The `Update` that minimizes ``loss`` in ``params`` with this optimizer.

        ``decay`` maps the number of optimizer steps taken to a factor on the learning rate; of it and the linear warmup
        the lower counts. The other arguments are those of `Update`.
        """
        rise = warmup(self.warmup)
        return Update(
            name,
            loss,
            params,
            self.optimizer(params),
            on=on,
            every=every,
            repeats=repeats,
            max_grad_norm=self.max_grad_norm,
            after=after,
            schedule=rise if decay is None else (lambda taken: min(rise(taken), decay(taken))),
            prepare=prepare,
        )


@dataclass(frozen=True)
class Batch:
    """What a training step samples, and how it is cut for the networks."""

    prompts_per_step: Count = 8
    """Number of different prompts in a batch, over all processes."""
    group_size: Count = 8
    """Samples of each prompt, which are compared with one another."""
    minibatches: Count = 1
    """Optimizer steps taken on each batch."""
    micro_rows: Count = 64
    """Samples that go through a network at once in an update; lower it if memory runs out."""
    micro_decisions: Count | None = None
    """Decisions of a sample (tokens, denoising steps) that go through a network at once in an update; None is all."""

    def feed(self, problems: Sequence[Problem], collect: Collect, seed: int) -> OnPolicy:
        """A feed that draws ``prompts_per_step`` problems a step and collects fresh samples of them."""
        return OnPolicy(problems, collect, self.prompts_per_step, seed)

    def groups(self, sampler: Sampler, problems: Sequence[Problem], seeds_P: Tensor) -> Rollout:
        """``group_size`` samples of each problem, ``[P * group_size]`` rows whose groups are numbered."""
        return sample_groups(sampler, problems, seeds_P, self.group_size)

    def learner(self, *updates: Update, epochs: int = 1) -> Updates:
        """The learner that takes these updates in order on each minibatch."""
        return Updates(
            updates,
            epochs=epochs,
            minibatches=self.minibatches,
            micro_rows=self.micro_rows,
            micro_decisions=self.micro_decisions,
        )
