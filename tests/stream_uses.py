"""Who opens which random stream while something runs: what `test_random.py` and the tests of recipes look at."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from saccade import random

OWN = {random.__file__, sys.modules["contextlib"].__file__}


class Use(NamedTuple):
    """One use of a stream: its name, the line that opened it, and the object that did, if that holds a seed.

    ``times`` counts the openings for initial weights, of which a stream has one.
    """

    name: str
    line: str
    owner: int
    times: int


class Uses:
    """The uses of each stream so far, by the stream's seed."""

    def __init__(self) -> None:
        self.of: dict[int, set[Use]] = defaultdict(set)
        self._alive: list[Any] = []
        self._weights: dict[int, int] = defaultdict(int)

    def __call__(self, derived: int, name: str) -> None:
        frame, weights = sys._getframe(1), False
        while frame.f_code.co_filename in OWN:
            weights |= frame.f_code.co_name == "initialized"
            frame = frame.f_back
        holder = frame.f_locals.get("self")
        owner = 0
        if isinstance(getattr(holder, "seed", None), int):
            owner = id(holder)
            self._alive.append(holder)
        self._weights[derived] += weights
        line = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        self.of[derived].add(Use(name, line, owner, self._weights[derived]))

    def shared(self) -> list[set[Use]]:
        """The streams with more than one use."""
        return [uses for uses in self.of.values() if len(uses) > 1]


@contextmanager
def recorded() -> Iterator[Uses]:
    """The uses of the streams that are opened inside."""
    uses = Uses()
    with random.watched(uses):
        yield uses
