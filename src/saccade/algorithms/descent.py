"""One descent step on some weights, and networks that gradients pass through without moving them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class ClippedAdam:
    """Adam on some weights, with the gradient clipped."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, max_norm: float):
        self.params, self.max_norm = list(params), max_norm
        self.optimizer = torch.optim.Adam(self.params, lr=lr, fused=True)

    def __call__(self, loss: Tensor) -> Tensor:
        """One step; the norm that the gradient had. A gradient that is not finite moves nothing."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.params, self.max_norm)
        if torch.isfinite(norm):
            self.optimizer.step()
        return norm


@contextmanager
def freeze(*modules: nn.Module) -> Iterator[None]:
    """Nothing in these networks takes gradients inside, though gradients pass through them."""
    open_ = [p for module in modules for p in module.parameters() if p.requires_grad]
    for p in open_:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in open_:
            p.requires_grad_(True)
