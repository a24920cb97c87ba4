"""One optimizer step on a loss, and networks that gradients pass through without changing them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from saccade.training.learner import warmup
from saccade.training.settings import AdamW


class Descent:
    """An optimizer on some weights, with warmup and gradient clipping; ``name`` is that of the weights in errors."""

    def __init__(self, name: str, params: Iterable[nn.Parameter], optim: AdamW):
        self.name, self.params, self.optim, self.steps = name, list(params), optim, 0
        self.optimizer, self.warmup = optim.optimizer(self.params), warmup(optim.warmup)

    def __call__(self, loss: Tensor) -> Tensor:
        """One step; returns the norm of the gradient. FloatingPointError, and no step, where it is not finite."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.params, self.optim.max_grad_norm)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"the gradient of the {self.name} is {float(norm)}")
        for group in self.optimizer.param_groups:
            group["lr"] = self.optim.lr * self.warmup(self.steps)
        self.optimizer.step()
        self.steps += 1
        return norm

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]
        self.optimizer.load_state_dict(state["optimizer"])


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
