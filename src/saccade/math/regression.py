"""How much of one thing can be read off another in a line: ridge regression, judged on rows it was not fitted to."""

from __future__ import annotations

import torch
from torch import Tensor


def explained(x_ND: Tensor, y_NK: Tensor, test_x_MD: Tensor, test_y_MK: Tensor, ridge: float = 1e-2) -> float:
    """The share of the spread of ``test_y`` that a linear map fitted to (x, y) explains (R^2), the mean over its K numbers.

    At most 1, and below 0 for a map that does worse than the mean. ``ridge`` is relative to the standardised x; numbers of
    y that do not vary are left out (NaN if none does).
    """
    x, y, test_x, test_y = (t.double() for t in (x_ND, y_NK, test_x_MD, test_y_MK))
    middle, spread = x.mean(0), x.std(0).clamp(min=1e-6)
    bias = lambda t: torch.cat([(t - middle) / spread, torch.ones(len(t), 1, dtype=t.dtype)], 1)
    a = bias(x)
    weights = torch.linalg.solve(a.T @ a + ridge * len(x) * torch.eye(a.shape[1], dtype=a.dtype), a.T @ y)
    left = ((test_y - bias(test_x) @ weights) ** 2).mean(0)
    whole = test_y.var(0, correction=0)
    varies = whole > 1e-9
    return float((1 - left[varies] / whole[varies]).mean())
