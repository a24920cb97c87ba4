"""One optimizer step on a loss, and networks that gradients pass through without changing them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from saccade.training.settings import AdamW


class Descent:
    """An optimizer on some weights, with gradient clipping; ``name`` is that of the weights in error messages."""

    def __init__(self, name: str, params: Iterable[nn.Parameter], optim: AdamW):
        self.name, self.params, self.max_grad_norm = name, list(params), optim.max_grad_norm
        self.optimizer = optim.optimizer(self.params)

    def __call__(self, loss: Tensor) -> Tensor:
        """One step; returns the norm of the gradient. FloatingPointError, and no step, where it is not finite."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.params, self.max_grad_norm)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"the gradient of the {self.name} is {float(norm)}")
        self.optimizer.step()
        return norm


@contextmanager
def freeze(*modules: nn.Module) -> Iterator[None]:
    """Within it, the weights of these networks get no gradients, though gradients pass through them."""
    unfrozen = [p for module in modules for p in module.parameters() if p.requires_grad]
    for p in unfrozen:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in unfrozen:
            p.requires_grad_(True)
