"""95 % intervals of scores: from standard errors over episodes, and over runs that differ in their seed alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saccade.math.intervals import student
from saccade.naming import STANDARD_ERROR
from saccade.report.record import Record

WIDTH = 1.96
"""Standard errors from a mean to the ends of its 95 % interval."""


@dataclass(frozen=True)
class Interval:
    """A mean and the half width of its 95 % interval, None for a single value."""

    mean: float
    half: float | None = None


@dataclass(frozen=True)
class Seeds:
    """Runs that differ in their seed alone (run numbers), and for each score the intervals before and after."""

    runs: list[int]
    rows: list[tuple[str, Interval | None, Interval | None]]


def half_width(scores: Mapping[str, Any], name: str) -> float | None:
    """The half width of a score's 95 % interval, if the scores hold its standard error."""
    error = scores.get(f"{name}{STANDARD_ERROR}")
    return WIDTH * error if isinstance(error, (int, float)) else None


def over_seeds(records: Sequence[Record]) -> list[Seeds]:
    """Groups of two or more runs that differ in their seed alone, with Student's intervals over the runs."""
    groups: dict[str, dict[Any, int]] = {}
    for number, record in enumerate(records):
        groups.setdefault(_but_seed(record.config), {}).setdefault(record.config.get("seed"), number)
    return [found for runs in groups.values() if len(runs) > 1 and (found := _group(records, [*runs.values()])).rows]


def interval(values: Sequence[float]) -> Interval | None:
    """Mean and Student's 95 % interval of independent values; None if there are none."""
    if len(values) < 2:
        return Interval(values[0]) if values else None
    return Interval(*student(values))


def _group(records: Sequence[Record], runs: list[int]) -> Seeds:
    pairs = [records[number].scores() for number in runs]
    names = [
        name
        for name in dict.fromkeys(name for _, after in pairs for name in after)
        if not name.endswith(STANDARD_ERROR)
    ]
    known = lambda side, name: [pair[side][name] for pair in pairs if isinstance(pair[side].get(name), (int, float))]
    rows = [(name, interval(known(0, name)), interval(known(1, name))) for name in names]
    return Seeds(runs, [row for row in rows if row[1] or row[2]])


def _but_seed(config: Mapping[str, Any]) -> str:
    settings = {name: value for name, value in (config.get("settings") or {}).items() if name != "seed"}
    return json.dumps([config.get("recipe"), settings], sort_keys=True, default=str)
