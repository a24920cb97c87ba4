"""Actors of off-policy learning: what is seen -> an action in [-1, 1], drawn from a squashed Gaussian or determined.

    a = tanh(u), u ~ N(m, s),   log pi(a) = log N(u) - sum 2 (log 2 - u - softplus(-2 u))

`envs.rescale.Ranged` gives an environment whose actions have other bounds in units of -1 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from saccade.math.gaussians import Gaussian, squashed_log_prob
from saccade.models.control.networks import MLP

LOG_STD = (-20.0, 2.0)
"""Bounds of the logarithm of a spread."""


class Acted(NamedTuple):
    """Actions ``[B, A]``, their log-densities ``[B]`` (of a determined action 0), and no opinion of what they are
    worth.
    """

    action_B: Tensor
    logp_B: Tensor
    value_B: None = None


class SquashedActor(nn.Module):
    """``trunk`` gives mean and log spread ``[B, 2 A]`` of the features of ``encoder``, which learns with it unless
    ``shared``.
    """

    def __init__(self, encoder: nn.Module, trunk: MLP, shared: bool = False):
        super().__init__()
        self.encoder, self.trunk, self.shared = encoder, trunk, shared

    def propose(self, seen: Mapping[str, Tensor], draw_BA: Tensor) -> tuple[Tensor, Tensor]:
        """The actions ``[B, A]`` that standard normal draws stand for, and their log-densities ``[B]``; gradients
        flow.
        """
        gaussian = self.gaussian(seen)
        before = gaussian.sample(draw_BA)
        return torch.tanh(before), squashed_log_prob(gaussian, before)

    def gaussian(self, seen: Mapping[str, Tensor]) -> Gaussian:
        """Before it is squashed: ``[B, A]``."""
        mean, log_std = self.trunk(_features(self.encoder, seen, self.shared)).chunk(2, -1)
        return Gaussian(mean, log_std.clamp(*LOG_STD).exp())

    @torch.no_grad()
    def act(self, seen: Mapping[str, Tensor], draw_BA: Tensor | None) -> Acted:
        """Actions of all rows, on the CPU; without draws the middle of each distribution."""
        gaussian = self.gaussian(_on(seen, self.device))
        before = gaussian.mean if draw_BA is None else gaussian.sample(draw_BA.to(self.device))
        return Acted(torch.tanh(before).cpu(), squashed_log_prob(gaussian, before).cpu())

    @property
    def device(self) -> torch.device:
        return self.trunk.layers[-1].weight.device

    @property
    def trained(self) -> list[nn.Parameter]:
        return [*([] if self.shared else self.encoder.parameters()), *self.trunk.parameters()]

    def export(self, folder: str | Path) -> None:
        """Write the weights to policy.safetensors."""
        write(self.state_dict(), folder)


class DeterministicActor(nn.Module):
    """``trunk`` gives the action ``[B, A]`` before tanh; ``exploration`` is the spread of the noise with which it
    acts.
    """

    def __init__(self, encoder: nn.Module, trunk: MLP, shared: bool = False, exploration: float = 0.1):
        super().__init__()
        self.encoder, self.trunk, self.shared, self.exploration = encoder, trunk, shared, exploration

    def propose(self, seen: Mapping[str, Tensor], draw_BA: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The actions ``[B, A]`` without noise, whatever the draws; gradients flow. The log-densities are 0."""
        action_BA = torch.tanh(self.trunk(_features(self.encoder, seen, self.shared)))
        return action_BA, action_BA.new_zeros(len(action_BA))

    @torch.no_grad()
    def act(self, seen: Mapping[str, Tensor], draw_BA: Tensor | None) -> Acted:
        """Actions of all rows, on the CPU; standard normal draws move them by ``exploration``."""
        action_BA, logp_B = self.propose(_on(seen, self.device))
        if draw_BA is not None:
            action_BA = (action_BA + self.exploration * draw_BA.to(self.device)).clamp(-1, 1)
        return Acted(action_BA.cpu(), logp_B.cpu())

    @property
    def device(self) -> torch.device:
        return self.trunk.layers[-1].weight.device

    @property
    def trained(self) -> list[nn.Parameter]:
        return [*([] if self.shared else self.encoder.parameters()), *self.trunk.parameters()]

    def export(self, folder: str | Path) -> None:
        """Write the weights to policy.safetensors."""
        write(self.state_dict(), folder)


Actor = SquashedActor | DeterministicActor


def _features(encoder: nn.Module, seen: Mapping[str, Tensor], shared: bool) -> Tensor:
    """Of an encoder that is shared with the critics, the critics alone decide: no gradient passes."""
    return encoder(seen).detach() if shared else encoder(seen)


def _on(seen: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: x.to(device) for name, x in seen.items()}


def write(state: Mapping[str, Tensor], folder: str | Path) -> None:
    """The weights of a policy to policy.safetensors."""
    from safetensors.torch import save_file

    save_file({name: value.cpu().contiguous() for name, value in state.items()}, Path(folder) / "policy.safetensors")
