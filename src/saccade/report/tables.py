"""What the report says in rows: scores before and after, settings, cost, provenance, the verdict of a check."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from saccade.report.curves import totals
from saccade.report.record import Record
from saccade.training.meter import duration


@dataclass(frozen=True)
class Row:
    """One line of a table: a name, a value for each column, and whether the values differ."""

    name: str
    values: list[Any]
    differs: bool = False


@dataclass(frozen=True)
class Change:
    """A score before and after; ``low`` and ``high`` are the ends of a track in percent if it lies in [0, 1]."""

    before: float | None
    after: float | None

    @property
    def delta(self) -> float | None:
        return None if self.before is None or self.after is None else self.after - self.before

    @property
    def track(self) -> tuple[float, float] | None:
        if self.delta is None or not (0 <= self.before <= 1 and 0 <= self.after <= 1):
            return None
        return 100 * self.before, 100 * self.after


def headline(records: Sequence[Record]) -> list[Row]:
    """A row a score; a value a run: its change, or None where the run lacks the score."""
    pairs = [record.scores() for record in records]
    names = dict.fromkeys(name for before, after in pairs for name in (*after, *before))
    rows = [Row(name, [_change(before.get(name), after.get(name)) for before, after in pairs]) for name in names]
    return [row for row in rows if any(row.values)]


def settings(records: Sequence[Record]) -> list[Row]:
    """A row a setting, those in which the runs differ first."""
    flat = [_flat(record.config.get("settings") or {}) for record in records]
    rows = []
    for name in dict.fromkeys(name for one in flat for name in one):
        values = [one.get(name) for one in flat]
        rows.append(Row(name, values, any(value != values[0] for value in values)))
    return sorted(rows, key=lambda row: not row.differs)


def cost(records: Sequence[Record]) -> list[Row]:
    """Steps, sums of everything counted, and time, stages together."""
    sums = [_total(record) for record in records]
    return [Row(name, [one.get(name) for one in sums]) for name in dict.fromkeys(name for one in sums for name in one)]


def provenance(records: Sequence[Record]) -> list[Row]:
    """Where the numbers come from: preset, seed, machine, versions, commit, command."""
    found = [_origin(record.config) for record in records]
    rows = [Row(name, [one.get(name) for one in found]) for name in dict.fromkeys(name for one in found for name in one)]
    return [Row(row.name, row.values, any(v != row.values[0] for v in row.values)) for row in rows if any(row.values)]


def read_check(path: Path) -> dict[str, Any]:
    """A result of ``saccade check``: {"name", "holds", "facts", "claims", "scores", "arms"} with scores as mean ± spread.

    ``arms`` are rows of (arm, one cell a score); a cell is its text and the values of all seeds.
    """
    try:
        result = json.loads(path.read_text())
        arms = {arm: _by_score(seeds) for arm, seeds in (result.get("arms") or {}).items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is not the result of a check: {getattr(error, 'strerror', None) or 'unexpected content'}") from None
    scores = list(dict.fromkeys(score for found in arms.values() for score in found))
    facts = {name: result[name] for name in ("seeds", "date", "machine", "commit") if result.get(name) not in (None, "")}
    seconds = {"time": duration(result["seconds"])} if isinstance(result.get("seconds"), (int, float)) else {}
    claims = [claim for claim in result.get("claims") or [] if isinstance(claim, dict)]
    rows = [Row(arm, [found.get(score, []) for score in scores]) for arm, found in arms.items()]
    return {"name": result.get("name", path.stem), "holds": result.get("holds"), "facts": facts | seconds,
            "claims": claims, "scores": scores, "arms": rows}  # fmt: skip


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation over seeds."""
    if not values:
        return "–"
    return text(mean(values)) + (f" ± {stdev(values):.2g}" if len(values) > 1 else "")


def text(value: Any) -> str:
    """A value for people: four digits, groups of three in long integers, lists and dicts in JSON."""
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}".replace(",", "\u202f") if abs(value) >= 10_000 else str(value)
        case float() if value.is_integer() and abs(value) < 1e15:
            return text(int(value))
        case float():
            return f"{value:.3f}" if 0.001 <= abs(value) < 10 else f"{value:.4g}"
        case list() if all(isinstance(v, (str, int, float)) for v in value):
            return ", ".join(text(v) for v in value)
        case dict():
            return ", ".join(f"{k} {text(v)}" for k, v in value.items() if v is not None)
        case list():
            return json.dumps(value, ensure_ascii=False)
    return str(value)


def _change(before: Any, after: Any) -> Change | None:
    known = [x if isinstance(x, (int, float)) else None for x in (before, after)]
    return Change(*known) if known != [None, None] else None


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
    return {"steps": steps, **named, "time": duration(max(seconds, sum(clocks)))}


def _origin(config: dict[str, Any]) -> dict[str, Any]:
    versions = config.get("versions") or {}
    return {
        "preset": config.get("preset"),
        "seed": config.get("seed"),
        "started": config.get("started"),
        "resumed": len(config.get("resumed") or []) or None,
        "machine": config.get("machine"),
        "versions": versions,
        "commit": config.get("commit"),
        "command": config.get("command"),
    }


def _by_score(seeds: Any) -> dict[str, list[float]]:
    """Values of an arm's seeds under each score; an arm without seeds counts as one seed."""
    rows = list(seeds.values()) if isinstance(seeds, dict) else list(seeds)
    if rows and not all(isinstance(row, dict) for row in rows):
        rows = [seeds]
    found: dict[str, list[float]] = {}
    for row in rows:
        for score, value in row.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                found.setdefault(score, []).append(value)
    return found
