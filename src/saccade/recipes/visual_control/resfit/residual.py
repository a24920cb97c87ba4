"""Residual actions: a bounded correction of what a base policy proposes, and the error of the critics that judge it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from saccade.algorithms.off_policy import CriticLoss, action, seen
from saccade.core import Action, Environment, Loss, Observation, Rollout, Step
from saccade.envs.wrapper import EnvironmentWrapper
from saccade.models.control.networks import MLP
from saccade.policies.actors import write


@dataclass(eq=False)
class ResidualActor:
    """``head`` makes a correction of the features of ``encoder``, which is the critics' and learns from them alone, and
    of the proposal.

    Exploration adds a normal of spread ``noise``, cut off at ``most``, to the action; ``scale`` (r) does not scale it.
    """

    encoder: nn.Module
    head: MLP
    scale: float = 0.2
    noise: float = 0.05
    most: float = 0.3

    def propose(self, seen: Mapping[str, Tensor], draw_BA: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The corrected actions ``[B, A]`` without noise, whatever the draws, with gradients; their log-densities
        are 0.
        """
        action_BA = (seen[BASE_ACTION] + self.correction(seen)).clamp(-1, 1)
        return action_BA, action_BA.new_zeros(len(action_BA))

    def correction(self, seen: Mapping[str, Tensor]) -> Tensor:
        """What is added to the proposal: ``[B, A]`` in [-r, r]."""
        with torch.no_grad():
            features = self.encoder(seen)
        return self.scale * torch.tanh(self.head(torch.cat([features, seen[BASE_ACTION]], -1)))

    @torch.no_grad()
    def act(self, seen: Mapping[str, Tensor], draw_BA: Tensor | None) -> Action:
        """One action for each row; standard normal draws explore."""
        action_BA, logp_B = self.propose({name: value.to(self.device) for name, value in seen.items()})
        if draw_BA is not None:
            action_BA = (action_BA + (self.noise * draw_BA.to(self.device)).clamp(-self.most, self.most)).clamp(-1, 1)
        return Action(action_BA.cpu(), logp_B.cpu())

    def slow(self, head: MLP) -> ResidualActor:
        """The same actor with another head, such as one that follows its own slowly."""
        return replace(self, head=head)

    @property
    def device(self) -> torch.device:
        return self.head.layers[-1].weight.device

    @property
    def trained(self) -> list[nn.Parameter]:
        return list(self.head.parameters())

    def parameters(self) -> list[nn.Parameter]:
        return self.trained

    def state_dict(self) -> dict[str, Tensor]:
        return self._whole().state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._whole().load_state_dict(state)

    def export(self, folder: str | Path) -> None:
        """Write the weights to policy.safetensors."""
        write(self.state_dict(), folder)

    def _whole(self) -> nn.ModuleDict:
        return nn.ModuleDict({"encoder": self.encoder, "head": self.head})


def residual(
    encoder: nn.Module, size: int, actions: int, hidden: tuple[int, ...], scale: float, noise: float
) -> ResidualActor:
    """A residual actor on ``size`` features whose correction is zero everywhere."""
    return ResidualActor(encoder, MLP((size + actions, *hidden, actions), "relu", gain=0.0), scale, noise)


@dataclass(frozen=True)
class NoisyBasePolicy:
    """Does what is proposed, each number moved evenly in [-reach, reach]: how memory is filled before anything is
    learned.
    """

    reach: float

    def act(self, seen: Mapping[str, Tensor], draw_BA: Tensor | None) -> Action:
        """Standard normal draws say by how much; without them nothing is moved."""
        action_BA = seen[BASE_ACTION]
        if draw_BA is not None:
            action_BA = action_BA + self.reach * torch.erf(draw_BA / 2**0.5)
        return Action(action_BA.clamp(-1, 1), action_BA.new_zeros(len(action_BA)))


Across = Literal["mean of squares", "squared mean of absolutes"]


@dataclass(frozen=True, eq=False)
class EnsembleError:
    """Mean over rows of an error across the N members of ``critic``'s ensemble, against the target y that ``critic``
    computes.

    ``across`` is "mean of squares", mean_k (Q_k - y)^2, or "squared mean of absolutes", (mean_k |Q_k - y|)^2, in which
    a member's slope also depends on how far off the others are; ResFiT's reference has the latter. ``bounds`` cut the
    target off where returns are known to lie between them; the metric "target" is what it was before.
    """

    critic: CriticLoss
    across: Across = "mean of squares"
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.across not in ("mean of squares", "squared mean of absolutes"):
            raise ValueError(f"unknown error '{self.across}': one of mean of squares, squared mean of absolutes")

    def __call__(self, rollout: Rollout) -> Loss:
        target_B = self.critic.backup(rollout)
        bounded_B = target_B if self.bounds is None else target_B.clamp(*self.bounds)
        value_NB = self.critic.critics(seen(rollout), action(rollout))
        error_NB = value_NB - bounded_B
        error_B = error_NB.square().mean(0) if self.across == "mean of squares" else error_NB.abs().mean(0).square()
        metrics = {"value": value_NB.detach().mean(0).sum(), "target": target_B.sum()}
        return Loss(error_B.sum(), torch.tensor(float(len(rollout)), device=error_B.device), metrics)


BASE_ACTION = "base_action"
"""The name under which a proposal is seen."""


class BasePolicy(Protocol):
    """A frozen policy that proposes one action at each moment of each row's episode."""

    def begin(self, rows: Sequence[int]) -> None: ...

    def propose(self, seen: Mapping[str, Tensor], rows: Sequence[int] | None = None) -> Tensor: ...

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class BaseActionWrapper(EnvironmentWrapper):
    """An environment that also shows, as "base_action", what ``base`` proposes at each moment.

    An ended episode's last moment is still proposed for from the chunk under way; only ``begin`` forgets it.
    """

    def __init__(self, environment: Environment, base: BasePolicy):
        super().__init__(environment)
        self.base = base
        self.observation_space = spaces.Dict(
            {**environment.observation_space.spaces, BASE_ACTION: environment.action_space}
        )

    def begin(self, rows: Sequence[int], seeds: Sequence[int]) -> Observation:
        seen = self.environment.begin(rows, seeds)
        self.base.begin(rows)
        return self._with_proposals(seen, rows)

    def step(self, action_B: np.ndarray) -> Step:
        step = self.environment.step(action_B)
        return step._replace(observation=self._with_proposals(step.observation, None))

    def state_dict(self) -> dict[str, Any]:
        return {"environment": self.environment.state_dict(), "base": self.base.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.environment.load_state_dict(state["environment"])
        self.base.load_state_dict(state["base"])

    def _with_proposals(self, seen: Observation, rows: Sequence[int] | None) -> Observation:
        tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in seen.items()}
        return {**seen, BASE_ACTION: self.base.propose(tensors, rows).numpy()}
