"""A second set of values for the trained weights: frozen reference, moving average, the old policy of NFT.

The snapshot of a LoRA policy taken at the start is the adapter switched off, that of a full one a frozen copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from saccade.models.sharding import like


class Snapshot:
    """Values of ``parameters`` as they are now; ``with snapshot:`` puts them in place of the present ones."""

    def __init__(self, parameters: Iterable[nn.Parameter]):
        self.parameters = list(parameters)
        self.values = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """values <- decay values + (1 - decay) parameters."""
        for value, parameter in zip(self.values, self.parameters):
            value.lerp_(parameter.detach(), 1 - decay)

    def ema_update(self, decay: float) -> Callable[[int], None]:
        """What an `Update` does after its k-th step for this to be a moving average that forgets its start; 0 keeps up.

        ValueError for a decay that is no share.
        """
        if not 0 <= decay <= 1:
            raise ValueError(f"an average keeps a share of 0 to 1 of itself, not {decay}")
        return lambda taken: self.update(warm_decay(decay, taken))

    @torch.no_grad()
    def put(self) -> None:
        """Give the parameters these values for good."""
        for value, parameter in zip(self.values, self.parameters):
            parameter.copy_(value)

    def __enter__(self) -> Snapshot:
        self._swap()
        return self

    def __exit__(self, *_: object) -> None:
        self._swap()

    def state_dict(self) -> dict[str, Tensor]:
        return {str(i): value for i, value in enumerate(self.values)}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for i, value in enumerate(self.values):
            value.copy_(like(value, state[str(i)]))

    @torch.no_grad()
    def _swap(self) -> None:
        # The contents change places, not the tensors: optimisers, hooks and shards keep what they point to.
        for parameter, value in zip(self.parameters, self.values):
            present = parameter.detach().clone()
            parameter.copy_(value)
            value.copy_(present)


def warm_decay(decay: float, step: int) -> float:
    """Decay of a moving average that forgets its start: min((1 + k) / (10 + k), decay)."""
    return min((1 + step) / (10 + step), decay)
