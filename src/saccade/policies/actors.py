"""Actors of off-policy learning: observations -> an action in [-1, 1], from a squashed Gaussian or deterministic.

    a = tanh(u), u ~ N(m, s),   log pi(a) = log N(u) - sum 2 (log 2 - u - softplus(-2 u))

`envs.rescale.RescaleAction` gives an environment whose actions have other bounds this range.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from saccade.core import Action
from saccade.math.gaussians import Gaussian, squashed_log_prob

LOG_STD = (-20.0, 2.0)
"""Bounds of the logarithm of the standard deviation."""


class ReparameterizedActor(Protocol):
    """An actor whose actions are differentiable functions of its weights and of standard normal noise."""

    def rsample(self, observation: Mapping[str, Tensor], noise_BA: Tensor, /) -> tuple[Tensor, Tensor]:
        """Actions ``[B, A]`` and their log-densities ``[B]``, with gradients."""
        ...


class _Actor(nn.Module):
    """A network ``trunk`` on the features of ``encoder``, which learns with it unless it is shared with critics.

    A shared encoder learns from the critics alone: no gradient of the actor reaches it.
    """

    def __init__(self, encoder: nn.Module, trunk: nn.Module, shared: bool = False):
        super().__init__()
        self.encoder, self.trunk, self.shared = encoder, trunk, shared

    def _output(self, observation: Mapping[str, Tensor]) -> Tensor:
        features = self.encoder(observation)
        return self.trunk(features.detach() if self.shared else features)

    def _on_device(self, observation: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: x.to(self.device) for name, x in observation.items()}

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.trunk.parameters()).device

    @property
    def trained(self) -> list[nn.Parameter]:
        """The weights that the actor's updates change."""
        return [*([] if self.shared else self.encoder.parameters()), *self.trunk.parameters()]

    def export(self, folder: str | Path) -> None:
        """Write the weights to policy.safetensors."""
        save_weights(self.state_dict(), folder)


class SquashedActor(_Actor):
    """A Gaussian actor squashed by tanh; its trunk gives means and log standard deviations ``[B, 2 A]``."""

    def rsample(self, observation: Mapping[str, Tensor], noise_BA: Tensor) -> tuple[Tensor, Tensor]:
        """The actions ``[B, A]`` of standard normal noise and their log-densities ``[B]``, with gradients."""
        gaussian = self.gaussian(observation)
        u_BA = gaussian.sample(noise_BA)
        return torch.tanh(u_BA), squashed_log_prob(gaussian, u_BA)

    def gaussian(self, observation: Mapping[str, Tensor]) -> Gaussian:
        """The distribution before tanh: ``[B, A]``."""
        mean, log_std = self._output(observation).chunk(2, -1)
        return Gaussian(mean, log_std.clamp(*LOG_STD).exp())

    @torch.no_grad()
    def act(self, observation: Mapping[str, Tensor], noise_BA: Tensor | None) -> Action:
        """Actions of all rows, on the CPU; without noise tanh of the mean."""
        gaussian = self.gaussian(self._on_device(observation))
        u_BA = gaussian.mean if noise_BA is None else gaussian.sample(noise_BA.to(self.device))
        return Action(torch.tanh(u_BA).cpu(), squashed_log_prob(gaussian, u_BA).cpu())


class DeterministicActor(_Actor):
    """A deterministic actor; its trunk gives actions ``[B, A]`` before tanh.

    ``action_noise`` is the standard deviation of the noise with which it explores.
    """

    def __init__(self, encoder: nn.Module, trunk: nn.Module, shared: bool = False, action_noise: float = 0.1):
        super().__init__(encoder, trunk, shared)
        self.action_noise = action_noise

    def rsample(self, observation: Mapping[str, Tensor], noise_BA: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The actions ``[B, A]``, which the noise does not change, with gradients; log-densities of 0."""
        action_BA = torch.tanh(self._output(observation))
        return action_BA, action_BA.new_zeros(len(action_BA))

    @torch.no_grad()
    def act(self, observation: Mapping[str, Tensor], noise_BA: Tensor | None) -> Action:
        """Actions of all rows, on the CPU; standard normal noise is scaled by ``action_noise`` and added."""
        action_BA, logp_B = self.rsample(self._on_device(observation))
        if noise_BA is not None:
            action_BA = (action_BA + self.action_noise * noise_BA.to(self.device)).clamp(-1, 1)
        return Action(action_BA.cpu(), logp_B.cpu())


Actor = SquashedActor | DeterministicActor


def save_weights(state: Mapping[str, Tensor], folder: str | Path) -> None:
    """Write the weights of a policy to policy.safetensors."""
    from safetensors.torch import save_file

    save_file({name: value.cpu().contiguous() for name, value in state.items()}, Path(folder) / "policy.safetensors")
