"""Pictures of transitions in memory, each stored once: the observation after a transition is that of the next one.

Only where no next transition is stored (at an episode's end, after the newest transition) does the picture after it
have a place of its own, in a second array.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


class FrameStore:
    """A ring of pictures ``[capacity, ...]`` and, for some of its slots, the picture that follows.

    ``ring[slot]`` is the picture before a transition; ``final[final_of[slot]]`` is the picture after it where that is
    not the picture of another slot, and ``final_of[slot]`` is -1 elsewhere.
    """

    def __init__(self, capacity: int, like: np.ndarray):
        """Allocate room for pictures of the shape and type of ``like`` ``[n, ...]``."""
        self.ring = np.zeros((capacity, *like.shape[1:]), like.dtype)
        self._clear_final()

    def _clear_final(self) -> None:
        self.final = np.zeros((0, *self.ring.shape[1:]), self.ring.dtype)
        self.final_of = np.full(len(self.ring), -1)
        self.free: list[int] = []

    def put(self, slots: np.ndarray, pictures: np.ndarray) -> None:
        """Store pictures in ``slots`` and discard the final pictures of these slots."""
        self.ring[slots] = pictures
        self.discard_final(slots)

    def put_final(self, slots: np.ndarray, pictures: np.ndarray) -> None:
        """Store the pictures that follow ``slots``."""
        if missing := max(len(slots) - len(self.free), 0):
            size = len(self.final)
            grown = size + max(missing, size // 2, 8)
            self.free += range(grown - 1, size - 1, -1)
            self.final = np.concatenate([self.final, np.zeros((grown - size, *self.final.shape[1:]), self.final.dtype)])
        taken = [self.free.pop() for _ in slots]
        self.final[taken], self.final_of[slots] = pictures, taken

    def share(self, before: np.ndarray, after: np.ndarray) -> None:
        """Discard the final pictures of the slots ``before`` that equal the pictures of their successors ``after``."""
        same = self.final[self.final_of[before]] == self.ring[after]
        self.discard_final(before[same.all(tuple(range(1, same.ndim)))])

    def discard_final(self, slots: np.ndarray) -> None:
        """Free the final pictures of ``slots``."""
        stored = self.final_of[slots]
        self.free += stored[stored >= 0].tolist()
        self.final_of[slots] = -1

    def after(self, slots: np.ndarray, successor: np.ndarray) -> np.ndarray:
        """The pictures that follow ``slots``: their final ones, else those of their successors (-1 for none)."""
        pictures = self.ring[successor]
        final = self.final_of[slots]
        has_final = final >= 0
        if has_final.any():
            pictures[has_final] = self.final[final[has_final]]
        return pictures

    def state_dict(self, filled: int) -> dict[str, Tensor]:
        """The pictures of the first ``filled`` slots."""
        slots = np.flatnonzero(self.final_of[:filled] >= 0)
        parts = {"ring": self.ring[:filled], "slots": slots, "final": self.final[self.final_of[slots]]}
        return {name: torch.from_numpy(part) for name, part in parts.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        ring = state["ring"].numpy()
        self.ring[:] = 0
        self.ring[: len(ring)] = ring
        self._clear_final()
        self.put_final(state["slots"].numpy(), state["final"].numpy())
