"""An LRU cache of renders, bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from saccade.tools.render.results import Render

_ENTRY_BYTES = 1024
"""Size of an entry without its picture."""


class Cache:
    """Renders by key; the least recently used are removed first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._bytes = max_bytes, 0
        self._renders: OrderedDict[Hashable, Render] = OrderedDict()

    def get(self, key: Hashable) -> Render | None:
        """The render of ``key``, None if it is not cached."""
        if key in self._renders:
            self._renders.move_to_end(key)
        return self._renders.get(key)

    def put(self, key: Hashable, render: Render) -> None:
        """Add a render of a new key."""
        self._renders[key] = render
        self._bytes += _size(render)
        while self._bytes > self._max_bytes:
            self._bytes -= _size(self._renders.popitem(last=False)[1])


def _size(render: Render) -> int:
    return _ENTRY_BYTES + (0 if render.picture is None else render.picture.nbytes)
