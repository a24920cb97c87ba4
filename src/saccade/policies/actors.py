"""Actors of off-policy learning: observations -> an action in [-1, 1], from a squashed Gaussian or deterministic.

    a = tanh(u), u ~ N(m, s),   log pi(a) = log N(u) - sum 2 (log 2 - u - softplus(-2 u))

`envs.rescale.RescaleAction` gives an environment whose actions have other bounds this range.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class SquashedGaussian:
    """Actions from a Gaussian squashed by tanh; a trunk gives its means and log standard deviations ``[B, 2 A]``."""

    def rsample(self, output: Tensor, noise_BA: Tensor) -> tuple[Tensor, Tensor]:
        """The actions ``[B, A]`` of standard normal noise and their log-densities ``[B]``."""
        gaussian = self._before_tanh(output)
        u_BA = gaussian.sample(noise_BA)
        return torch.tanh(u_BA), squashed_log_prob(gaussian, u_BA)

    def act(self, output: Tensor, noise_BA: Tensor | None) -> tuple[Tensor, Tensor]:
        """The same; without noise tanh of the mean."""
        return self.rsample(output, torch.zeros_like(output.chunk(2, -1)[0]) if noise_BA is None else noise_BA)

    def _before_tanh(self, output: Tensor) -> Gaussian:
        mean, log_std = output.chunk(2, -1)
        return Gaussian(mean, log_std.clamp(*LOG_STD).exp())


@dataclass(frozen=True)
class Deterministic:
    """One action of an observation; a trunk gives it ``[B, A]`` before tanh."""

    action_noise: float = 0.1
    """Standard deviation of the noise with which it explores."""

    def rsample(self, output: Tensor, noise_BA: Tensor) -> tuple[Tensor, Tensor]:
        """The actions ``[B, A]``, which the noise does not change; log-densities of 0."""
        action_BA = torch.tanh(output)
        return action_BA, action_BA.new_zeros(len(action_BA))

    def act(self, output: Tensor, noise_BA: Tensor | None) -> tuple[Tensor, Tensor]:
        """The same, but standard normal noise is scaled by ``action_noise`` and added to the actions."""
        action_BA = torch.tanh(output)
        if noise_BA is not None:
            action_BA = (action_BA + self.action_noise * noise_BA).clamp(-1, 1)
        return action_BA, action_BA.new_zeros(len(action_BA))


class Actor(nn.Module):
    """A network ``trunk`` on the features of ``encoder``, and the ``head`` that makes actions of what it gives.

    The encoder learns with the actor unless it is ``shared`` with critics, from which alone it then learns: no gradient
    of the actor reaches it.
    """

    def __init__(
        self, encoder: nn.Module, trunk: nn.Module, head: SquashedGaussian | Deterministic, shared: bool = False
    ):
        super().__init__()
        self.encoder, self.trunk, self.head, self.shared = encoder, trunk, head, shared

    def rsample(self, observation: Mapping[str, Tensor], noise_BA: Tensor) -> tuple[Tensor, Tensor]:
        """The actions ``[B, A]`` of standard normal noise and their log-densities ``[B]``, with gradients."""
        return self.head.rsample(self._output(observation), noise_BA)

    @torch.no_grad()
    def act(self, observation: Mapping[str, Tensor], noise_BA: Tensor | None) -> Action:
        """Actions of all rows, on the CPU; without noise those that are most likely."""
        output = self._output({name: x.to(self.device) for name, x in observation.items()})
        action_BA, logp_B = self.head.act(output, None if noise_BA is None else noise_BA.to(self.device))
        return Action(action_BA.cpu(), logp_B.cpu())

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

    def _output(self, observation: Mapping[str, Tensor]) -> Tensor:
        features = self.encoder(observation)
        return self.trunk(features.detach() if self.shared else features)


def save_weights(state: Mapping[str, Tensor], folder: str | Path) -> None:
    """Write the weights of a policy to policy.safetensors."""
    from safetensors.torch import save_file

    save_file({name: value.cpu().contiguous() for name, value in state.items()}, Path(folder) / "policy.safetensors")
