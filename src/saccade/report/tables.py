"""Tables of the report: scores before and after, settings, cost, provenance."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saccade.naming import STANDARD_ERROR
from saccade.report.curves import totals
from saccade.report.intervals import half_width
from saccade.report.record import Record
from saccade.training.meter import duration


@dataclass(frozen=True)
class Row:
    """One line of a table: a name, a value for each column, and whether the values differ in a way to be marked."""

    name: str
    values: list[Any]
    differs: bool = False


@dataclass(frozen=True)
class Change:
    """A score before and after, with half the width of each one's 95 % interval where its standard error is known."""

    before: float | None
    after: float | None
    halves: tuple[float | None, float | None] = (None, None)

    @property
    def delta(self) -> float | None:
        if self.before is None or self.after is None:
            return None
        return (
            0.0 if math.isclose(self.before, self.after, rel_tol=1e-6) else self.after - self.before
        )  # what rounding left

    @property
    def shown_delta(self) -> float | None:
        """The change to as many digits as the scores are shown with."""
        near = self.after is not None and 0.001 <= abs(self.after) < 10
        return round(self.delta, 3) if self.delta is not None and near else self.delta

    @property
    def within(self) -> bool:
        """Whether the change is smaller than half the interval of the score after: it may be chance."""
        half = self.halves[1]
        return self.delta is not None and half is not None and abs(self.delta) <= half

    @property
    def track(self) -> tuple[float, float] | None:
        """The ends of a track in percent if the score lies in [0, 1]."""
        if self.before is None or self.after is None or not (0 <= self.before <= 1 and 0 <= self.after <= 1):
            return None
        return 100 * self.before, 100 * self.after


def headline(records: Sequence[Record]) -> list[Row]:
    """A row a score; a value a run: its change, or None where the run lacks the score."""
    pairs = [record.scores() for record in records]
    names = dict.fromkeys(
        name for before, after in pairs for name in (*after, *before) if not name.endswith(STANDARD_ERROR)
    )
    rows = [Row(name, [_change(name, before, after) for before, after in pairs]) for name in names]
    return [row for row in rows if any(row.values)]


def settings(records: Sequence[Record]) -> list[Row]:
    """A row a setting, those in which the runs differ first."""
    flat = [_flat(record.config.get("settings") or {}) for record in records]
    rows = []
    for name in dict.fromkeys(name for one in flat for name in one):
        values = [exact(one.get(name)) for one in flat]
        rows.append(Row(name, values, len(set(values)) > 1))
    return sorted(rows, key=lambda row: not row.differs)


def cost(records: Sequence[Record]) -> list[Row]:
    """Steps, sums of everything counted, time, and the machine; stages together."""
    sums = [_total(record) for record in records]
    return [
        Row(name, [text(one.get(name)) for one in sums]) for name in dict.fromkeys(name for one in sums for name in one)
    ]


def provenance(records: Sequence[Record]) -> list[Row]:
    """Provenance: preset, seed, machine, versions, commit, command."""
    found = [_origin(record.config) for record in records]
    rows = [
        (name, [exact(one[name]) for one in found])
        for name in found[0]
        if any(one[name] not in (None, {}) for one in found)
    ]
    own = ("started", "command")  # these differ between any two runs
    return [Row(name, values, name not in own and len(set(values)) > 1) for name, values in rows]


def text(value: Any) -> str:
    """A value for people: four digits, a true minus, groups of three in long integers, lists and dicts in JSON."""
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case int():
            return _signed(f"{value:,}".replace(",", "\u202f") if abs(value) >= 10_000 else str(value))
        case float() if value.is_integer() and abs(value) < 1e15:
            return text(int(value))
        case float():
            return _signed(f"{value:.3f}" if 0.001 <= abs(value) < 10 else f"{value:.4g}")
        case list() if all(v is None or isinstance(v, (str, int, float)) for v in value):
            return ", ".join(text(v) for v in value)
        case dict():
            return ", ".join(f"{k} {text(v)}" for k, v in value.items() if v not in (None, ""))
        case list():
            return json.dumps(value, ensure_ascii=False)
    return str(value)


def _signed(number: str) -> str:
    return f"−{number[1:]}" if number.startswith("-") else number


def exact(value: Any) -> str:
    """A setting as it was given: floats to six digits, integers in one piece."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{value:.6g}" if isinstance(value, float) else str(value)
    return text(value)


def _change(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Change | None:
    start, end = (scores[name] if isinstance(scores.get(name), (int, float)) else None for scores in (before, after))
    if start is None and end is None:
        return None
    return Change(start, end, (half_width(before, name), half_width(after, name)))


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {f"{prefix}{name}": value}
    return found


def _total(record: Record) -> dict[str, Any]:
    sums: dict[str, Any] = {}
    for section in record.sections:
        for name, value in totals(section).items():
            sums[name] = sums.get(name, 0) + value
    clocks = [max((line.get("time", 0) for line in section.metrics), default=0) for section in record.sections]
    result = record.sections[0].result
    steps = result.get("steps") or sum(max((m["step"] for m in s.metrics), default=0) for s in record.sections)
    seconds = result.get("seconds") if isinstance(result.get("seconds"), (int, float)) else 0
    named = {name.replace("_", " "): value for name, value in sums.items()}
    machine = {"machine": record.config["machine"]} if record.config.get("machine") else {}
    return {"steps": steps, **named, "time": duration(max(seconds, sum(clocks))), **machine}


def _origin(config: dict[str, Any]) -> dict[str, Any]:
    versions = config.get("versions") or {}
    return {
        "preset": config.get("preset"),
        "seed": config.get("seed"),
        "started": _minute(config.get("started")),
        "resumed": ", ".join(_minute(again.get("started")) or "" for again in config.get("resumed") or []) or None,
        "versions": versions,
        "commit": re.sub(r"^(\w{12})\w*", r"\1", str(config.get("commit") or "")) or None,
        "command": config.get("command"),
    }


def _minute(moment: Any) -> str | None:
    return f"{moment[:16].replace('T', ' ')} UTC" if isinstance(moment, str) else None
