"""Pictures of transitions in memory, each stored once: what follows a transition is what the next one sees.

Only where no next one is stored (an episode's end, the newest transition) is the picture after it kept by itself,
aside.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


class FrameStore:
    """A ring of pictures ``[capacity, ...]`` and, for some of its places, the picture after."""

    def __init__(self, capacity: int, like: np.ndarray):
        """Room for pictures such as those of ``like`` ``[n, ...]``."""
        self.ring = np.zeros((capacity, *like.shape[1:]), like.dtype)
        self.aside = np.zeros((0, *like.shape[1:]), like.dtype)
        self.aside_of = np.full(capacity, -1)
        self.free: list[int] = []

    def put(self, places: np.ndarray, seen: np.ndarray) -> None:
        """Pictures into ``places``; what was kept aside for them is given up."""
        self.ring[places] = seen
        self.give_up(places)

    def keep(self, places: np.ndarray, after: np.ndarray) -> None:
        """Pictures after ``places``, aside."""
        if missing := max(len(places) - len(self.free), 0):
            size = len(self.aside)
            grown = size + max(missing, size // 2, 8)
            self.free += range(grown - 1, size - 1, -1)
            self.aside = np.concatenate([self.aside, np.zeros((grown - size, *self.aside.shape[1:]), self.aside.dtype)])
        taken = [self.free.pop() for _ in places]
        self.aside[taken], self.aside_of[places] = after, taken

    def share(self, before: np.ndarray, after: np.ndarray) -> None:
        """Where the picture kept aside for ``before`` is what the following transition at ``after`` sees, forget it."""
        same = self.aside[self.aside_of[before]] == self.ring[after]
        self.give_up(before[same.all(tuple(range(1, same.ndim)))])

    def give_up(self, places: np.ndarray) -> None:
        """Forget what is kept aside for ``places``."""
        held = self.aside_of[places]
        self.free += held[held >= 0].tolist()
        self.aside_of[places] = -1

    def after(self, places: np.ndarray, following: np.ndarray) -> np.ndarray:
        """Pictures after ``places``: those aside, else what ``following`` (places, -1 for none) see."""
        found = self.ring[following]
        held = self.aside_of[places]
        own = held >= 0
        if own.any():
            found[own] = self.aside[held[own]]
        return found

    def state_dict(self, filled: int) -> dict[str, Tensor]:
        places = np.flatnonzero(self.aside_of[:filled] >= 0)
        parts = {"ring": self.ring[:filled], "places": places, "after": self.aside[self.aside_of[places]]}
        return {name: torch.from_numpy(part) for name, part in parts.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        ring = state["ring"].numpy()
        self.__init__(len(self.ring), self.ring)
        self.ring[: len(ring)] = ring
        self.keep(state["places"].numpy(), state["after"].numpy())
