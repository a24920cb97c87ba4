"""What has been drawn before: the most recent pictures, up to a number of bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from saccade.tools.render.results import Render

_ENTRY_BYTES = 1024
"""What an entry costs without its picture."""


class Cache:
    """Renders by key; the least recently used go first."""

    def __init__(self, most_bytes: int) -> None:
        self._most, self._held = most_bytes, 0
        self._known: OrderedDict[Hashable, Render] = OrderedDict()

    def get(self, key: Hashable) -> Render | None:
        """What is known under ``key``."""
        if key in self._known:
            self._known.move_to_end(key)
        return self._known.get(key)

    def put(self, key: Hashable, render: Render) -> None:
        """Keep a render that is not known yet."""
        self._known[key] = render
        self._held += _cost(render)
        while self._held > self._most:
            self._held -= _cost(self._known.popitem(last=False)[1])


def _cost(render: Render) -> int:
    return _ENTRY_BYTES + (0 if render.picture is None else render.picture.nbytes)
