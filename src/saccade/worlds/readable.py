"""Items of files that may be damaged: one that cannot be read costs itself, is told and counted, and no more."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class ReadableItems(Generic[Item]):
    """``count`` items that ``read`` makes of their numbers; it raises ValueError for one that cannot be read."""

    count: int
    read: Callable[[int], Item]
    unreadable: dict[int, str] = field(default_factory=dict, compare=False)
    """Why items could not be read, by their numbers."""

    def nearest(self, number: int) -> Item:
        """An item, or the next one that can be read. ValueError with the reason where none can."""
        for offset in range(self.count):
            found = self._found((number + offset) % self.count)
            if found:
                return found[0]
        raise ValueError(f"none of {self.count} can be read; {self.unreadable[number % self.count]}")

    def among(self, numbers: range) -> Iterator[Item]:
        """The items of these numbers that can be read."""
        for number in numbers:
            yield from self._found(number)

    def _found(self, number: int) -> list[Item]:
        if number in self.unreadable:
            return []
        try:
            return [self.read(number)]
        except ValueError as error:
            self.unreadable[number] = str(error)
            warnings.warn(f"{error}; left out ({len(self.unreadable)} of {self.count} so far)", stacklevel=2)
            return []
