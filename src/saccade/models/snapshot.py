"""A second set of values of the trained weights: a frozen reference, a moving average, the old policy of NFT.

A snapshot of a LoRA policy taken at the start equals the adapter switched off; without LoRA it is a frozen copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from saccade.models.sharding import shard_like


class Snapshot:
    """Values of ``parameters`` as they are now; within ``with snapshot:`` the parameters have these values."""

    def __init__(self, parameters: Iterable[nn.Parameter]):
        self.parameters = list(parameters)
        self.values = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """values <- decay values + (1 - decay) parameters."""
        for value, parameter in zip(self.values, self.parameters):
            value.lerp_(parameter.detach(), 1 - decay)

    def ema_update(self, decay: float, every: int = 1) -> Callable[[int], None]:
        """The function to call after each optimizer step, with the number of steps taken, for a moving average.

        The average is updated after every ``every``-th step. The decay is `warm_decay`; with 0 the snapshot equals the
        parameters, at those steps. ValueError for a decay outside [0, 1] and for an interval below 1.
        """
        if not 0 <= decay <= 1:
            raise ValueError(f"the decay of a moving average is between 0 and 1, not {decay}")
        if every < 1:
            raise ValueError(f"a moving average is updated every 1 optimizer step or more, not {every}")

        def update(taken: int) -> None:
            if taken % every == 0:
                self.update(warm_decay(decay, taken))

        return update

    @torch.no_grad()
    def copy_to_parameters(self) -> None:
        """Set the parameters to these values permanently."""
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
            value.copy_(shard_like(value, state[str(i)]))

    @torch.no_grad()
    def _swap(self) -> None:
        # Contents are exchanged, not tensors: optimizers, hooks and shards keep their references.
        for parameter, value in zip(self.parameters, self.values):
            current = parameter.detach().clone()
            parameter.copy_(value)
            value.copy_(current)


def warm_decay(decay: float, step: int) -> float:
    """Decay of a moving average at step k: min((1 + k) / (10 + k), decay), so that the start is forgotten early."""
    return min((1 + step) / (10 + step), decay)
