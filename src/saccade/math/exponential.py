"""The exponential of log-ratios, which may be of any size."""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST_EXPONENT = 20.0
"""Exponent from which on the exponential is continued by its tangent; implementations of GRPO bound it there, too."""


def bounded_exp(x: Tensor) -> Tensor:
    """exp(x) up to `LARGEST_EXPONENT`, above it the tangent there: finite, with a finite gradient that still pulls.

    A clamp would have no gradient there, and in exp(x) - x that of the wrong sign.
    """
    bound = LARGEST_EXPONENT
    exponential = x.clamp(max=bound).exp()
    return torch.where(x > bound, exponential.detach() * (1 + x - bound), exponential)
