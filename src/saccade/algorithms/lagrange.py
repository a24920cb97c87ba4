"""Lagrange multipliers: the weight of a constraint in a loss, learned so that the constraint holds.

Minimize f where E[x] <= c: the Lagrangian is f + lambda (x - c), descended in the weights and ascended in lambda. SAC's
temperature is the multiplier of a least entropy (1812.05905), RePo's beta that of a largest divergence.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn


class LagrangeMultiplier(nn.Module):
    """A positive number, stored as its logarithm, that grows while its constraint is violated and shrinks while it
    holds with room.

    ``ascent``: the excess is the gradient of "log" lambda, whose steps do not shrink with lambda (as in SAC's
    implementations), or of lambda itself ("value", the Lagrangian literally). ValueError for another ``ascent`` and for
    a ``start`` that is not positive.
    """

    def __init__(self, start: float = 1.0, ascent: Literal["log", "value"] = "log"):
        super().__init__()
        if start <= 0:
            raise ValueError(f"a multiplier starts above 0, not at {start}")
        if ascent not in ("log", "value"):
            raise ValueError(f"unknown ascent '{ascent}': one of log, value")
        self.ascent = ascent
        self.log = nn.Parameter(torch.tensor(math.log(start)))

    @property
    def value(self) -> Tensor:
        """The multiplier lambda, a scalar with its gradient."""
        return self.log.exp()

    def loss(self, excess: Tensor) -> Tensor:
        """The loss whose descent raises lambda where ``excess`` = x - c is positive; of the shape of ``excess``, which
        gets no gradient.
        """
        return -(self.log if self.ascent == "log" else self.value) * excess.detach()
