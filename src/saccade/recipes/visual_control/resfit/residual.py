"""Residual actions: a bounded correction of what a base policy proposes, and the loss of the critics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from saccade.algorithms.off_policy import CriticLoss, action, observations
from saccade.core import Action, Environment, Loss, Observation, Rollout, Step
from saccade.envs.wrapper import EnvironmentWrapper
from saccade.models.control.networks import MLP
from saccade.policies.actors import save_weights
from saccade.recipes.visual_control.resfit.base_policy import Proposer
from saccade.training.settings import StageSteps

BASE_ACTION = "base_action"
"""Name of the observation that is the base policy's proposal."""

EnsembleError = Literal["mean of squares", "squared mean of absolutes"]


@dataclass(frozen=True)
class Residual:
    """The residual actor, and how its critics start to learn."""

    scale: float = 0.2
    """Largest correction of an action, as a fraction of the half range of demonstrated actions, which it widens."""
    least_range: float = 0.1
    """Smallest width of the range of an action before it is widened."""
    noise_clip: float = 0.3
    """Largest absolute value of the exploration noise."""
    base_noise: float = 0.2
    """Largest absolute value of the uniform noise on the base policy's actions before learning starts."""
    critic_steps: StageSteps = 2000
    """Gradient steps of the critics alone before the actor is trained."""
    encoder: Literal["plain", "vit"] = "plain"
    """Encoder of critics and actor: convolutions and unchanged vectors, or a small transformer for each camera."""
    error: EnsembleError = "mean of squares"
    """Error of the Q networks; the paper's code squares the mean absolute error."""
    target_bounds: tuple[float, float] | None = (0.0, 1.0)
    """Bounds to which targets are clipped, since success is worth at most 1; None does not clip."""

    def actor(
        self, encoder: nn.Module, features: int, actions: int, hidden: tuple[int, ...], noise: float
    ) -> ResidualActor:
        """A residual actor on the encoder's ``features``; its correction is zero everywhere."""
        head = MLP((features + actions, *hidden, actions), "relu", gain=0.0)
        return ResidualActor(encoder, head, self.scale, noise, self.noise_clip)

    def critic_loss(self, loss: CriticLoss) -> EnsembleLoss:
        """The loss of the Q networks, with the targets of ``loss``."""
        return EnsembleLoss(loss, self.error, self.target_bounds)


@dataclass(eq=False)
class ResidualActor:
    """Adds a correction to a proposed action: ``head`` maps features of the observation and the proposal to it.

    ``encoder`` is the critics' and learns from them alone. Exploration adds normal noise of standard deviation
    ``noise``, clipped to ``noise_clip``; it is not multiplied by ``scale``.
    """

    encoder: nn.Module
    head: nn.Module
    scale: float = 0.2
    noise: float = 0.05
    noise_clip: float = 0.3

    def rsample(self, observation: Mapping[str, Tensor], noise_BA: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The corrected actions ``[B, A]``, which the noise does not change, with gradients; log-densities of 0."""
        action_BA = (observation[BASE_ACTION] + self.correction(observation)).clamp(-1, 1)
        return action_BA, action_BA.new_zeros(len(action_BA))

    def correction(self, observation: Mapping[str, Tensor]) -> Tensor:
        """What is added to the proposal: ``[B, A]``, at most ``scale`` in absolute value."""
        with torch.no_grad():
            features = self.encoder(observation)
        return self.scale * torch.tanh(self.head(torch.cat([features, observation[BASE_ACTION]], -1)))

    @torch.no_grad()
    def act(self, observation: Mapping[str, Tensor], noise_BA: Tensor | None) -> Action:
        """Actions of all rows, on the CPU; standard normal noise is scaled, clipped and added."""
        action_BA, logp_B = self.rsample({name: value.to(self.device) for name, value in observation.items()})
        if noise_BA is not None:
            noise_BA = (self.noise * noise_BA.to(self.device)).clamp(-self.noise_clip, self.noise_clip)
            action_BA = (action_BA + noise_BA).clamp(-1, 1)
        return Action(action_BA.cpu(), logp_B.cpu())

    def with_head(self, head: nn.Module) -> ResidualActor:
        """The same actor with another head, such as its target network."""
        return replace(self, head=head)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.head.parameters()).device

    @property
    def trained(self) -> list[nn.Parameter]:
        """The weights that the actor's updates change."""
        return list(self.head.parameters())

    def parameters(self) -> list[nn.Parameter]:
        return self.trained

    def state_dict(self) -> dict[str, Tensor]:
        return self._modules().state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._modules().load_state_dict(state)

    def export(self, folder: str | Path) -> None:
        """Write the weights to policy.safetensors."""
        save_weights(self.state_dict(), folder)

    def _modules(self) -> nn.ModuleDict:
        return nn.ModuleDict({"encoder": self.encoder, "head": self.head})


@dataclass(frozen=True)
class NoisyBasePolicy:
    """Takes the proposed action with uniform noise in [-``noise``, ``noise``], to fill the replay buffer at first."""

    noise: float

    def act(self, observation: Mapping[str, Tensor], noise_BA: Tensor | None) -> Action:
        """Actions of all rows; standard normal noise is mapped to the uniform distribution and added."""
        action_BA = observation[BASE_ACTION]
        if noise_BA is not None:
            action_BA = action_BA + self.noise * torch.erf(noise_BA / 2**0.5)
        return Action(action_BA.clamp(-1, 1), action_BA.new_zeros(len(action_BA)))


@dataclass(frozen=True, eq=False)
class EnsembleLoss:
    """Mean over rows of the error of N Q networks against the target y of ``critic``.

    ``error`` is "mean of squares", mean_k (Q_k - y)^2, or "squared mean of absolutes", (mean_k |Q_k - y|)^2, in which a
    network's gradient also depends on the errors of the others. ``bounds`` clip the target where returns are known to
    lie between them; the metric "target" is the one before. ValueError for another error.
    """

    critic: CriticLoss
    error: EnsembleError = "mean of squares"
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.error not in ("mean of squares", "squared mean of absolutes"):
            raise ValueError(f"unknown error '{self.error}': one of mean of squares, squared mean of absolutes")

    def __call__(self, rollout: Rollout) -> Loss:
        target_B = self.critic.backup(rollout)
        bounded_B = target_B if self.bounds is None else target_B.clamp(*self.bounds)
        value_NB = self.critic.critics(observations(rollout), action(rollout))
        error_NB = value_NB - bounded_B
        error_B = error_NB.square().mean(0) if self.error == "mean of squares" else error_NB.abs().mean(0).square()
        metrics = {"value": value_NB.detach().mean(0).sum(), "target": target_B.sum()}
        return Loss(error_B.sum(), torch.tensor(float(len(rollout)), device=error_B.device), metrics)


class BaseActionWrapper(EnvironmentWrapper):
    """An environment whose observations include the proposal of a base policy, as "base_action".

    The proposal of an episode's last observation still comes from the present chunk; only ``begin`` discards it.
    """

    def __init__(self, environment: Environment, base: Proposer):
        super().__init__(environment)
        self.base = base
        self.observation_space = spaces.Dict(
            {**environment.observation_space.spaces, BASE_ACTION: environment.action_space}
        )

    def begin(self, rows: Sequence[int], seeds: Sequence[int]) -> Observation:
        observation = self.environment.begin(rows, seeds)
        self.base.begin(rows)
        return self._with_proposals(observation, rows)

    def step(self, action_B: np.ndarray) -> Step:
        step = self.environment.step(action_B)
        return step._replace(observation=self._with_proposals(step.observation, None))

    def state_dict(self) -> dict[str, Any]:
        return {"environment": self.environment.state_dict(), "base": self.base.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.environment.load_state_dict(state["environment"])
        self.base.load_state_dict(state["base"])

    def _with_proposals(self, observation: Observation, rows: Sequence[int] | None) -> Observation:
        tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in observation.items()}
        return {**observation, BASE_ACTION: self.base.propose(tensors, rows).numpy()}
