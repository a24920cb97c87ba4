"""Q networks: N perceptrons of one shape side by side, one batched product a layer, on an encoder that they share."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm


class Ensemble(nn.Module):
    """``[B, sizes[0]] -> [N, B]``: a ReLU behind every layer but the last, with ``norm`` a LayerNorm before it; the
    last layer has one unit.

    Weights and biases are uniform within 1 / sqrt(fan in), independent between networks.
    """

    def __init__(self, count: int, sizes: Sequence[int], norm: bool = False):
        super().__init__()
        if count < 1 or len(sizes) < 1:
            raise ValueError(f"an ensemble has one network or more and some input, not {count} of {list(sizes)}")
        self.count, self.norm = count, norm
        shapes = list(zip(sizes, [*sizes[1:], 1]))
        uniform = lambda fan_in, *shape: nn.Parameter(torch.empty(count, *shape).uniform_(-1, 1) / math.sqrt(fan_in))
        self.weights = nn.ParameterList([uniform(fan_in, fan_in, fan_out) for fan_in, fan_out in shapes])
        self.biases = nn.ParameterList([uniform(fan_in, 1, fan_out) for fan_in, fan_out in shapes])
        normed = sizes[1:] if norm else []
        self.scales = nn.ParameterList([torch.ones(count, 1, width) for width in normed])
        self.shifts = nn.ParameterList([torch.zeros(count, 1, width) for width in normed])

    def forward(self, x_BF: Tensor, members: Tensor | None = None) -> Tensor:
        """Output of each network, or only of ``members`` (their indices): ``[N, B]``."""
        pick: Callable[[Tensor], Tensor] = (lambda p: p) if members is None else (lambda p: p[members])
        x = x_BF.expand(self.count if members is None else len(members), *x_BF.shape)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            x = torch.baddbmm(pick(bias), x, pick(weight))
            if i + 1 < len(self.weights):
                x = torch.relu(self._normed(x, i, pick) if self.norm else x)
        return x.squeeze(-1)

    def _normed(self, x: Tensor, i: int, pick: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.addcmul(pick(self.shifts[i]), layer_norm(x, x.shape[-1:]), pick(self.scales[i]))


class Critics(nn.Module):
    """Q values of observations and actions: an encoder, and an ensemble on its ``width`` features and the action."""

    def __init__(
        self,
        encoder: nn.Module,
        width: int,
        actions: int,
        count: int = 2,
        hidden: Sequence[int] = (256, 256),
        norm: bool = False,
    ):
        super().__init__()
        self.encoder, self.ensemble = encoder, Ensemble(count, (width + actions, *hidden), norm)

    def forward(self, observation: Mapping[str, Tensor], action_BA: Tensor, members: Tensor | None = None) -> Tensor:
        """Q values ``[N, B]``, or ``[len(members), B]``."""
        return self.ensemble(torch.cat([self.encoder(observation), action_BA], -1), members)


class Target:
    """A target network: a copy ``net`` of a network without gradients, which follows it by soft updates."""

    def __init__(self, source: nn.Module, tau: float):
        self.tau = tau
        self.net = copy.deepcopy(source).requires_grad_(False)
        self._net: list[Tensor] = list(self.net.parameters())
        self._source: list[Tensor] = list(source.parameters())

    @torch.no_grad()
    def soft_update(self) -> None:
        """net <- (1 - tau) net + tau source, in place."""
        torch._foreach_lerp_(self._net, self._source, self.tau)

    def state_dict(self) -> dict[str, Tensor]:
        return self.net.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.net.load_state_dict(state)
