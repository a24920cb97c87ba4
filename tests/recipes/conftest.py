"""Whenever a test trains a recipe, no two uses of a seed may share a random stream."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import pytest
from stream_uses import recorded

from saccade import catalog


@pytest.fixture(autouse=True)
def watched_streams(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every `train` of a recipe inside asserts that each stream it opened had one use."""
    name = request.module.__name__.rpartition(".")[2].removeprefix("test_")
    if name in catalog.recipes():
        catalog.load(name)
    for module in [m for n, m in sys.modules.items() if n.startswith("saccade.recipes.") and hasattr(m, "PRESETS")]:
        monkeypatch.setattr(module, "train", _watched(module.train))
    yield


def _watched(train: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(train)
    def watched(*given: Any, **named: Any) -> Any:
        with recorded() as uses:
            result = train(*given, **named)
        assert uses.of and not uses.shared(), "two uses of one seed share a generator"
        return result

    return watched
