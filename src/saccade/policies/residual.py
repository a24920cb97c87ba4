"""A small correction of what a frozen base policy proposes: a = clip(a_b + r tanh f(o, a_b), -1, 1).

ResFiT 2509.19301. Actions are in units of a range, the proposal is seen as "base_action". The last layer of f is zero at
the start, so the corrected policy begins as the base policy itself, to the last bit. With r = 1 and a base policy that
proposes nothing this is an ordinary determined actor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from saccade.models.control import MLP
from saccade.policies.actors import Acted, write

PROPOSED = "base_action"


@dataclass(eq=False)
class ResidualActor:
    """``head`` makes a correction of the features of ``encoder``, which is the critics' and learns from them alone, and of the proposal.

    Exploration adds a normal of spread ``noise``, cut off at ``most``, to the action; ``scale`` (r) does not scale it.
    """

    encoder: nn.Module
    head: MLP
    scale: float = 0.2
    noise: float = 0.05
    most: float = 0.3

    def propose(self, seen: Mapping[str, Tensor], draw_BA: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The corrected actions ``[B, A]`` without noise, whatever the draws, with gradients; their log-densities are 0."""
        action_BA = (seen[PROPOSED] + self.correction(seen)).clamp(-1, 1)
        return action_BA, action_BA.new_zeros(len(action_BA))

    def correction(self, seen: Mapping[str, Tensor]) -> Tensor:
        """What is added to the proposal: ``[B, A]`` in [-r, r]."""
        with torch.no_grad():
            features = self.encoder(seen)
        return self.scale * torch.tanh(self.head(torch.cat([features, seen[PROPOSED]], -1)))

    @torch.no_grad()
    def act(self, seen: Mapping[str, Tensor], draw_BA: Tensor | None) -> Acted:
        """One action for each row; standard normal draws explore."""
        action_BA, logp_B = self.propose({name: value.to(self.device) for name, value in seen.items()})
        if draw_BA is not None:
            action_BA = (action_BA + (self.noise * draw_BA.to(self.device)).clamp(-self.most, self.most)).clamp(-1, 1)
        return Acted(action_BA.cpu(), logp_B.cpu())

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
class Perturbed:
    """Does what is proposed, each number moved evenly in [-reach, reach]: how memory is filled before anything is learned."""

    reach: float

    def act(self, seen: Mapping[str, Tensor], draw_BA: Tensor | None) -> Acted:
        """Standard normal draws say by how much; without them nothing is moved."""
        action_BA = seen[PROPOSED]
        if draw_BA is not None:
            action_BA = action_BA + self.reach * torch.erf(draw_BA / 2**0.5)
        return Acted(action_BA.clamp(-1, 1), action_BA.new_zeros(len(action_BA)))
