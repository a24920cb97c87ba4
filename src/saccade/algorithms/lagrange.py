"""Dual variables: what a limit weighs in a loss, learned so that the limit holds.

Minimise f where E[x] <= c: the Lagrangian is f + lambda (x - c), descended in the weights and ascended in lambda. SAC's
temperature is the dual of a least entropy (1812.05905), RePo's beta that of a most divergence.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn


class LagrangeMultiplier(nn.Module):
    """A positive number by its logarithm, which grows while what it limits is in excess and shrinks while there is
    room.

    ``ascent`` says of what the excess is a gradient: of "log" lambda, whose steps do not shrink with lambda (what SAC's
    implementations do), or of lambda itself ("value", the Lagrangian to the letter).
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
        """lambda: a scalar with its gradient."""
        return self.log.exp()

    def loss(self, excess: Tensor) -> Tensor:
        """What descending raises lambda by where ``excess`` = x - c is above 0: its shape; no gradient reaches
        ``excess``.
        """
        return -(self.log if self.ascent == "log" else self.value) * excess.detach()
