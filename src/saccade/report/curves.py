"""Metrics to curves: one small chart a metric, runs overlaid, against steps, pictures made, or hours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

from saccade.naming import STANDARD_ERROR
from saccade.report.intervals import half_width
from saccade.report.record import Record, Section

POINTS = 400
_SMOOTHED_FROM = 40


def charts(
    records: Sequence[Record], section: str, families: Sequence[str], others: bool = False
) -> list[dict[str, Any]]:
    """Charts of the metrics whose family (the part before "/") is one of ``families``, or with ``others`` none of the
    known.

    A chart is {"name", "traces": [{"run", "steps", "images", "seconds", "y", "smooth"?, "low"?, "high"?}]}; curves of
    more than 400 points are averaged in equal bins, long ones get a smoothed line. Where a metric's standard error was
    logged with it, "low" and "high" are the ends of its 95 % interval.
    """
    present = [(i, record.section(section)) for i, record in enumerate(records)]
    parts = [(i, part) for i, part in present if part is not None]
    names = list(dict.fromkeys(name for _, part in parts for line in part.metrics for name in line))
    found = []
    for name in names:
        family = name.partition("/")[0] if "/" in name else ""
        if (
            name not in ("step", "time")
            and not name.endswith(STANDARD_ERROR)
            and (family in families or (others and family not in _KNOWN))
        ):
            traces = [trace | {"run": i} for i, part in parts if (trace := _trace(part, name))]
            # What was measured once, such as a reference beforehand, stands among the scores; it is no curve.
            found += [{"name": name, "traces": traces}] if any(len(trace["y"]) > 1 for trace in traces) else []
    return sorted(found, key=lambda chart: _rank(chart["name"], families))


def totals(section: Section) -> dict[str, float]:
    """Sums of what every step cost: name -> amount."""
    found: dict[str, float] = {}
    for line in section.metrics:
        for name, value in line.items():
            if name.startswith("cost/") and isinstance(value, (int, float)):
                found[name.removeprefix("cost/")] = found.get(name.removeprefix("cost/"), 0) + value
    return found


_KNOWN = ("reward", "eval", "health", "loss", "cost")


def _rank(name: str, families: Sequence[str]) -> int:
    family = name.partition("/")[0]
    return families.index(family) if family in families else len(families)


def _trace(section: Section, name: str) -> dict[str, Any] | None:
    made = list(accumulate(line.get("cost/images") or 0 for line in section.metrics))
    lines = [
        (line["step"], images, line.get("time", 0), line[name], half_width(line, name) or 0.0)
        for line, images in zip(section.metrics, made)
        if isinstance(line.get(name), (int, float))
    ]
    if not lines:
        return None
    steps, images, seconds, y, halves = map(list, zip(*_binned(lines)))
    trace = {"steps": steps, "images": images, "seconds": seconds, "y": y}
    if any(halves):
        return trace | {"low": [v - h for v, h in zip(y, halves)], "high": [v + h for v, h in zip(y, halves)]}
    return trace | ({"smooth": _smooth(y)} if len(y) >= _SMOOTHED_FROM else {})


def _binned(lines: list[tuple]) -> list[tuple]:
    """At most 400 points, each the mean of its bin."""
    if len(lines) <= POINTS:
        return lines
    edges = [round(i * len(lines) / POINTS) for i in range(POINTS + 1)]
    return [tuple(sum(column) / (b - a) for column in zip(*lines[a:b])) for a, b in pairwise(edges)]


def _smooth(y: Sequence[float]) -> list[float]:
    """Mean weighted both ways in time, so that it does not lag: m_t = sum_s a^|t-s| y_s / sum_s a^|t-s|, a =
    exp(-30/n).
    """
    memory = math.exp(-30 / len(y))
    fade = lambda values: list(accumulate(values, lambda kept, value: memory * kept + value))
    both = lambda values: [a + b - v for a, b, v in zip(fade(values), fade(values[::-1])[::-1], values)]
    return [total / weight for total, weight in zip(both(y), both([1.0] * len(y)))]
