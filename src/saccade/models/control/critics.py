"""Critics: N perceptrons of one shape side by side, one batched product a layer, on an encoder that they share."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm


class Ensemble(nn.Module):
    """``[B, sizes[0]] -> [N, B]``: ReLU behind every layer, with ``norm`` a LayerNorm before it; the last layer has one
    unit.

    Weights and biases are uniform within 1 / sqrt(fan in), each network's its own.
    """

    def __init__(self, count: int, sizes: Sequence[int], norm: bool = False):
        super().__init__()
        if count < 1 or len(sizes) < 1:
            raise ValueError(f"an ensemble has one network or more and some input, not {count} of {list(sizes)}")
        self.count, self.norm = count, norm
        shapes = list(zip(sizes, [*sizes[1:], 1]))
        uniform = lambda narrow, *shape: nn.Parameter(torch.empty(count, *shape).uniform_(-1, 1) / math.sqrt(narrow))
        self.weights = nn.ParameterList([uniform(narrow, narrow, wide) for narrow, wide in shapes])
        self.biases = nn.ParameterList([uniform(narrow, 1, wide) for narrow, wide in shapes])
        normed = sizes[1:] if norm else []
        self.scales = nn.ParameterList([torch.ones(count, 1, wide) for wide in normed])
        self.shifts = nn.ParameterList([torch.zeros(count, 1, wide) for wide in normed])

    def forward(self, x_BF: Tensor, members: Tensor | None = None) -> Tensor:
        """What each network says, or only ``members`` (their indices): ``[N, B]``."""
        own = (lambda p: p) if members is None else (lambda p: p[members])
        x = x_BF.expand(self.count if members is None else len(members), *x_BF.shape)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            x = torch.baddbmm(own(bias), x, own(weight))
            if i + 1 < len(self.weights):
                x = torch.relu(self._normed(x, i, own) if self.norm else x)
        return x.squeeze(-1)

    def _normed(self, x: Tensor, i: int, own) -> Tensor:
        return torch.addcmul(own(self.shifts[i]), layer_norm(x, x.shape[-1:]), own(self.scales[i]))


class Critics(nn.Module):
    """What actions are worth in what is seen: an encoder, and an ensemble on its ``width`` features and the action."""

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

    def forward(self, seen: Mapping[str, Tensor], action_BA: Tensor, members: Tensor | None = None) -> Tensor:
        """``[N, B]``, or ``[len(members), B]``."""
        return self.ensemble(torch.cat([self.encoder(seen), action_BA], -1), members)


class Target:
    """A copy ``net`` of a network, that takes no gradients and follows it slowly."""

    def __init__(self, source: nn.Module, tau: float):
        self.tau = tau
        self.net = copy.deepcopy(source).requires_grad_(False)
        self._pairs = list(self.net.parameters()), list(source.parameters())

    @torch.no_grad()
    def soft_update(self) -> None:
        """net <- (1 - tau) net + tau source, in place, all weights at once."""
        torch._foreach_lerp_(*self._pairs, self.tau)

    def state_dict(self) -> dict[str, Tensor]:
        return self.net.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.net.load_state_dict(state)
