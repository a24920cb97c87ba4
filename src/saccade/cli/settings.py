"""Settings of a recipe as flat names and values, and back from the config.json of a run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from saccade.cli.parsing import flags
from saccade.naming import nearest

T = TypeVar("T")


def flat(settings: Any) -> dict[str, Any]:
    """Option names (``--model``) and values of a settings dataclass, those of the dataclasses in it included."""
    found: dict[str, Any] = {}
    for path, value in zip(flags(type(settings)), _leaves(settings)):
        found[path] = value
    return found


def _leaves(settings: Any) -> Iterator[Any]:
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            yield from _leaves(value)
        else:
            yield value


def revive(template: T, saved: Mapping[str, Any], place: str) -> T:
    """A copy of ``template`` with the ``saved`` values. ValueError if ``place`` speaks of other fields than it has."""
    types = {field.name: field.type for field in dataclasses.fields(template)}
    names = list(types)
    for name in saved:
        if name not in names:
            raise ValueError(
                f"{place} has the setting '{name}', which the recipe does not; nearest: {nearest(name, names)}"
            )
    values = {}
    for name in names:
        if name not in saved:
            raise ValueError(f"{place} lacks the setting '{name}', which the recipe has")
        present = getattr(template, name)
        inner = dataclasses.is_dataclass(present)
        values[name] = revive(present, saved[name], place) if inner else _tuples(saved[name])
        if saved[name] is None and types[name] in (float, "float"):
            values[name] = math.inf  # JSON has no infinity, and a run's config.json holds null for it
    return dataclasses.replace(template, **values)


def contradiction(given: Any, kept: Any) -> str | None:
    """The first option whose value differs, as "--steps 40 instead of 20"; None if all agree."""
    former = flat(kept)
    for name, value in flat(given).items():
        if value != former[name]:
            return f"{name} {words(value)} instead of {words(former[name])}"
    return None


def words(value: Any) -> str:
    """A value as it is written on the command line."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(inner) for inner in value) if isinstance(value, list) else value
